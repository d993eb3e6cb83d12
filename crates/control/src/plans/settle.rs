//! How a plan goes on: what its held tests wait for, its end, and what was not told yet.

use super::decide::{Held, decide};
use crate::conflict::retry_on_conflict;
use crate::{Control, ControlError, Result};
use ostler_contracts::PlanStatus;
use ostler_domain::{PlanId, RunId, RunStatus, TestPlan, TestRecord, Timestamp};
use ostler_store::{Change, Filter, Op, RunFilter, StoreError, StoreExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest pause between two looks at a plan whose tests end all the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Tests of a plan do not end in less time than this, each after the other.
const BETWEEN_ENDS: Duration = Duration::from_micros(250);

/// What a look at a plan found.
struct Look {
    /// Whether the plan has ended.
    over: bool,
    /// How many tests have to end before there is something to do again.
    wait_for: u32,
}

/// The plans that are being settled here, and whether something happened since that was begun: ends that come close
/// together are answered by one look.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<HashMap<PlanId, bool>>);

impl Moves {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PlanId, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is to settle the plan; otherwise somebody does already, and looks again.
    fn begin(&self, plan: PlanId) -> bool {
        let mut moves = self.lock();
        if let Some(again) = moves.get_mut(&plan) {
            *again = true;
            return false;
        }
        moves.insert(plan, false);
        true
    }

    /// Whether to look again.
    fn again(&self, plan: PlanId) -> bool {
        let mut moves = self.lock();
        match moves.get_mut(&plan) {
            Some(again) if *again => {
                *again = false;
                true
            }
            _ => {
                moves.remove(&plan);
                false
            }
        }
    }
}

impl Control {
    /// Lets a plan go on soon, without waiting for it.
    pub(crate) fn plan_moved(&self, id: PlanId) {
        if !self.moves.begin(id) {
            return;
        }
        let control = self.clone();
        tokio::spawn(async move {
            loop {
                let began = Instant::now();
                let looked = control.look_at_plan(id).await;
                let wait_for = looked.map_or_else(
                    |error| {
                        tracing::warn!(%error, plan.id = %id, "a plan could not go on; it is tried again");
                        1
                    },
                    |look| look.wait_for,
                );
                // A look at a large plan takes its time; most of the server's is for executing tests.
                let pause = began.elapsed().saturating_mul(2);
                let pause = pause.max(BETWEEN_ENDS * wait_for).min(LONGEST_PAUSE);
                if !control.moves.again(id) {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Does the next steps of every plan that has not ended; run at the start and at a period, it catches what a killed
    /// server left undone. An error of one plan does not keep others back. Returns how many plans have ended by it.
    pub async fn settle_plans(&self) -> Result<usize> {
        let open = Filter::<TestPlan>::all().and("finished_at", Op::Eq, None::<Timestamp>);
        let mut ended = 0;
        for plan in self.parts.store.list(open).await? {
            match self.settle_plan(plan.id).await {
                Ok(over) => ended += usize::from(over),
                Err(error) => {
                    tracing::warn!(%error, plan.id = %plan.id, "a plan could not go on; it is tried again");
                }
            }
        }
        Ok(ended)
    }

    /// Does the next steps of a plan, as far as there are any to do. Returns whether it ended by that.
    pub async fn settle_plan(&self, id: PlanId) -> Result<bool> {
        self.look_at_plan(id).await.map(|look| look.over)
    }

    async fn look_at_plan(&self, id: PlanId) -> Result<Look> {
        retry_on_conflict!({
            let nothing = Look {
                over: false,
                wait_for: 1,
            };
            let Some(plan) = self.parts.store.get::<TestPlan, _>(id).await? else {
                return Ok(nothing);
            };
            if plan.finished_at.is_some() {
                return Ok(nothing);
            }
            loop {
                self.tell_ends(&plan).await?;
                let acted = if plan.cancel_requested {
                    self.cancel_tests(&plan, true).await?
                } else {
                    self.go_on(&plan).await?
                };
                if !acted {
                    break;
                }
            }
            self.end_plan(plan).await
        })
    }

    /// Releases and skips held tests, and cancels what did not begin after a failure where the plan wants that. Returns
    /// whether there was something to do.
    async fn go_on(&self, plan: &TestPlan) -> Result<bool> {
        let mut held = Vec::new();
        if plan.ordered || plan.max_parallel.is_some() {
            let wanted = RunFilter {
                status: Some(RunStatus::Queued),
                held_only: true,
                ..RunFilter::default()
            };
            self.each_run(plan, wanted, |run| {
                let priority = run.submitted.priority;
                if let Some(test) = run.submitted.spec.test.filter(|_| run.submitted.held) {
                    held.push(Held {
                        id: run.submitted.id,
                        index: test.index,
                        name: test.name,
                        needs: test.needs,
                        priority,
                    });
                }
            })
            .await?;
        }
        if held.is_empty() && !plan.fail_fast {
            return Ok(false);
        }
        // After the held ones were read: what another one releases meanwhile counts as one that left less room.
        let counters = self.plan_counters(plan).await?;
        if plan.fail_fast && counters.failures() > 0 {
            // That a failure is tolerated is known once it was told.
            self.tell_ends(plan).await?;
            if self.plan_counters(plan).await?.failures() > 0 {
                return self.cancel_tests(plan, false).await;
            }
        }
        if held.is_empty() {
            return Ok(false);
        }
        let most = plan.max_parallel.map(|most| most as usize);
        let room = most.map(|most| most.saturating_sub((counters.queued + counters.running) as usize));
        let ended = self.ended_tests(plan, &held).await?;
        let decision = decide(held, &ended, room);
        let at = self.now();
        let skip = decision
            .skip
            .into_iter()
            .map(|(id, reason)| Change::SkipRun { id, reason, at });
        let release = decision.release.into_iter().map(Change::ReleaseRun);
        let changes: Vec<Change> = skip.chain(release).collect();
        let acted = !changes.is_empty();
        self.commit_each(changes).await?;
        Ok(acted)
    }

    /// The tests of a plan that ended, and of each whether what needs it may go on.
    async fn ended_tests(&self, plan: &TestPlan, held: &[Held]) -> Result<HashMap<String, bool>> {
        if held.iter().all(|test| test.needs.is_empty()) {
            return Ok(HashMap::new());
        }
        let ends = Filter::<TestRecord>::by("plan_id", plan.id).and("superseded", Op::Eq, false);
        let ends = self.parts.store.list(ends).await?;
        let passed = |end: &TestRecord| match end.status {
            RunStatus::Succeeded => true,
            RunStatus::Failed | RunStatus::TimedOut | RunStatus::Lost => end.tolerated,
            _ => false,
        };
        Ok(ends
            .into_iter()
            .map(|end| (end.name.clone(), passed(&end)))
            .collect())
    }

    /// Cancels the tests of a plan that wait and, if wanted, those that are being executed. Returns whether any waited.
    async fn cancel_tests(&self, plan: &TestPlan, running: bool) -> Result<bool> {
        let mut ids: Vec<RunId> = Vec::new();
        let waiting = RunFilter {
            status: Some(RunStatus::Queued),
            ..RunFilter::default()
        };
        self.each_run(plan, waiting, |run| ids.push(run.submitted.id))
            .await?;
        let any = !ids.is_empty();
        if running {
            let executed = RunFilter {
                status: Some(RunStatus::Running),
                ..RunFilter::default()
            };
            self.each_run(plan, executed, |run| {
                if !run.cancel_requested {
                    ids.push(run.submitted.id);
                }
            })
            .await?;
        }
        self.commit_each(ids.into_iter().map(Change::CancelRun).collect())
            .await?;
        Ok(any)
    }

    /// Tells of the ends that were not written by an executor: of tests that were cancelled while they waited, skipped or
    /// lost.
    async fn tell_ends(&self, plan: &TestPlan) -> Result<()> {
        let counts = self.parts.store.plan_counters(plan.id).await?;
        for status in [RunStatus::Cancelled, RunStatus::Skipped, RunStatus::Lost] {
            let count = counts.get(&status).copied().unwrap_or_default();
            if count == 0 {
                continue;
            }
            let told = Filter::<TestRecord>::by("plan_id", plan.id).and("status", Op::Eq, status);
            let told = self.parts.store.list(told).await?;
            let told: HashSet<RunId> = told.into_iter().map(|record| record.run_id).collect();
            if i64::try_from(told.len()).is_ok_and(|told| told >= count) {
                continue;
            }
            let ended = RunFilter {
                status: Some(status),
                ..RunFilter::default()
            };
            let mut untold = Vec::new();
            self.each_run(plan, ended, |run| {
                if !told.contains(&run.submitted.id) {
                    untold.push(run);
                }
            })
            .await?;
            for some in untold.chunks(super::CHUNK / 2) {
                let changes = some.iter().flat_map(|run| self.told(run)).collect();
                match self.commit(changes).await {
                    Err(error) if is_told(&error) => {}
                    done => {
                        done?;
                        continue;
                    }
                }
                // Somebody else tells as well, at the same moment: what is left is told one by one.
                for run in some {
                    match self.commit(self.told(run)).await {
                        Err(error) if is_told(&error) => {}
                        done => done?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the end of a plan once all of its tests have one.
    async fn end_plan(&self, mut plan: TestPlan) -> Result<Look> {
        let live = self.plan_counters(&plan).await?.live();
        if live > 0 {
            let each_counts = plan.ordered || plan.max_parallel.is_some() || plan.fail_fast;
            return Ok(Look {
                over: false,
                wait_for: if each_counts { 1 } else { live },
            });
        }
        // Some may have ended since the others were told.
        self.tell_ends(&plan).await?;
        plan.finished_at = Some(self.now());
        let tested = super::project::tested(&plan);
        let update = Change::update(&plan);
        let (tenant, id) = (plan.tenant_id, plan.id);
        let view = self.plan_view(plan).await?;
        debug_assert_ne!(view.status, PlanStatus::Running);
        let event = self.event(tenant, "plan.finished", id, view);
        self.commit(vec![update, event]).await?;
        if let Some(subtask) = tested
            && let Err(error) = self.settle_next(subtask).await
        {
            self.note_subtask(subtask, &error).await;
        }
        Ok(Look {
            over: true,
            wait_for: 1,
        })
    }
}

/// Whether an end had been told before.
fn is_told(error: &ControlError) -> bool {
    matches!(error, ControlError::Store(StoreError::Duplicate { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_while_a_plan_is_settled_is_looked_at_again_once() {
        let moves = Moves::default();
        let plan = PlanId::new();
        assert!(moves.begin(plan));
        assert!(!moves.begin(plan) && !moves.begin(plan));
        assert!(moves.again(plan), "two ends, one look");
        assert!(!moves.again(plan));
        assert!(moves.begin(plan), "the next end begins anew");
    }
}
