//! The results of a plan for other tools: JUnit XML, TAP and JSON lines.

use super::lines::{because, plan_took};
use super::story::{Story, Verdict, elapsed};
use super::tail::Tail;
use crate::error::{CliError, Result};
use ostler_contracts::{PlanView, TestView};
use ostler_domain::{RunId, RunStatus};
use ostler_reports::{Case, Outcome, Property, Reason, Report, Rerun, Suite, WriteError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Where results are written to besides the screen.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Reports for other tools")]
pub(super) struct ReportArguments {
    /// Write JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write TAP 14.
    #[arg(long, value_name = "FILE")]
    tap: Option<PathBuf>,
    /// Write JSON lines, one of each test.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
}

type Writer = fn(&Report, BufWriter<File>) -> std::result::Result<(), WriteError>;

/// Files that are open, and how each is written. Opened before the tests begin, so that nobody waits for a report that
/// cannot be written.
pub(super) struct Files(Vec<(PathBuf, File, Writer)>);

impl ReportArguments {
    pub(super) fn open(&self) -> Result<Files> {
        let wanted: [(&Option<PathBuf>, Writer); 3] = [
            (&self.junit, |report, file| {
                finish(file, |out| ostler_reports::write_junit(report, out))
            }),
            (&self.tap, |report, file| {
                finish(file, |out| ostler_reports::write_tap(report, out))
            }),
            (&self.jsonl, |report, file| {
                finish(file, |out| ostler_reports::write_json_lines(report, out))
            }),
        ];
        let mut files = Vec::new();
        for (path, writer) in wanted {
            let Some(path) = path else { continue };
            let file = File::create(path)
                .map_err(|error| CliError::Usage(format!("cannot write {}: {error}", path.display())))?;
            files.push((path.clone(), file, writer));
        }
        Ok(Files(files))
    }
}

fn finish(
    mut file: BufWriter<File>,
    write: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<(), WriteError>,
) -> std::result::Result<(), WriteError> {
    write(&mut file)?;
    file.flush()?;
    Ok(())
}

impl Files {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn write(self, report: &Report) -> Result<()> {
        for (path, file, writer) in self.0 {
            writer(report, BufWriter::new(file))
                .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))?;
        }
        Ok(())
    }
}

/// All tests of a plan as one suite, in the order of the plan; and after it a suite for each test whose reports told of
/// single cases. Such a test is in the first one only if it says more than its cases do.
pub(super) fn report(
    plan: &PlanView,
    story: &Story,
    tails: &BTreeMap<RunId, Tail>,
    cases: &BTreeMap<RunId, Report>,
) -> Report {
    let mut tests: Vec<&TestView> = story.tests().collect();
    tests.sort_by_key(|test| test.index);
    let mut own = Suite {
        name: plan.name.clone(),
        duration: Some(plan_took(plan, plan.created_at.0)),
        properties: vec![property("plan", plan.id)],
        ..Suite::default()
    };
    let mut inner = Vec::new();
    for test in tests {
        let one = case(plan, test, story.earlier(&test.name), tails);
        // Cases of a test whose failure counts for nothing would count.
        let wanted =
            |report: &&Report| report.cases().next().is_some() && !matches!(one.outcome, Outcome::Skipped(_));
        let Some(report) = cases.get(&test.run_id).filter(wanted) else {
            own.cases.push(one);
            continue;
        };
        let told = report.cases().any(|(_, case)| case.outcome.is_bad());
        let plain = one.reruns.is_empty()
            && one.outcome.is_bad() == told
            && one.outcome.reason().is_none_or(|_| told);
        inner.push(expanded(test, &one, report));
        if !plain {
            own.cases.push(one);
        }
    }
    Report {
        name: Some(plan.name.clone()),
        suites: [own].into_iter().chain(inner).collect(),
        warnings: Vec::new(),
    }
}

/// The cases of one test as a suite of its name. What the reports call a suite becomes the class, where a case has none.
fn expanded(test: &TestView, one: &Case, report: &Report) -> Suite {
    let cases = report.cases().map(|(suite, case)| Case {
        class: case
            .class
            .clone()
            .or_else(|| Some(&suite.name).filter(|name| !name.is_empty()).cloned())
            .or_else(|| Some(test.name.clone())),
        ..case.clone()
    });
    Suite {
        name: test.name.clone(),
        duration: one.duration,
        properties: one.properties.clone(),
        stdout: one.stdout.clone(),
        stderr: one.stderr.clone(),
        cases: cases.collect(),
    }
}

fn case(plan: &PlanView, test: &TestView, earlier: &[TestView], tails: &BTreeMap<RunId, Tail>) -> Case {
    let mut reruns: Vec<Rerun> = earlier
        .iter()
        .map(|test| {
            let (stdout, stderr) = output(test, tails);
            Rerun {
                outcome: outcome(test),
                duration: Some(elapsed(test, test.created_at.0)),
                stdout,
                stderr,
            }
        })
        .collect();
    if test.flaky && reruns.is_empty() {
        // It was not seen, and yet there was one.
        let reason = Reason {
            message: Some("an earlier run failed".to_owned()),
            ..Reason::default()
        };
        reruns.push(Rerun {
            outcome: Outcome::Failed(reason),
            ..Rerun::default()
        });
    }
    let (stdout, stderr) = output(test, tails);
    let mut properties = vec![property("run", test.run_id), property("key", &test.key)];
    properties.extend(test.exit_code.map(|code| property("exit_code", code)));
    properties.extend(test.signal.map(|signal| property("signal", signal)));
    properties.extend(test.failure.map(|class| property("failure", class)));
    if let Some(metrics) = test.metrics {
        properties.push(property(
            "cpu_us",
            metrics.cpu_user_us.saturating_add(metrics.cpu_system_us),
        ));
        properties.push(property("peak_memory_bytes", metrics.peak_memory_bytes));
    }
    Case {
        name: test.name.clone(),
        class: Some(plan.name.clone()),
        outcome: outcome(test),
        duration: test.started_at.map(|_| elapsed(test, test.created_at.0)),
        stdout,
        stderr,
        properties,
        reruns,
    }
}

fn outcome(test: &TestView) -> Outcome {
    let reason = |kind: &str| Reason {
        message: because(test),
        kind: Some(kind.to_owned()),
        details: None,
    };
    match Verdict::of(test) {
        Some(Verdict::Passed | Verdict::Flaky) => Outcome::Passed,
        Some(Verdict::Failed) => Outcome::Failed(reason("failed")),
        Some(Verdict::TimedOut) => Outcome::Failed(reason("timed_out")),
        // As the formats have it: what fails and may.
        Some(Verdict::Tolerated) => Outcome::Skipped(reason("todo")),
        Some(Verdict::Skipped) => Outcome::Skipped(reason("skipped")),
        Some(Verdict::Cancelled) => Outcome::Skipped(reason("cancelled")),
        Some(Verdict::Lost) if test.status == RunStatus::Lost => Outcome::Error(reason("lost")),
        Some(Verdict::Lost) => Outcome::Error(reason("infrastructure")),
        None => Outcome::Error(reason("not_ended")),
    }
}

fn output(test: &TestView, tails: &BTreeMap<RunId, Tail>) -> (Option<String>, Option<String>) {
    tails
        .get(&test.run_id)
        .map_or((None, None), |tail| (tail.stdout.text(), tail.stderr.text()))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the same for texts, numbers and ids"
)]
fn property(name: &str, value: impl ToString) -> Property {
    Property {
        name: name.to_owned(),
        value: value.to_string(),
    }
}
