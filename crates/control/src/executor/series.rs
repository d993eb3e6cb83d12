//! What one slot executes: a run, and after it, as long as they may share its sandbox, the tests that wait behind it.
//!
//! A test that is kept apart inside its sandbox leaves it as it was. The next test of the same tenant with the same
//! requirements and the same files is executed there, too, which saves a sandbox for each, and ends when something else has
//! a better claim to the slot.

use super::{End, Executor, exec_id};
use crate::sandboxes::Holder;
use crate::{ControlError, Result};
use ostler_domain::{Pool, Run, Sandbox, TestIsolation};
use ostler_store::{ClaimRuns, Head, Pick};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long others of the same priority that need another sandbox may wait for one that serves a series.
const PATIENCE: Duration = Duration::from_secs(5);
/// Programs whose output a guest may be told to forget at the end of a run.
const STEPS: u32 = 2;

impl Executor {
    /// Executes a run, and those that follow it in its sandbox.
    pub(super) async fn series(&self, first: Run, pool: Option<Pool>, adopted: Option<Sandbox>) {
        let begun = Instant::now();
        let (mut next, mut sandbox) = (Some(first), adopted);
        while let Some(run) = next.take() {
            let id = run.submitted.id;
            let cancel = self.enter(&run);
            let done = self.execute(&run, pool.as_ref(), sandbox.take(), &cancel).await;
            self.leave(&run);
            let kept = match done {
                Ok(Some(kept)) => kept,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, run.id = %id, "the end of a run could not be written; it is taken up again at the next start");
                    return;
                }
            };
            next = match &pool {
                Some(_) => self.following(&run, begun).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the next test cannot be looked for; it is looked for elsewhere");
                    None
                }),
                None => None,
            };
            if next.as_ref().is_some_and(|next| follows(&run, next)) {
                sandbox = Some(kept);
            } else {
                self.give_up(&kept).await;
            }
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

    /// Executes a run to its end. Returns its sandbox if another test may be executed there; otherwise it is gone.
    async fn execute(
        &self,
        run: &Run,
        pool: Option<&Pool>,
        given: Option<Sandbox>,
        cancel: &CancellationToken,
    ) -> Result<Option<Sandbox>> {
        let id = run.submitted.id;
        let sandbox = match (given, pool) {
            (Some(sandbox), _) => sandbox,
            (None, Some(pool)) => {
                let holder = Holder {
                    for_run: true,
                    ..Holder::default()
                };
                match self.control.acquire(pool, run.submitted.tenant_id, holder).await {
                    Ok(claimed) => claimed.sandbox,
                    Err(error) => return self.put_back(run, error.to_string(), false).await.map(|()| None),
                }
            }
            (None, None) => return Ok(None),
        };
        // Before the first look at the sandbox, so that no loss is missed.
        let losses = self.control.losses.subscribe();
        let end = match self
            .control
            .store()
            .assign_sandbox(id, run.attempt, sandbox.id)
            .await
        {
            // Another server has the run now.
            Ok(false) => None,
            Ok(true) => Some(self.carry_out(run, &sandbox, cancel, losses).await),
            Err(error) => Some(End::Lost {
                reason: error.to_string(),
                started: false,
            }),
        };
        // The end is written before the sandbox goes, so that a server killed in between reads it again from there.
        let (written, unspoilt) = match end {
            None => (Ok(()), false),
            Some(End::Lost { reason, started }) => (self.put_back(run, reason, started).await, false),
            Some(End::Finished(ended)) => {
                let unspoilt = ended.unspoilt;
                (self.finish(run, *ended).await, unspoilt)
            }
        };
        if unspoilt && written.is_ok() && self.forget(run, &sandbox).await {
            return Ok(Some(sandbox));
        }
        self.give_up(&sandbox).await;
        written.map(|()| None)
    }

    /// Ends a sandbox that no run is executed in any more.
    async fn give_up(&self, sandbox: &Sandbox) {
        if let Err(error) = self.control.destroy(sandbox.id, "its run has ended").await {
            tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is not removed yet; it is tried again");
        }
    }

    /// Has the guest forget the programs of a run whose end is written. False if it does not.
    async fn forget(&self, run: &Run, sandbox: &Sandbox) -> bool {
        let Ok(guest) = self.control.guest(sandbox) else {
            return false;
        };
        let steps = STEPS + run.submitted.spec.commands.len() as u32;
        for index in 0..steps {
            if guest.release(&exec_id(run, index)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Claims the next run of the class of one that has ended, unless another class has a better claim to its slot: a
    /// higher priority, or as high a one and no more patience.
    async fn following(&self, run: &Run, begun: Instant) -> Result<Option<Run>, ControlError> {
        if self.abandon.is_cancelled() || self.stopping.is_cancelled() {
            return Ok(None);
        }
        let store = self.control.store();
        let submitted = &run.submitted;
        let classes = store.classes().await?;
        let own = classes.iter().find(|class| {
            class.tenant_id == submitted.tenant_id && class.requirements == submitted.requirements
        });
        let Some(own) = own.map(|class| class.id) else {
            return Ok(None);
        };
        let now = self.control.now();
        let servable: Vec<i64> = self.servable().into_iter().chain([own]).collect();
        let heads = store.heads(&servable, now).await?;
        let (mine, others): (Vec<&Head>, Vec<&Head>) = heads.iter().partition(|head| head.class == own);
        let Some(mine) = mine.into_iter().max_by_key(|head| head.priority) else {
            return Ok(None);
        };
        let better = |other: &&Head| {
            other.priority > mine.priority
                || (other.priority == mine.priority && other.seq < mine.seq && begun.elapsed() > PATIENCE)
        };
        if others.iter().any(better) {
            return Ok(None);
        }
        let claim = ClaimRuns {
            server_id: self.control.parts.server_id,
            classes: Vec::new(),
            limit: 1,
            now,
            picks: vec![Pick {
                class: own,
                priority: mine.priority,
                limit: 1,
            }],
            sandbox: None,
        };
        Ok(store.claim(claim).await?.pop())
    }
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
