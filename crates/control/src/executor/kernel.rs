//! Tests of kernels: each has a machine for itself, booted with its kernel, and how that kernel ends is a part of the result.
//!
//! Whatever the machine does is the test's doing: that its kernel panics, hangs or never gets as far as answering is an end
//! of the test and no fault of the sandbox. Only what comes from outside the machine is: a host that kills it, a driver that
//! does not answer. So the loss of the machine does not end the attempt here; it is looked into, with the console, which
//! is kept.

use super::Executor;
use super::attempt::{Attempt, Interrupt, tested_kernel};
use super::console::Console;
use super::verdict::{Found, Verdict};
use crate::probe;
use crate::sandboxes::{Loss, crash};
use ostler_domain::{
    FailureClass, Kernel, KernelEnd, ReportSource, Run, RunOutcome, RunStatus, SandboxId, TestResult,
    TestSpec,
};
use ostler_sandbox::console::{Kind, plain};
use ostler_sandbox::{Driver, DriverStatus, ExitInfo, MachineEnd};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempPath;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

/// Where the console is among the files that a test leaves.
const CONSOLE: &str = "ostler/console.log";
/// Largest kernel out of a project, bytes.
const LARGEST: u64 = 256 << 20;
/// Between two looks at a machine.
const STEP: Duration = Duration::from_millis(200);
/// How long it may take until it is known how a machine ended, after it did.
const NOTED: Duration = Duration::from_secs(3);
/// How long an end that is expected may take after the command that is to bring it about.
const PATIENCE: Duration = Duration::from_secs(10);
/// For an answer of a machine that is well.
const ANSWER: Duration = Duration::from_secs(3);

type Steps = Result<(RunStatus, RunOutcome), Interrupt>;

/// Why nothing more can be done on a machine.
enum Gone {
    /// It ended.
    Ended(ExitInfo),
    /// It runs and does not answer, and how that was seen.
    Silent(String),
}

impl Executor {
    /// The kernel of a run that has it in the files of its project, as a file that goes with the value; it is needed only
    /// until the machine has been started. `None` for all other runs. Fails with why there is none.
    pub(super) async fn kernel_of_project(&self, run: &Run) -> Result<Option<TempPath>, String> {
        let Some((_, kernel)) = tested_kernel(run).filter(|(_, kernel)| kernel.name.contains('/')) else {
            return Ok(None);
        };
        let name = &kernel.name;
        let submitted = &run.submitted;
        let Some(workspace) = &submitted.spec.workspace else {
            return Err(format!(
                "the kernel {name} is a file of a project, and the plan has none"
            ));
        };
        let control = &self.control;
        let told = |error: &dyn std::fmt::Display| format!("the kernel {name} cannot be read: {error}");
        let project = control
            .project_of(submitted.tenant_id, workspace.project_id)
            .await
            .map_err(|error| told(&error))?;
        let repository = control.repository(&project).map_err(|error| told(&error))?;
        let revision = workspace.head.as_deref().unwrap_or(&workspace.branch);
        let image = repository
            .file_up_to(revision, name, LARGEST)
            .await
            .map_err(|error| told(&error))?
            .ok_or_else(|| {
                format!(
                    "there is no file {name} at {revision} of the project {}",
                    project.name
                )
            })?;
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(control.parts.logs.dir())?;
            file.write_all(&image)?;
            Ok(file.into_temp_path())
        };
        write().map(Some).map_err(|error: std::io::Error| told(&error))
    }
}

impl Attempt<'_> {
    /// Runs a test on a machine that has been started for it.
    pub(super) async fn on_machine(
        &mut self,
        test: &TestSpec,
        kernel: &Kernel,
        losses: broadcast::Receiver<Loss>,
    ) -> Steps {
        let control = &self.executor.control;
        let driver = control.driver_of(self.sandbox).map_err(|error| Interrupt::Lost {
            reason: error.to_string(),
            started: false,
        })?;
        let id = self.sandbox.id;
        let mut console = Console::new(&driver, id, control.parts.logs.dir());
        let booted = AtomicBool::new(false);
        let stopped = {
            let steps = async {
                self.boot(&driver).await?;
                booted.store(true, Ordering::Relaxed);
                self.steps().await
            };
            tokio::select! {
                done = steps => Ok(done),
                gone = lost(&driver, id, losses, &booted) => Err(gone),
                () = console.follow(&booted) => Err(Gone::Silent("its kernel does not go on".into())),
            }
        };
        let (done, gone) = match stopped {
            Err(gone) => (None, Some(gone)),
            Ok(Err(Interrupt::Lost { reason, started })) => {
                let lost = Interrupt::Lost {
                    reason: reason.clone(),
                    started,
                };
                if self.executor.abandon.is_cancelled() {
                    return Err(lost);
                }
                match status(&driver, id).await {
                    Some(DriverStatus::Exited(exit)) => (None, Some(Gone::Ended(exit))),
                    Some(DriverStatus::Running) => (None, Some(Gone::Silent(reason))),
                    Some(DriverStatus::Gone) | None => return Err(lost),
                }
            }
            Ok(Err(Interrupt::Failed(error))) => {
                self.say(&error);
                let outcome = RunOutcome {
                    error: Some(error),
                    ..RunOutcome::default()
                };
                (Some((RunStatus::Failed, outcome)), None)
            }
            Ok(Ok((status, outcome))) => {
                let waits = matches!(status, RunStatus::Succeeded | RunStatus::Failed);
                let gone = match kernel.expect {
                    KernelEnd::Exit => None,
                    expected if waits => brought_about(&driver, id, &mut console, expected).await,
                    _ => None,
                };
                (Some((status, outcome)), gone)
            }
        };
        console.settle().await;
        let mut found = Found {
            kernel,
            commands: !self.run.submitted.spec.commands.is_empty(),
            end: None,
            booted: booted.into_inner(),
            silent: None,
            report: console.report(),
            last_words: console.last_words(),
            gone: gone.is_some(),
        };
        let over = matches!(&done, Some((RunStatus::TimedOut | RunStatus::Cancelled, _)));
        found.end = match gone {
            None => {
                // A kernel may say that it hangs, and go on: that is no end, unless it is what was to be shown.
                let hangs = self.stuck || over || kernel.expect == KernelEnd::Hang;
                match found.said(None, hangs) {
                    None if self.stuck => Some(KernelEnd::Hang),
                    None if !over => Some(KernelEnd::Exit),
                    said => said,
                }
            }
            Some(Gone::Ended(exit)) => {
                let end = found.said(exit.machine, false);
                let by_host = matches!(exit.machine, None | Some(MachineEnd::Host));
                if by_host && end.is_none() {
                    return Err(Interrupt::Lost {
                        reason: crash(&exit),
                        started: true,
                    });
                }
                end
            }
            Some(Gone::Silent(why)) => {
                found.silent = Some(why);
                let worse = |end: &KernelEnd| matches!(end, KernelEnd::Panic | KernelEnd::Oops);
                found.said(None, true).filter(worse).or(Some(KernelEnd::Hang))
            }
        };
        let (status, outcome) = done.unwrap_or_else(|| (self.over(), RunOutcome::default()));
        Ok(self.conclude(test, &found, console, status, outcome).await)
    }

    /// Waits until the guest answers.
    async fn boot(&mut self, driver: &Arc<dyn Driver>) -> Result<(), Interrupt> {
        let limit = Duration::from_secs(self.executor.control.parts.sandboxes.start_seconds.max(1));
        let id = self.sandbox.id;
        let lost = |reason: String| Interrupt::Lost {
            reason,
            started: true,
        };
        tokio::select! {
            ready = probe::ready(driver, id, limit) => {
                ready.map_err(|error| lost(format!("{error} (waited {limit:?})")))?;
            }
            () = self.cancel.cancelled() => return Err(lost("it was cancelled while its kernel started".into())),
            () = self.until_deadline() => return Err(lost("its time was over before its kernel had started".into())),
            () = self.executor.abandon.cancelled() => return Err(lost("the server was stopped".into())),
        }
        self.known = self.guest.programs().await?;
        Ok(())
    }

    /// How a run ends whose machine is of no use any more.
    fn over(&self) -> RunStatus {
        if self.cancel.is_cancelled() {
            RunStatus::Cancelled
        } else if self.is_over_time() {
            RunStatus::TimedOut
        } else {
            RunStatus::Failed
        }
    }

    /// Reads what there is to read of the reports, keeps the console, and compares the end of the kernel with what was
    /// expected.
    async fn conclude(
        &mut self,
        test: &TestSpec,
        found: &Found<'_>,
        console: Console,
        mut status: RunStatus,
        mut outcome: RunOutcome,
    ) -> (RunStatus, RunOutcome) {
        let collected = outcome.test.is_some();
        let mut result = outcome.test.take().map_or_else(
            || TestResult {
                metrics: self.measured.metrics(),
                ..TestResult::default()
            },
            |result| *result,
        );
        if found.end != Some(KernelEnd::Hang) {
            let passing = found
                .report
                .first(Kind::Hang)
                .map(|event| format!("its kernel said: {event}"));
            result.problems.extend(passing);
        }
        let (content, problems) = console.content();
        result.problems.extend(problems);
        let content = content.unwrap_or_else(|error| {
            result.problems.push(format!("the console is not kept: {error}"));
            Vec::new()
        });
        if !collected {
            self.take_output(test, &mut result);
        }
        if found.gone && !collected {
            lost_files(test, &mut result);
        }
        for report in test.reports.iter().filter(|r| r.source == ReportSource::Console) {
            let text = plain(&content).into_bytes();
            self.parse(report, vec![("console".to_owned(), text)], &mut result);
        }
        if status == RunStatus::Cancelled {
            outcome.error.get_or_insert_with(|| "it was cancelled".to_owned());
        } else {
            match found.verdict() {
                // The end of the command counts.
                Verdict::Exit => {}
                Verdict::Expected => {
                    status = RunStatus::Succeeded;
                    outcome.error = None;
                    self.say(&format!("as expected: {}", found.sentence()));
                }
                Verdict::Wrong(why) => {
                    if status != RunStatus::TimedOut {
                        status = RunStatus::Failed;
                    }
                    self.say(&why);
                    outcome.error = Some(match outcome.error.take() {
                        Some(error) => format!("{why}; {error}"),
                        None => why,
                    });
                }
            }
            // A kernel that ended in the middle of its report ended it, too.
            let whole = found.end == Some(KernelEnd::Exit);
            self.judge_cases(whole, &mut status, &mut outcome, &mut result)
                .await;
        }
        if !content.is_empty() {
            self.keep_own(CONSOLE, content, &mut result).await;
        }
        // Of one that was given up while it started nothing is known.
        let unknown = status == RunStatus::Cancelled && found.silent.is_some();
        result.kernel_end = found.end.filter(|_| !unknown);
        // Where not even its preparation came about, it is the fault of the job.
        let whose = if collected || found.gone {
            FailureClass::Test
        } else {
            FailureClass::Job
        };
        result.failure = match status {
            RunStatus::Failed | RunStatus::TimedOut => result.failure.or(Some(whose)),
            _ => None,
        };
        self.finish_result(result, &mut outcome);
        (status, outcome)
    }
}

/// What a test leaves in files goes with its machine.
fn lost_files(test: &TestSpec, result: &mut TestResult) {
    let files = test.reports.iter().filter_map(|report| match &report.source {
        ReportSource::Files(glob) => Some(glob),
        _ => None,
    });
    for glob in files.chain(&test.artifacts) {
        result
            .problems
            .push(format!("what is at `{glob}` was lost with the machine"));
    }
}

/// The status of a machine; of one that has ended, as soon as it is known how. `None` where the driver does not say.
async fn status(driver: &Arc<dyn Driver>, id: SandboxId) -> Option<DriverStatus> {
    let begun = Instant::now();
    loop {
        let status = driver.status(id).await.ok()?;
        match &status {
            // QEMU is gone a moment before what it said last is written down.
            DriverStatus::Exited(exit) if exit.machine.is_none() && begun.elapsed() < NOTED => {
                sleep(STEP).await;
            }
            _ => return Some(status),
        }
    }
}

/// Waits until a machine ends or does not answer any more. That it does not answer while it starts is no news.
async fn lost(
    driver: &Arc<dyn Driver>,
    id: SandboxId,
    mut losses: broadcast::Receiver<Loss>,
    booted: &AtomicBool,
) -> Gone {
    loop {
        // Looked at, too: that it ended may have been told before anybody listened.
        let loss = tokio::select! {
            loss = losses.recv() => match loss {
                Ok(loss) if loss.sandbox() == id => Some(loss),
                Ok(_) | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => std::future::pending().await,
            },
            () = sleep(5 * STEP) => None,
        };
        match (status(driver, id).await, loss) {
            (Some(DriverStatus::Exited(exit)), _) => return Gone::Ended(exit),
            (Some(DriverStatus::Running), Some(Loss::Unhealthy(_, why)))
                if booted.load(Ordering::Relaxed) =>
            {
                return Gone::Silent(why);
            }
            // Where the driver does not say anything, the steps find out.
            _ => {}
        }
    }
}

/// Waits for an end that is expected: the command that is to bring it about may have ended before it.
async fn brought_about(
    driver: &Arc<dyn Driver>,
    id: SandboxId,
    console: &mut Console,
    expected: KernelEnd,
) -> Option<Gone> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        console.catch_up().await;
        if let Some(DriverStatus::Exited(exit)) = status(driver, id).await {
            return Some(Gone::Ended(exit));
        }
        let shows = matches!(expected, KernelEnd::Oops | KernelEnd::Oom | KernelEnd::Hang);
        if shows && console.report().end(None) == Some(expected) {
            return None;
        }
        if expected == KernelEnd::Hang
            && let Err(error) = probe::check(driver, id, ANSWER).await
        {
            return Some(Gone::Silent(error.to_string()));
        }
        sleep(STEP).await;
    }
    None
}
