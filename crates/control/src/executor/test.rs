//! Runs of tests: kept apart from others in their sandbox; what they used is noted, and what they left is kept.

use super::attempt::{Attempt, Interrupt};
use super::exec_id;
use crate::LogStream;
use crate::artifacts::{Artifacts, CASES};
use crate::guest::GuestError;
use futures::StreamExt;
use ostler_artifacts::Kept;
use ostler_domain::{
    Artifact, ArtifactId, CaseCounts, FailureClass, ReportFormat, ReportSource, RunOutcome, RunStatus,
    TestIsolation, TestMetrics, TestNetwork, TestReport, TestResult, TestSpec,
};
use ostler_guest_protocol::v1::collect_problem::Kind;
use ostler_guest_protocol::v1::{CollectRequest, CollectSummary, Exited, Isolation, Network};
use ostler_reports::{Format, Limits, Parsed, detect, read, write_json_lines};
use ostler_store::Change;
use std::io::Read;
use tokio::fs::File;
use tokio::io::AsyncSeekExt;
use tokio_util::io::ReaderStream;

/// Most bytes of all reports of one test, and most files.
const REPORTS: u64 = 256 << 20;
const REPORT_FILES: u64 = 1000;
/// Bytes that are read of an archive at once.
const PIECE: usize = 256 << 10;
/// Cases that a message names.
const NAMED: usize = 3;
/// Problems that are kept.
const PROBLEMS: usize = 20;

/// What the programs of an attempt have used so far.
#[derive(Debug, Default)]
pub(super) struct Measured {
    metrics: Option<TestMetrics>,
    /// Whether one could not be started at all.
    unstartable: bool,
}

impl Measured {
    /// What they used, where that is measured.
    pub(super) const fn metrics(&self) -> Option<TestMetrics> {
        self.metrics
    }

    /// Adds a program that has ended.
    pub(super) fn add(&mut self, exited: &Exited) {
        self.unstartable |= !exited.start_error.is_empty();
        let Some(used) = &exited.usage else { return };
        let sum = self.metrics.get_or_insert_default();
        sum.wall_us += used.wall_us;
        sum.cpu_user_us += used.user_us;
        sum.cpu_system_us += used.system_us;
        sum.peak_memory_bytes = sum.peak_memory_bytes.max(used.peak_memory_bytes);
        sum.read_bytes += used.read_bytes;
        sum.written_bytes += used.written_bytes;
        sum.voluntary_switches += used.voluntary_switches;
        sum.involuntary_switches += used.involuntary_switches;
    }
}

/// How the program of a test is kept apart from what else is in its sandbox.
pub(super) fn isolation(test: &TestSpec) -> Option<Isolation> {
    // One with a kernel of its own has the machine to itself, and may do with it as it likes.
    if test.isolation != TestIsolation::Test || test.kernel.is_some() {
        return None;
    }
    let network = match test.network {
        TestNetwork::None => Network::Own,
        TestNetwork::Sandbox => Network::Sandbox,
    };
    Some(Isolation {
        network: network.into(),
        keep_until_release: leaves_files(test),
        ..Isolation::default()
    })
}

fn leaves_files(test: &TestSpec) -> bool {
    let in_files = |report: &TestReport| matches!(report.source, ReportSource::Files(_));
    !test.artifacts.is_empty() || test.reports.iter().any(in_files)
}

impl Attempt<'_> {
    /// Runs the commands of a test, of which the first has the number `first`, and keeps what they leave.
    pub(super) async fn test(
        &mut self,
        test: &TestSpec,
        first: u32,
    ) -> Result<(RunStatus, RunOutcome), Interrupt> {
        // Where a sandbox cannot keep its programs apart from each other, this one is thrown away after the test.
        self.isolation = isolation(test).filter(|_| self.place.can_isolate);
        let ended = self.commands(first).await;
        let isolated = self.isolation.take().is_some();
        let (mut status, mut outcome) = ended?;
        self.unspoilt = isolated;
        let mut result = TestResult {
            metrics: self.measured.metrics,
            ..TestResult::default()
        };
        if status != RunStatus::Cancelled {
            let last = self.run.submitted.spec.commands.len().saturating_sub(1) as u32;
            let exec = exec_id(self.run, first + last);
            let from = if isolated { exec.as_str() } else { "" };
            self.take_reports(test, from, &mut result).await?;
            if test.kernel.is_none() {
                self.judge_cases(true, &mut status, &mut outcome, &mut result)
                    .await;
            }
            self.take_artifacts(test, from, &mut result).await?;
        }
        result.failure = match status {
            RunStatus::Failed if self.measured.unstartable => Some(FailureClass::Job),
            RunStatus::Failed | RunStatus::TimedOut => Some(FailureClass::Test),
            _ => None,
        };
        self.finish_result(result, &mut outcome);
        Ok((status, outcome))
    }

    pub(super) fn finish_result(&self, mut result: TestResult, outcome: &mut RunOutcome) {
        result.problems.truncate(PROBLEMS);
        outcome.log_seq = self.log_seq();
        outcome.test = Some(Box::new(result));
    }

    /// Copies files out of the sandbox into an archive; what is missing there is a problem of the test.
    async fn take(
        &self,
        from: &str,
        globs: &[String],
        (files, bytes): (u64, u64),
        result: &mut TestResult,
    ) -> Result<Option<File>, Interrupt> {
        // It has no name, so that nothing of it is left whatever happens to this process.
        let mut to = match tempfile::tempfile_in(self.executor.control.parts.logs.dir()) {
            Ok(file) => File::from_std(file),
            Err(error) => {
                result.problems.push(format!("files were not copied: {error}"));
                return Ok(None);
            }
        };
        let request = CollectRequest {
            exec_id: from.to_owned(),
            globs: globs.to_vec(),
            max_files: files,
            max_total: bytes,
            ..CollectRequest::default()
        };
        match self.guest.collect(request, &mut to).await {
            Ok(summary) => {
                result.problems.extend(told(&summary));
                match to.rewind().await {
                    Ok(_) => Ok(Some(to)),
                    Err(error) => {
                        result.problems.push(format!("files were not copied: {error}"));
                        Ok(None)
                    }
                }
            }
            Err(error @ GuestError::Unreachable(_)) => Err(error.into()),
            Err(error) => {
                result.problems.push(format!("files were not copied: {error}"));
                Ok(None)
            }
        }
    }

    /// Reads the reports that the sandbox has. That on the console is read by who looks after the machine.
    async fn take_reports(
        &mut self,
        test: &TestSpec,
        from: &str,
        result: &mut TestResult,
    ) -> Result<(), Interrupt> {
        self.take_output(test, result);
        for report in &test.reports {
            let ReportSource::Files(glob) = &report.source else {
                continue;
            };
            let globs = std::slice::from_ref(glob);
            let found = match self.take(from, globs, (REPORT_FILES, REPORTS), result).await? {
                Some(archive) => unpacked(archive.into_std().await, result),
                None => Vec::new(),
            };
            if found.is_empty() {
                result.problems.push(format!("no report is at `{glob}`"));
            }
            self.parse(report, found, result);
        }
        Ok(())
    }

    /// Reads the reports on standard output, before any others.
    pub(super) fn take_output(&mut self, test: &TestSpec, result: &mut TestResult) {
        self.parsed.clear();
        for report in test.reports.iter().filter(|r| r.source == ReportSource::Stdout) {
            let found = vec![("standard output".to_owned(), self.output())];
            self.parse(report, found, result);
        }
    }

    /// Reads a report, which may be several files.
    pub(super) fn parse(
        &mut self,
        report: &TestReport,
        found: Vec<(String, Vec<u8>)>,
        result: &mut TestResult,
    ) {
        for (name, bytes) in found {
            // On a console there is more than the report.
            let recognised = || match report.source {
                ReportSource::Console => Some(Format::Ktap),
                _ => detect(&bytes),
            };
            match format(report.format).or_else(recognised) {
                Some(format) => self.parsed.push((name, read(format, &bytes, &Limits::default()))),
                None => result
                    .problems
                    .push(format!("the report {name} is of no known format")),
            }
        }
    }

    /// Puts what the cases say into the outcome, and keeps them. `whole`: a report that breaks off is no success.
    pub(super) async fn judge_cases(
        &mut self,
        whole: bool,
        status: &mut RunStatus,
        outcome: &mut RunOutcome,
        result: &mut TestResult,
    ) {
        let parsed = std::mem::take(&mut self.parsed);
        judge(&parsed, whole, status, outcome, result);
        let mut lines = Vec::new();
        for (_, parsed) in &parsed {
            if let Err(error) = write_json_lines(&parsed.report, &mut lines) {
                result.problems.push(format!("cases are not kept: {error}"));
            }
        }
        if !lines.is_empty() {
            self.keep_own(CASES, lines, result).await;
        }
    }

    /// Keeps something of Ostler's own beside the other files of the test.
    pub(super) async fn keep_own(&mut self, path: &str, content: Vec<u8>, result: &mut TestResult) {
        let Some(artifacts) = self.artifacts() else { return };
        let mut archive = tar::Builder::new(Vec::with_capacity(content.len() + PIECE));
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let packed = archive
            .append_data(&mut header, path, content.as_slice())
            .and_then(|()| archive.into_inner());
        match packed {
            Ok(archive) => {
                drop(content);
                let stream = futures::stream::iter([Ok::<_, std::io::Error>(archive.into())]);
                let limits = artifacts.settings.limits(None, None);
                let now = self.executor.control.now();
                let run = self.run.submitted.id;
                let kept = artifacts.store.put(run, limits, now, stream).await;
                self.note(&kept, result);
            }
            Err(error) => result.problems.push(format!("{path} is not kept: {error}")),
        }
    }

    async fn take_artifacts(
        &mut self,
        test: &TestSpec,
        from: &str,
        result: &mut TestResult,
    ) -> Result<(), Interrupt> {
        let Some(artifacts) = self.artifacts().filter(|_| !test.artifacts.is_empty()) else {
            return Ok(());
        };
        let asked = test.artifact_limits;
        let limits = artifacts.settings.limits(asked.max_files, asked.max_bytes);
        let most = (u64::from(limits.files), limits.bytes);
        let Some(archive) = self.take(from, &test.artifacts, most, result).await? else {
            return Ok(());
        };
        let now = self.executor.control.now();
        let stream = ReaderStream::with_capacity(archive, PIECE).boxed();
        let kept = artifacts
            .store
            .put(self.run.submitted.id, limits, now, stream)
            .await;
        self.note(&kept, result);
        Ok(())
    }

    /// Notes what was kept, to be written with the end of the run.
    fn note(&mut self, kept: &Kept, result: &mut TestResult) {
        let submitted = &self.run.submitted;
        for file in &kept.files {
            if !self.left.insert(file.path.clone()) {
                let said = format!("{}: there is one of this name already", file.path);
                result.problems.push(said);
                continue;
            }
            result.artifacts += 1;
            self.with_end.push(Change::insert(&Artifact {
                id: ArtifactId::new(),
                tenant_id: submitted.tenant_id,
                run_id: submitted.id,
                plan_id: submitted.plan_id,
                path: file.path.clone(),
                bytes: i64::try_from(file.bytes).unwrap_or(i64::MAX),
                sha256: file.sha256.clone(),
                object: file.place.to_string(),
                created_at: kept.created_at,
                expires_at: None,
            }));
        }
        result
            .problems
            .extend(kept.problems.iter().map(ToString::to_string));
        if kept.more_problems > 0 {
            result
                .problems
                .push(format!("{} more files are not kept", kept.more_problems));
        }
    }

    fn artifacts(&self) -> Option<Artifacts> {
        self.executor.control.artifacts.clone()
    }

    /// What this attempt wrote to standard output, as far as it is in the log.
    fn output(&self) -> Vec<u8> {
        let mut output = Vec::new();
        let logs = &self.executor.control.parts.logs;
        let Ok(Some(mut reader)) = logs.reader(self.run.submitted.id) else {
            return output;
        };
        while let Ok(batch) = reader.next_batch() {
            if batch.is_empty() || output.len() as u64 > REPORTS {
                break;
            }
            for record in batch {
                if record.attempt == self.run.attempt && record.stream == LogStream::Stdout {
                    output.extend(record.bytes);
                }
            }
        }
        output
    }
}

/// What the cases say goes into the outcome: a report that has a bad case is no success, and one that breaks off is none
/// unless it could not be `whole`.
fn judge(
    parsed: &[(String, Parsed)],
    whole: bool,
    status: &mut RunStatus,
    outcome: &mut RunOutcome,
    result: &mut TestResult,
) {
    let mut cases = CaseCounts::default();
    let mut bad = Vec::new();
    let mut broken = None;
    for (name, parsed) in parsed {
        let counts = parsed.report.counts();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        cases.passed = cases.passed.saturating_add(number(counts.passed));
        cases.failed = cases.failed.saturating_add(number(counts.failed));
        cases.skipped = cases.skipped.saturating_add(number(counts.skipped));
        cases.errors = cases.errors.saturating_add(number(counts.errors));
        let failed = parsed.report.cases().filter(|(_, case)| case.outcome.is_bad());
        bad.extend(failed.take(NAMED).map(|(_, case)| case.name.as_str()));
        let warnings = parsed.report.warnings.iter();
        result
            .problems
            .extend(warnings.map(|w| format!("{name}, line {}: {}", w.line, w.message)));
        if let Some(error) = &parsed.error {
            let said = format!("the report {name} is not whole: {error}");
            result.problems.push(said.clone());
            if whole {
                broken.get_or_insert(said);
            }
        }
    }
    if !parsed.is_empty() {
        result.cases = Some(cases);
    }
    // What has no result because the end came first is an error, too.
    let errors = if whole { cases.errors } else { 0 };
    let failures = cases.failed.saturating_add(errors);
    let why = match (failures, broken) {
        (0, None) => return,
        (0, Some(broken)) => broken,
        (count, _) => {
            let more = if count as usize > bad.len().min(NAMED) {
                ", ..."
            } else {
                ""
            };
            bad.truncate(NAMED);
            format!("{count} cases did not pass: {}{more}", bad.join(", "))
        }
    };
    if *status == RunStatus::Succeeded {
        *status = RunStatus::Failed;
        outcome.error = Some(why);
    } else if let Some(error) = &mut outcome.error {
        *error = format!("{error}; {why}");
    }
}

const fn format(format: Option<ReportFormat>) -> Option<Format> {
    match format {
        Some(ReportFormat::Junit) => Some(Format::Junit),
        Some(ReportFormat::Tap) => Some(Format::Tap),
        Some(ReportFormat::Ktap) => Some(Format::Ktap),
        // With `--format json` or without: its text for people is told apart by its content.
        Some(ReportFormat::Libtest) | None => None,
        Some(ReportFormat::Nextest) => Some(Format::LibtestJson),
    }
}

fn told(summary: &CollectSummary) -> Vec<String> {
    let mut told: Vec<String> = summary
        .problems
        .iter()
        .map(|problem| {
            let what = match problem.kind() {
                Kind::Symlink => "a symbolic link is not followed",
                Kind::Special => "it is neither a file nor a directory",
                Kind::Large => "it is larger than a file may be",
                Kind::Many => "there are more files or bytes than may be kept",
                Kind::Unreadable => "it cannot be read",
                Kind::Changed => "it became shorter while it was read",
                Kind::Unspecified => "it is not kept",
            };
            let detail = if problem.detail.is_empty() {
                String::new()
            } else {
                format!(" ({})", problem.detail)
            };
            format!("{}: {what}{detail}", problem.path)
        })
        .collect();
    if summary.cut {
        told.push("there are more files than may be kept".to_owned());
    }
    told
}

/// The files of an archive of reports, each with its name.
fn unpacked(archive: std::fs::File, result: &mut TestResult) -> Vec<(String, Vec<u8>)> {
    let read = move || -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut bytes = Vec::new();
            entry.by_ref().take(REPORTS).read_to_end(&mut bytes)?;
            files.push((name, bytes));
        }
        Ok(files)
    };
    read().unwrap_or_else(|error| {
        result.problems.push(format!("reports were not read: {error}"));
        Vec::new()
    })
}
