//! What one slot executes: a run, and after it, as long as they may share its sandbox, the tests that wait behind it.
//!
//! A test that is kept apart inside its sandbox leaves it as it was. The next test of the same tenant with the same
//! requirements and the same files is executed there, too, which saves a sandbox for each, and ends when something else has
//! a better claim to the slot.

use super::attempt::{Finished, Unspoilt};
use super::dispatch::Place;
use super::{End, Executor};
use crate::sandboxes::{Boot, Holder};
use crate::{ControlError, Result};
use futures::FutureExt;
use ostler_domain::{FailureClass, Pool, Run, RunOutcome, RunStatus, Sandbox, TestIsolation, TestResult};
use ostler_store::{ClaimRuns, Head};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long others of no higher priority may wait for one that serves a series; then the scheduler decides anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long others of a higher priority may.
const LOOK: Duration = Duration::from_millis(100);

impl Executor {
    /// Executes a run, and those that follow it in its sandbox. An adopted one has no place: none follows it.
    pub(super) async fn series(&self, first: Run, place: Option<Place>, adopted: Option<Sandbox>) {
        let mut since = Since::now(place.as_ref());
        let mut next = Some(Next {
            run: first,
            given: adopted.map(Given::new),
        });
        while let Some(Next { run, given }) = next.take() {
            let cancel = self.enter(&run);
            let done = self
                .execute(&run, place.as_ref(), given, &mut since, &cancel)
                .await;
            self.leave(&run);
            next = done.unwrap_or_else(|error| {
                unwritten(&run, &error);
                None
            });
        }
    }

    /// Registers a run as one that is executed here. Returns what ends it.
    fn enter(&self, run: &Run) -> CancellationToken {
        let cancel = CancellationToken::new();
        if run.cancel_requested {
            cancel.cancel();
        }
        self.lock()
            .insert((run.submitted.id, run.attempt), cancel.clone());
        cancel
    }

    fn leave(&self, run: &Run) {
        self.lock().remove(&(run.submitted.id, run.attempt));
    }

    /// Executes a run to its end. Returns what is executed next, if that was claimed with it.
    async fn execute(
        &self,
        run: &Run,
        place: Option<&Place>,
        given: Option<Given>,
        since: &mut Since,
        cancel: &CancellationToken,
    ) -> Result<Option<Next>> {
        let id = run.submitted.id;
        let Given { sandbox, served } = match (given, place) {
            (Some(given), _) => given,
            (None, Some(place)) => {
                let pool = &place.pool;
                let mut boot = self.boot(run, pool);
                let own_kernel = boot.is_some();
                // It is needed only until the machine has been started.
                let image = match self.kernel_of_project(run).await {
                    Ok(image) => image,
                    Err(why) => {
                        self.arrived(id);
                        return self.finish(run, unbootable(why)).await.map(|()| None);
                    }
                };
                if let (Some(boot), Some(image)) = (&mut boot, &image) {
                    boot.kernel = image.display().to_string();
                }
                let holder = Holder {
                    for_run: true,
                    on: place.host.clone(),
                    boot,
                    ..Holder::default()
                };
                let acquired = self.control.acquire(pool, run.submitted.tenant_id, holder).await;
                self.arrived(id);
                match acquired {
                    Ok(claimed) => Given::new(claimed.sandbox),
                    // No host can do it, and none will.
                    Err(ControlError::Unprocessable(why)) if own_kernel => {
                        return self.finish(run, unbootable(why)).await.map(|()| None);
                    }
                    // One that never gets its kernel started must not be tried for ever.
                    Err(error) => {
                        let reason = error.to_string();
                        return self.put_back(run, reason, own_kernel).await.map(|()| None);
                    }
                }
            }
            (None, None) => return Ok(None),
        };
        // Before the first look at the sandbox, so that no loss is missed.
        let losses = self.control.losses.subscribe();
        // One that follows was claimed together with it.
        let assigned = if served.is_some() && run.sandbox_id == Some(sandbox.id) {
            Ok(true)
        } else {
            let store = self.control.store();
            store.assign_sandbox(id, run.attempt, sandbox.id).await
        };
        let end = match assigned {
            // Another server has the run now.
            Ok(false) => None,
            Ok(true) => Some(guarded(run, self.carry_out(run, &sandbox, cancel, losses, served)).await),
            Err(error) => Some(End::Lost {
                reason: error.to_string(),
                started: false,
            }),
        };
        // The end is written before the sandbox goes, so that a server killed in between reads it again from there.
        let written = match end {
            None => Ok(()),
            Some(End::Lost { reason, started }) => self.put_back(run, reason, started).await,
            Some(End::Finished(mut ended)) => match ended.unspoilt.take() {
                None => self.finish(run, *ended).await,
                Some(unspoilt) => return self.pass_on(run, *ended, unspoilt, sandbox, since).await,
            },
        };
        self.give_up(&sandbox).await;
        written.map(|()| None)
    }

    /// Writes the end of a run and claims the next one for its sandbox, both at once: one wait for the disk serves both.
    async fn pass_on(
        &self,
        run: &Run,
        ended: Finished,
        unspoilt: Unspoilt,
        sandbox: Sandbox,
        since: &mut Since,
    ) -> Result<Option<Next>> {
        let end = self.end_of(run, ended).await;
        let (written, next) = tokio::join!(self.write_end(run, end), self.following(since, &sandbox));
        let next = next.unwrap_or_else(|error| {
            tracing::warn!(%error, "the next test cannot be looked for; it is looked for elsewhere");
            None
        });
        let Some(next) = next else {
            self.give_up(&sandbox).await;
            return written.map(|()| None);
        };
        let follows = follows(run, &next);
        let given = match &written {
            Ok(()) if follows => Some(Given {
                sandbox,
                served: Some(unspoilt),
            }),
            _ => {
                self.give_up(&sandbox).await;
                None
            }
        };
        if let Err(error) = written {
            unwritten(run, &error);
        }
        Ok(Some(Next { run: next, given }))
    }

    /// The kernel that is started for a run, unless it is content with what the pool has.
    pub(super) fn boot(&self, run: &Run, pool: &Pool) -> Option<Boot> {
        let submitted = &run.submitted;
        let offer = self.control.offer(pool)?;
        let tested = submitted.spec.test.as_ref().and_then(|test| test.kernel.as_ref());
        let Some(tested) = tested else {
            let kernel = submitted.requirements.other_kernel(&offer)?.to_owned();
            return Some(Boot {
                kernel,
                args: Vec::new(),
                tested: false,
            });
        };
        let known = offer.kernel(&tested.name).map(|kernel| kernel.name.clone());
        Some(Boot {
            kernel: known.unwrap_or_else(|| tested.name.clone()),
            args: tested.args.clone(),
            tested: true,
        })
    }

    /// Ends a sandbox that no run is executed in any more.
    async fn give_up(&self, sandbox: &Sandbox) {
        if let Err(error) = self.control.destroy(sandbox.id, "its run has ended").await {
            tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is not removed yet; it is tried again");
        }
    }

    /// Claims the next run of the class of a series, unless others have a better claim to its slot: a higher priority, or
    /// no more patience.
    async fn following(&self, since: &mut Since, sandbox: &Sandbox) -> Result<Option<Run>, ControlError> {
        let Some(own) = since.class else {
            return Ok(None);
        };
        if self.abandon.is_cancelled() || self.stopping.is_cancelled() {
            return Ok(None);
        }
        let store = self.control.store();
        let now = self.control.now();
        if since.looked.elapsed() > LOOK {
            since.looked = Instant::now();
            let servable: Vec<i64> = self.servable().into_iter().chain([own]).collect();
            let heads = store.heads(&servable, now).await?;
            let (mine, others): (Vec<&Head>, Vec<&Head>) = heads.iter().partition(|head| head.class == own);
            let mine = mine.into_iter().map(|head| head.priority).max();
            let patient = since.begun.elapsed() < PATIENCE;
            if others.iter().any(|other| !patient || Some(other.priority) > mine) {
                return Ok(None);
            }
        }
        let claim = ClaimRuns {
            server_id: self.control.parts.server_id,
            classes: vec![own],
            limit: 1,
            now,
            picks: Vec::new(),
            sandbox: Some(sandbox.id),
        };
        Ok(store.claim(claim).await?.pop())
    }
}

/// What a slot executes next, and where, if that is known.
struct Next {
    run: Run,
    given: Option<Given>,
}

/// A sandbox in which a run is executed.
struct Given {
    sandbox: Sandbox,
    /// What the test before this one left of it.
    served: Option<Unspoilt>,
}

impl Given {
    const fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            served: None,
        }
    }
}

/// How a series is going.
struct Since {
    class: Option<i64>,
    begun: Instant,
    /// When others were last looked at.
    looked: Instant,
}

impl Since {
    fn now(place: Option<&Place>) -> Self {
        Self {
            class: place.map(|place| place.class),
            begun: Instant::now(),
            looked: Instant::now(),
        }
    }
}

fn unwritten(run: &Run, error: &ControlError) {
    tracing::error!(%error, run.id = %run.submitted.id, "the end of a run could not be written; it is taken up again at the next start");
}

/// The end of a run whose kernel no host can start.
fn unbootable(why: String) -> Finished {
    let result = TestResult {
        failure: Some(FailureClass::Job),
        ..TestResult::default()
    };
    Finished {
        status: RunStatus::Failed,
        outcome: RunOutcome {
            error: Some(why),
            test: Some(Box::new(result)),
            ..RunOutcome::default()
        },
        then: Vec::new(),
        unspoilt: None,
    }
}

/// A panic is a fault of Ostler: it ends this run, with a word of that, and nothing else.
async fn guarded(run: &Run, attempt: impl Future<Output = End>) -> End {
    let panic = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(end) => return end,
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no reason was given".to_owned());
    tracing::error!(run.id = %run.submitted.id, panic = text, "a run could not be executed to its end; this is a fault of Ostler");
    let test = run.submitted.spec.test.is_some().then(|| TestResult {
        failure: Some(FailureClass::Bug),
        ..TestResult::default()
    });
    End::Finished(Box::new(Finished {
        status: RunStatus::Failed,
        outcome: RunOutcome {
            error: Some(format!(
                "Ostler could not execute it to its end, which is a fault of Ostler: {text}"
            )),
            test: test.map(Box::new),
            ..RunOutcome::default()
        },
        then: Vec::new(),
        unspoilt: None,
    }))
}

/// Whether a run may be executed in the sandbox of another that has ended.
fn follows(ended: &Run, next: &Run) -> bool {
    let (ended, next) = (&ended.submitted, &next.submitted);
    let (Some(one), Some(other)) = (&ended.spec.test, &next.spec.test) else {
        return false;
    };
    other.isolation == TestIsolation::Test
        && one.kernel.is_none()
        && other.kernel.is_none()
        && ended.tenant_id == next.tenant_id
        && ended.spec.workspace == next.spec.workspace
}
