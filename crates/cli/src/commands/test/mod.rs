//! `ostler test`.

mod cases;
mod follow;
mod lines;
mod problems;
mod report;
mod screen;
mod story;
mod tail;
#[cfg(test)]
mod tests;

super::noun!(Test {
    /// Submit a plan of tests and show how they go.
    ///
    /// What fails is shown at once, with the end of its output. Ctrl-C cancels the plan and waits for its end; a second one
    /// leaves at once, and `ostler test watch` comes back to it.
    #[command(after_help = EXIT_CODES)]
    Run(run),
    /// Show how the tests of a plan go, from the beginning.
    ///
    /// Ctrl-C leaves the plan as it is.
    #[command(after_help = EXIT_CODES)]
    Watch(watch),
    /// List plans, newest first.
    List(list),
    /// Show a plan and its tests.
    Show(show),
    /// Print what tests of a plan wrote: their output to standard output, their errors to standard error.
    Logs(logs),
    /// List or save the files that tests of a plan left.
    Artifacts(artifacts),
    /// Cancel what of a plan has not ended.
    Cancel(cancel),
    /// Execute the tests of a plan again, as a new plan, and show how they go.
    #[command(after_help = EXIT_CODES)]
    Rerun(rerun),
    /// Say what a plan waits for.
    Explain(explain),
    /// Show how a test ended each time, and what it used.
    History(history),
    /// List the tests that passed only when they were tried again, or both passed and failed on one commit; the flakiest
    /// first.
    Flaky(flaky),
    /// Put a test in quarantine, where its failures count for nothing; or list those that are there.
    Quarantine(quarantine),
    /// Take a test out of quarantine: its failures count again.
    Unquarantine(unquarantine),
    /// Find the commit that broke a test, by running it on the commits between a good one and a bad one.
    Bisect(bisect),
});

use crate::context::Session;
use crate::error::{CliError, Result};
use crate::table::{Colour, Fields, Table, one_line};
use crate::when::{ago, between};
use ostler_client::TestQuery;
use ostler_contracts::{PlanView, TestView};
use ostler_domain::PlanId;
use std::time::Duration;

/// What the commands that follow a plan end with.
const EXIT_CODES: &str = "\
Exit codes:
  0    every test passed; flaky ones passed, too, and failures that are tolerated count for nothing
  1    a test failed or timed out
  2    a mistake in the command line or in the plan
  3    there is no such plan
  4    refused: sign-in, permission, or it does not fit the present state
  5    no test failed, but some were lost by the infrastructure; or the server cannot be reached
  130  cancelled";

/// Tests that are named when a name fits several.
const SHOWN_CANDIDATES: usize = 5;
/// Runs that are asked for at once.
const PAGE: u32 = 1000;

impl Session {
    /// The tests of a plan that `text` names: the one of exactly this name, or else the only one whose name contains it.
    async fn test_named(&self, plan: PlanId, text: &str) -> Result<TestView> {
        let tests = self.client.all_plan_tests(plan).await?;
        named(tests, text)
    }

    /// All runs of one test of a plan, those that did not count among them, first to last.
    async fn runs_of_test(&self, plan: PlanId, name: &str) -> Result<Vec<TestView>> {
        let mut query = TestQuery {
            superseded: true,
            limit: Some(PAGE),
            ..TestQuery::default()
        };
        let mut runs: Vec<TestView> = Vec::new();
        loop {
            let page = self.client.plan_tests(plan, &query).await?;
            let full = page.len() == PAGE as usize;
            query.before_seq = page.last().map(|test| test.seq);
            runs.extend(page.into_iter().filter(|test| test.name == name));
            if !full {
                break;
            }
        }
        runs.sort_by_key(|test| test.ordinal);
        Ok(runs)
    }
}

fn named(tests: Vec<TestView>, text: &str) -> Result<TestView> {
    let mut found: Vec<TestView> = tests
        .into_iter()
        .filter(|test| test.name.contains(text))
        .collect();
    if let Some(exact) = found.iter().position(|test| test.name == text) {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        0 => Err(CliError::NotFound {
            what: "test",
            text: text.to_owned(),
            list: "test show PLAN",
        }),
        1 => Ok(found.swap_remove(0)),
        many => {
            let mut candidates: Vec<String> = found
                .iter()
                .take(SHOWN_CANDIDATES)
                .map(|test| one_line(&test.name))
                .collect();
            if many > SHOWN_CANDIDATES {
                candidates.push(format!("{} more", many - SHOWN_CANDIDATES));
            }
            Err(CliError::Ambiguous {
                what: "test",
                text: text.to_owned(),
                candidates: candidates.join(", "),
            })
        }
    }
}

fn fields(plan: &PlanView, colour: Colour) -> String {
    let status = plan.status.as_str();
    let cancelling = plan.cancel_requested && plan.counters.live() > 0;
    let labels: Vec<String> = plan
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Fields::new(colour)
        .add("Id", plan.id)
        .add("Name", one_line(&plan.name))
        .add(
            "Status",
            if cancelling {
                format!("{status} (being cancelled)")
            } else {
                status.to_owned()
            },
        )
        .add("Tests", counters(plan))
        .opt("Project", plan.project_id)
        .opt("Branch", plan.branch.as_ref())
        .opt("Fail fast", plan.fail_fast.then_some("yes"))
        .opt("At a time", plan.max_parallel)
        .opt("Labels", (!labels.is_empty()).then(|| labels.join(", ")))
        .opt("By", plan.created_by)
        .add("Created", ago(plan.created_at))
        .add("Took", between(plan.created_at, plan.finished_at))
        .render()
}

/// `12: 10 passed, 2 failed`.
fn counters(plan: &PlanView) -> String {
    let c = &plan.counters;
    let all = [
        (c.succeeded, "passed"),
        (c.failed, "failed"),
        (c.timed_out, "timed out"),
        (c.lost, "lost"),
        (c.skipped, "skipped"),
        (c.cancelled, "cancelled"),
        (c.running, "running"),
        (c.queued, "queued"),
        (c.held, "held"),
    ];
    let parts: Vec<String> = all
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    let tolerated = match c.tolerated {
        0 => String::new(),
        n => format!(" ({n} tolerated)"),
    };
    format!("{}: {}{tolerated}", plan.tests, parts.join(", "))
}

fn table(tests: &[TestView], colour: Colour) -> String {
    let mut table = Table::new(["TEST", "STATUS", "TRIES", "TOOK", "RUN", "WHY"], colour);
    for test in tests {
        let mut status = test.status.to_string();
        for (is, word) in [
            (test.flaky, "flaky"),
            (test.tolerated, "tolerated"),
            (test.held, "held"),
        ] {
            if is {
                status.push_str(" (");
                status.push_str(word);
                status.push(')');
            }
        }
        table.row([
            test.name.clone(),
            status,
            test.ordinal.to_string(),
            test.duration_us.map_or_else(|| "-".to_owned(), precise),
            test.run_id.to_string(),
            lines::because(test).unwrap_or_default(),
        ]);
    }
    table.or_empty("no tests")
}

/// Microseconds as seconds.
fn precise(microseconds: u64) -> String {
    format!("{:.3} s", Duration::from_micros(microseconds).as_secs_f64())
}
