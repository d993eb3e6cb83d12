//! Random sequences of everything that can happen to runs, against a model that is too simple to be wrong.

use super::samples::*;
use crate::{Cancelled, ClaimRuns, Pick, RequeueRun, RunCounters, RunFilter, Store};
use ostler_domain::{NewRun, PlanId, RunId, RunStatus, SandboxId, ServerId, TenantId, TestResult};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use std::sync::Arc;

/// One step. `pick` chooses among the runs that there are by then.
#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        class: usize,
        priority: i32,
        max_attempts: u32,
        delay: Option<i64>,
        held: bool,
    },
    Claim {
        classes: Vec<usize>,
        limit: u32,
    },
    Picks {
        picks: Vec<(usize, i32, u32)>,
        limit: u32,
    },
    Finish {
        pick: usize,
        stale: bool,
        status: RunStatus,
        superseded: bool,
    },
    Release {
        pick: usize,
    },
    Skip {
        pick: usize,
    },
    Requeue {
        pick: usize,
        stale: bool,
        counts: bool,
        delay: Option<i64>,
    },
    Cancel {
        pick: usize,
    },
    Pass(i64),
}

const CLASSES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let delay = || prop::option::weighted(0.3, 1i64..20);
    let ends: Vec<RunStatus> = RunStatus::ALL
        .iter()
        .copied()
        .filter(|s| s.is_terminal())
        .collect();
    prop_oneof![
        4 => (0..CLASSES, -1i32..=1, 1u32..3, delay(), prop::bool::weighted(0.2))
            .prop_map(|(class, priority, max_attempts, delay, held)| {
                Step::Enqueue { class, priority, max_attempts, delay, held }
            }),
        3 => (prop::sample::subsequence(vec![0, 1, 2], 1..=CLASSES), 0u32..4)
            .prop_map(|(classes, limit)| Step::Claim { classes, limit }),
        2 => (prop::collection::vec((0..CLASSES, -1i32..=1, 0u32..3), 1..4), 0u32..5)
            .prop_map(|(picks, limit)| Step::Picks { picks, limit }),
        2 => (any::<usize>(), prop::bool::weighted(0.2), prop::sample::select(ends), prop::bool::weighted(0.3))
            .prop_map(|(pick, stale, status, superseded)| Step::Finish { pick, stale, status, superseded }),
        1 => any::<usize>().prop_map(|pick| Step::Release { pick }),
        1 => any::<usize>().prop_map(|pick| Step::Skip { pick }),
        3 => (any::<usize>(), prop::bool::weighted(0.2), any::<bool>(), delay())
            .prop_map(|(pick, stale, counts, delay)| Step::Requeue { pick, stale, counts, delay }),
        1 => any::<usize>().prop_map(|pick| Step::Cancel { pick }),
        1 => (1i64..10).prop_map(Step::Pass),
    ]
}

/// What the model keeps of a run.
#[derive(Debug, Clone)]
struct Known {
    id: RunId,
    class: usize,
    priority: i32,
    max_attempts: u32,
    not_before: Option<i64>,
    status: RunStatus,
    attempt: u32,
    counted: u32,
    cancel: bool,
    held: bool,
    superseded: bool,
}

impl Known {
    /// Whether it can be started.
    fn is_ready(&self, now: i64) -> bool {
        !self.held && self.not_before.is_none_or(|t| t <= now)
    }
}

/// The model: all runs in the order of submission.
struct Model {
    tenant: TenantId,
    plan: PlanId,
    prefix: String,
    server: ServerId,
    now: i64,
    runs: Vec<Known>,
}

impl Model {
    fn class_name(&self, class: usize) -> String {
        format!("{} {class}", self.prefix)
    }

    /// Places of the runs that wait, in the order in which they go.
    fn waiting(&self, wanted: impl Fn(&Known) -> bool) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.runs.len())
            .filter(|n| self.runs[*n].status == RunStatus::Queued && wanted(&self.runs[*n]))
            .collect();
        places.sort_by_key(|n| (-self.runs[*n].priority, *n));
        places
    }

    async fn take(&mut self, store: &dyn Store, step: &Step) -> Result<(), TestCaseError> {
        let count = self.runs.len().max(1);
        match step {
            Step::Pass(by) => self.now += by,
            Step::Enqueue {
                class,
                priority,
                max_attempts,
                delay,
                held,
            } => {
                let not_before = delay.map(|d| self.now + d);
                let submitted = NewRun {
                    plan_id: Some(self.plan),
                    max_attempts: *max_attempts,
                    not_before: not_before.map(at),
                    held: *held,
                    ..run(self.tenant, &self.class_name(*class), *priority)
                };
                self.runs.push(Known {
                    id: submitted.id,
                    class: *class,
                    priority: *priority,
                    max_attempts: *max_attempts,
                    not_before,
                    status: RunStatus::Queued,
                    attempt: 0,
                    counted: 0,
                    cancel: false,
                    held: *held,
                    superseded: false,
                });
                store.enqueue(vec![submitted]).await.unwrap();
            }
            Step::Claim { classes, limit } => self.claim(store, classes, *limit).await?,
            Step::Picks { picks, limit } => self.pick(store, picks, *limit).await?,
            Step::Release { pick } => {
                let Some(known) = self.runs.get_mut(pick % count) else {
                    return Ok(());
                };
                let released = store.release(vec![known.id]).await.unwrap();
                prop_assert_eq!(released, u64::from(known.held));
                known.held = false;
            }
            Step::Skip { pick } => {
                let Some(known) = self.runs.get_mut(pick % count) else {
                    return Ok(());
                };
                let waits = known.status == RunStatus::Queued;
                let skipped = store.skip(vec![known.id, known.id], "why".into(), at(self.now));
                prop_assert_eq!(skipped.await.unwrap(), [waits, false]);
                if waits {
                    known.status = RunStatus::Skipped;
                    known.held = false;
                }
            }
            Step::Finish {
                pick,
                stale,
                status,
                superseded,
            } => {
                let Some(known) = self.runs.get_mut(pick % count) else {
                    return Ok(());
                };
                let attempt = known.attempt.saturating_sub(u32::from(*stale));
                let holds = known.status == RunStatus::Running && attempt == known.attempt;
                let mut end = finish(known.id, attempt, *status);
                end.outcome.test = Some(Box::new(TestResult {
                    superseded: *superseded,
                    ..TestResult::default()
                }));
                prop_assert_eq!(store.finish(vec![end]).await.unwrap(), [holds]);
                if holds {
                    known.status = *status;
                    known.superseded = *superseded;
                }
            }
            Step::Requeue {
                pick,
                stale,
                counts,
                delay,
            } => {
                let Some(known) = self.runs.get_mut(pick % count) else {
                    return Ok(());
                };
                let attempt = known.attempt.saturating_sub(u32::from(*stale));
                let not_before = delay.map(|d| self.now + d);
                let back = RequeueRun {
                    counts: *counts,
                    not_before: not_before.map(at),
                    ..requeue(known.id, attempt)
                };
                let mut expected = None;
                if known.status == RunStatus::Running && attempt == known.attempt {
                    known.counted += u32::from(*counts);
                    known.status = if known.cancel {
                        RunStatus::Cancelled
                    } else if *counts && known.counted >= known.max_attempts {
                        RunStatus::Lost
                    } else {
                        known.not_before = not_before;
                        RunStatus::Queued
                    };
                    expected = Some(known.status);
                }
                prop_assert_eq!(store.requeue(vec![back]).await.unwrap(), [expected]);
            }
            Step::Cancel { pick } => {
                let Some(known) = self.runs.get_mut(pick % count) else {
                    return Ok(());
                };
                let expected = match known.status {
                    RunStatus::Queued => Cancelled::AtOnce,
                    RunStatus::Running => Cancelled::Requested,
                    _ => Cancelled::TooLate,
                };
                if expected == Cancelled::AtOnce {
                    known.status = RunStatus::Cancelled;
                    known.held = false;
                }
                known.cancel |= expected != Cancelled::TooLate;
                prop_assert_eq!(
                    store.request_cancel(known.id, at(self.now)).await.unwrap(),
                    expected
                );
            }
        }
        Ok(())
    }

    /// The numbers of classes, of those that there are by now.
    async fn ids_of(&self, store: &dyn Store, wanted: &[usize]) -> Vec<Option<i64>> {
        let known = store.classes().await.unwrap();
        let id = |class: &usize| {
            let named = class_named(&self.class_name(*class));
            let found = known
                .iter()
                .find(|c| c.requirements == named && c.tenant_id == self.tenant);
            found.map(|c| c.id)
        };
        wanted.iter().map(id).collect()
    }

    async fn claim(&mut self, store: &dyn Store, wanted: &[usize], limit: u32) -> Result<(), TestCaseError> {
        let classes: Vec<i64> = self.ids_of(store, wanted).await.into_iter().flatten().collect();

        let next = self
            .runs
            .iter()
            .filter(|r| r.status == RunStatus::Queued && wanted.contains(&r.class) && !r.held)
            .filter_map(|r| r.not_before)
            .filter(|t| *t > self.now)
            .min();
        let due = store.next_due(&classes, at(self.now)).await.unwrap();
        prop_assert_eq!(due, next.map(at));

        let mut places = self.waiting(|r| wanted.contains(&r.class) && r.is_ready(self.now));
        places.truncate(limit as usize);
        let claim = ClaimRuns {
            server_id: self.server,
            classes,
            picks: Vec::new(),
            limit,
            now: at(self.now),
            sandbox: None,
        };
        self.claimed(store, claim, &places).await
    }

    async fn pick(
        &mut self,
        store: &dyn Store,
        wanted: &[(usize, i32, u32)],
        limit: u32,
    ) -> Result<(), TestCaseError> {
        let classes: Vec<usize> = wanted.iter().map(|(class, ..)| *class).collect();
        let ids = self.ids_of(store, &classes).await;
        let mut picks = Vec::new();
        // Those of one class and priority are one, where the first of them stands.
        let mut merged: Vec<(usize, i32, usize)> = Vec::new();
        for ((class, priority, most), id) in wanted.iter().zip(ids) {
            let Some(id) = id else {
                continue;
            };
            picks.push(Pick {
                class: id,
                priority: *priority,
                limit: *most,
            });
            match merged.iter_mut().find(|m| (m.0, m.1) == (*class, *priority)) {
                Some(first) => first.2 += *most as usize,
                None => merged.push((*class, *priority, *most as usize)),
            }
        }
        let mut places: Vec<usize> = Vec::new();
        for (class, priority, most) in merged {
            let found = self.waiting(|r| r.class == class && r.priority == priority && r.is_ready(self.now));
            let left = limit as usize - places.len();
            places.extend(found.into_iter().take(left.min(most)));
        }
        if picks.is_empty() {
            return Ok(());
        }
        places.sort_by_key(|n| (-self.runs[*n].priority, *n));
        let claim = ClaimRuns {
            server_id: self.server,
            classes: Vec::new(),
            picks,
            limit,
            now: at(self.now),
            sandbox: Some(SandboxId::new()),
        };
        self.claimed(store, claim, &places).await
    }

    /// A claim gives the runs of these places, in this order.
    async fn claimed(
        &mut self,
        store: &dyn Store,
        claim: ClaimRuns,
        places: &[usize],
    ) -> Result<(), TestCaseError> {
        let sandbox = claim.sandbox;
        let claimed = store.claim(claim).await.unwrap();
        let got: Vec<_> = claimed
            .iter()
            .map(|r| (r.submitted.id, r.attempt, r.sandbox_id))
            .collect();
        for place in places {
            self.runs[*place].status = RunStatus::Running;
            self.runs[*place].attempt += 1;
        }
        let expected: Vec<_> = places
            .iter()
            .map(|n| (self.runs[*n].id, self.runs[*n].attempt, sandbox))
            .collect();
        prop_assert_eq!(got, expected);
        Ok(())
    }

    /// The first run of each class and priority that can be started.
    async fn check_heads(&self, store: &dyn Store) -> Result<(), TestCaseError> {
        let ids = self.ids_of(store, &[0, 1, 2]).await;
        let mut expected = Vec::new();
        for (class, id) in ids.iter().enumerate() {
            let Some(id) = id else {
                continue;
            };
            for priority in [1, 0, -1] {
                let ready =
                    self.waiting(|r| r.class == class && r.priority == priority && r.is_ready(self.now));
                expected.extend(ready.first().map(|n| (*id, priority, self.runs[*n].id)));
            }
        }
        expected.sort_by_key(|(id, priority, _)| (*id, -priority));
        let classes: Vec<i64> = ids.into_iter().flatten().collect();
        let heads = store.heads(&classes, at(self.now)).await.unwrap();
        let filter = RunFilter {
            tenant_id: Some(self.tenant),
            limit: 10_000,
            ..RunFilter::default()
        };
        let stored = store.runs(filter).await.unwrap();
        let got: Vec<_> = heads
            .iter()
            .map(|head| {
                let run = stored.iter().find(|run| run.seq == head.seq).unwrap();
                (head.class, head.priority, run.submitted.id)
            })
            .collect();
        prop_assert_eq!(got, expected);
        Ok(())
    }

    /// Everything that can be read agrees with the model.
    async fn check(&self, store: &dyn Store) -> Result<(), TestCaseError> {
        let filter = RunFilter {
            tenant_id: Some(self.tenant),
            limit: 10_000,
            ..RunFilter::default()
        };
        let stored = store.runs(filter).await.unwrap();
        let mut counted = RunCounters::new();
        for run in &stored {
            *counted.entry(run.status).or_default() += 1;
        }
        let mut counters = store.counters(Some(self.tenant)).await.unwrap();
        counters.retain(|_, n| *n != 0);
        let running = store.running_by_tenant().await.unwrap().remove(&self.tenant);
        prop_assert_eq!(
            running.unwrap_or(0),
            counted.get(&RunStatus::Running).copied().unwrap_or(0)
        );
        prop_assert_eq!(counters, counted);
        let got: Vec<_> = stored
            .iter()
            .rev()
            .map(|r| {
                (
                    r.submitted.id,
                    r.status,
                    r.attempt,
                    r.cancel_requested,
                    r.finished_at.is_some(),
                    r.submitted.held,
                )
            })
            .collect();
        let expected: Vec<_> = self
            .runs
            .iter()
            .map(|r| {
                (
                    r.id,
                    r.status,
                    r.attempt,
                    r.cancel,
                    r.status.is_terminal(),
                    r.held,
                )
            })
            .collect();
        prop_assert_eq!(got, expected);
        let mut of_plan = RunCounters::new();
        for run in self.runs.iter().filter(|r| !r.superseded) {
            *of_plan.entry(run.status).or_default() += 1;
        }
        let mut counters = store.plan_counters(self.plan).await.unwrap();
        counters.retain(|_, n| *n != 0);
        prop_assert_eq!(counters, of_plan);
        let held = self.runs.iter().filter(|r| r.held).count();
        prop_assert_eq!(store.plan_held(self.plan).await.unwrap(), held as i64);
        self.check_heads(store).await?;
        for class in 0..CLASSES {
            let in_line = self.waiting(|r| r.class == class && !r.held);
            if let Some(last) = in_line.last() {
                let before = in_line.len() as u64 - 1;
                let position = store.position(self.runs[*last].id).await.unwrap();
                prop_assert_eq!(position, Some(before));
            }
        }
        Ok(())
    }
}

/// Counters, states, order, attempts, delays and positions agree with the model after every step of random sequences.
/// Each sequence has its own tenant and classes, so that one store serves all of them.
pub async fn counters_follow_any_sequence(store: Arc<dyn Store>) {
    let handle = tokio::runtime::Handle::current();
    let outcome = tokio::task::spawn_blocking(move || {
        let config = Config {
            cases: 16,
            max_shrink_iters: 200,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config).run(&prop::collection::vec(step(), 1..60), |steps| {
            handle.block_on(async {
                let tenant = some_tenant(&*store).await;
                let mut model = Model {
                    tenant,
                    plan: PlanId::new(),
                    prefix: tenant.to_string(),
                    server: ServerId::new(),
                    now: 1000,
                    runs: Vec::new(),
                };
                for step in &steps {
                    model.take(&*store, step).await?;
                    model.check(&*store).await?;
                }
                Ok(())
            })
        })
    })
    .await
    .unwrap();
    if let Err(TestError::Fail(why, steps)) = outcome {
        panic!("{why}\nafter {steps:#?}");
    }
    assert!(outcome.is_ok(), "{outcome:?}");
}
