//! What is begun next: the scheduler decides, the store gives it to this server, and each run is on its way to a sandbox.

use super::Executor;
use crate::Result;
use crate::sandboxes::amounts;
use crate::scheduling::Scene;
use ostler_domain::schedule::{Decision, GiveWay, plan_dispatch};
use ostler_domain::{Pool, RunId};
use ostler_store::{ClaimRuns, Pick};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// Looks at the queue in a row, when what was planned is not what was claimed.
const ROUNDS: u32 = 32;

/// Where the scheduler wants a run to be executed.
pub(super) struct Place {
    /// The class of the run.
    pub(super) class: i64,
    /// Where its sandbox comes from.
    pub(super) pool: Pool,
    /// The machine that it is on, where it matters: where something gave way, or something is kept for another run.
    /// Otherwise all that have room share what is started.
    pub(super) host: Option<String>,
}

/// A run that was claimed and whose sandbox is not recorded as its own yet.
#[derive(Clone)]
pub(super) struct Arrival {
    pool: Pool,
    host: String,
    warm: bool,
}

impl Executor {
    /// Claims runs for free slots, as the scheduler says. Returns when the next delayed run comes due.
    pub(super) async fn claim(&self) -> Result<Option<Duration>> {
        let mut classes = Vec::new();
        // Others may claim at the same time, and then what was planned is not what is left.
        for _ in 0..ROUNDS {
            let slots = self.slots.available_permits();
            if slots == 0 {
                // The next one that becomes free is told.
                return Ok(None);
            }
            // Before the records are read: one that arrives meanwhile is counted twice, and none not at all.
            let coming = self.arrivals().clone();
            let mut scene = self.control.queue_scene(slots as u32).await?;
            classes = self.note_servable(&scene);
            if scene.world.heads.is_empty() {
                break;
            }
            count_in(&coming, &mut scene);
            let plan = plan_dispatch(&scene.world, &self.control.scheduler.rules());
            let crowded = !coming.is_empty() && !plan.waiting.is_empty();
            self.crowded.store(crowded, Ordering::Relaxed);
            let arrived = crowded && coming.keys().any(|run| !self.arrivals().contains_key(run));
            let planned: u32 = plan.decisions.iter().map(|decision| decision.count).sum();
            let claimed = self
                .dispatch(&scene, plan.decisions, plan.reserved.is_some())
                .await?;
            if claimed == planned && !plan.again && !arrived {
                break;
            }
        }
        let now = self.control.now();
        let due = self.control.store().next_due(&classes, now).await?;
        Ok(due.map(|due| due.since(now)))
    }

    /// Notes which classes some pool of this server can execute, and returns them.
    fn note_servable(&self, scene: &Scene) -> Vec<i64> {
        let servable = scene.classes.iter().filter(|class| {
            let mut offers = scene.world.pools.iter().map(|pool| &pool.offer);
            offers.any(|offer| class.requirements.met_by(offer))
        });
        let servable: Vec<i64> = servable.map(|class| class.id).collect();
        *self.servable.lock().unwrap_or_else(PoisonError::into_inner) = servable.iter().copied().collect();
        servable
    }

    /// Claims what was decided and begins it; `reserved` if something is kept for another run. Returns how many runs that
    /// are.
    async fn dispatch(&self, scene: &Scene, decisions: Vec<Decision>, reserved: bool) -> Result<u32> {
        if decisions.is_empty() {
            return Ok(0);
        }
        let store = self.control.store();
        let picks: Vec<Pick> = decisions
            .iter()
            .map(|decision| Pick {
                class: decision.class,
                priority: decision.priority,
                limit: decision.count,
            })
            .collect();
        let claim = ClaimRuns {
            server_id: self.control.parts.server_id,
            classes: Vec::new(),
            limit: picks.iter().map(|pick| pick.limit).sum(),
            now: self.control.now(),
            picks,
            sandbox: None,
        };
        let runs = store.claim(claim).await?;
        let claimed = runs.len() as u32;
        let mut left: Vec<(Decision, u32)> = decisions.into_iter().map(|decision| (decision, 0)).collect();
        for run in runs {
            let submitted = &run.submitted;
            let class = scene.world.classes.iter().find(|class| {
                class.tenant == submitted.tenant_id && class.requirements == submitted.requirements
            });
            let of = |decision: &Decision| {
                class.is_some_and(|class| class.id == decision.class)
                    && decision.priority == submitted.priority
            };
            let place = left
                .iter_mut()
                .find(|(decision, used)| of(decision) && *used < decision.count);
            let pool = place
                .as_ref()
                .and_then(|(decision, _)| scene.pools.iter().find(|pool| pool.name == decision.pool));
            let (Some((decision, used)), Some(pool)) = (place, pool) else {
                self.put_back(&run, "its place was lost".into(), false).await?;
                continue;
            };
            *used += 1;
            let warm = *used <= decision.warm;
            let mut give_way = std::mem::take(&mut decision.give_way);
            if warm && self.boot(&run, pool).is_some() {
                // It is started anew, where the warm one was.
                give_way.push(GiveWay {
                    pool: decision.pool.clone(),
                    host: decision.host.clone(),
                    count: 1,
                });
            }
            self.control.give_way(&give_way).await?;
            let matters = reserved || !give_way.is_empty();
            let place = Place {
                class: decision.class,
                pool: pool.clone(),
                host: matters.then(|| decision.host.clone()),
            };
            match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(permit) => {
                    let arrival = Arrival {
                        pool: place.pool.clone(),
                        host: decision.host.clone(),
                        warm,
                    };
                    self.arrivals().insert(submitted.id, arrival);
                    self.spawn(run, Some(place), None, permit);
                }
                Err(_) => self.put_back(&run, "no slot was free".into(), false).await?,
            }
        }
        Ok(claimed)
    }

    /// Notes that a run has its sandbox, or will not have one.
    pub(super) fn arrived(&self, id: RunId) {
        self.arrivals().remove(&id);
        if self.crowded.swap(false, Ordering::Relaxed) {
            self.freed.notify_one();
        }
    }

    fn arrivals(&self) -> MutexGuard<'_, HashMap<RunId, Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the runs that were claimed and whose sandboxes may not be recorded as theirs yet.
fn count_in(coming: &HashMap<RunId, Arrival>, scene: &mut Scene) {
    let world = &mut scene.world;
    for Arrival { pool, host, warm } in coming.values() {
        let Some(room) = world.hosts.iter_mut().find(|room| room.name == *host) else {
            continue;
        };
        room.passing.add(&amounts(&pool.template));
        if let Some(count) = room.warm.get_mut(&pool.name).filter(|count| *warm && **count > 0) {
            *count -= 1;
        } else if let Some(room) = world.pools.iter_mut().find(|room| room.offer.pool == pool.name) {
            room.live += 1;
        }
    }
}
