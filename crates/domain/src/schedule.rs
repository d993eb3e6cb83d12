//! The scheduler: which waiting runs are started now, where, and why the others are not. A pure function of what is
//! known at one moment, so that what decides also explains, and each rule is tested by calling it.
//!
//! The rules:
//! - **Order.** Higher effective priority first: the priority as submitted, lifted by one for each `ageing_seconds` of
//!   waiting, so that whoever waits long enough passes everybody who comes later. At the same effective priority the
//!   tenant with the smallest part of its share first, and of one tenant the first submitted first, by number, never by
//!   a clock.
//! - **Best fit.** The smallest pool that satisfies the requirements and has room; a warm sandbox before a new one; warm
//!   ones of others give way when there is no other room.
//! - **No over-commitment.** Nothing is started beyond what a host has, times what the rules allow, in any resource.
//! - **Reservation.** The first that does not fit, though a host could hold it, has what it takes kept free where the
//!   least is missing. All others, also those started past it, use only what is left beside it. So what it lacks there
//!   only shrinks, and it starts after at most as many ends as there are runs on that host; it is one reservation at a
//!   time, so that the rest of the machine stays busy.
//!
//! A plan is made from the first runs of each (class, priority). When a plan has taken all that it knows of one, and the
//! next of it might be before or after another, it stops and says that the queue is to be looked at again.

mod order;
mod plan;
mod reason;
mod room;
mod taking;
mod verdict;
mod world;

pub use plan::{Decision, DispatchPlan, GiveWay, Waiting};
pub use reason::{Obstacle, PoolObstacle, Reservation, Resource, RunRef, WaitReason};
pub use world::{
    Amounts, HostRoom, Overcommit, PoolRoom, QueueClass, QueueHead, QueueWorld, SchedulerRules, TenantShare,
};

use crate::Requirements;
use order::{Entry, Part, in_order};
use room::Room;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use taking::{Spot, Start};
use verdict::{by_size, verdict};

/// What is to be started now, and of every other head why it waits. Heads of an unknown class are left out.
///
/// The time is near linear in the number of heads: pools and hosts are looked at once for each class and each run taken.
pub fn plan_dispatch(world: &QueueWorld, rules: &SchedulerRules) -> DispatchPlan {
    let (entries, parts) = in_order(world, rules.ageing_seconds);
    let room = Room::new(world, rules.overcommit);
    let sizes = by_size(world);
    let suitable = |requirements: &Requirements| {
        let met = sizes
            .iter()
            .filter(|pool| requirements.met_by(&world.pools[**pool].offer));
        met.copied().collect()
    };
    let mut planner = Planner {
        world,
        before: room.clone(),
        room,
        suitable: world
            .classes
            .iter()
            .map(|class| suitable(&class.requirements))
            .collect(),
        settled: vec![None; world.classes.len()],
        done: vec![false; entries.len()],
        slots: world.slots,
        entries,
        parts,
        plan: DispatchPlan::default(),
    };
    let mut start = 0;
    while start < planner.entries.len() {
        start = planner.level(start);
    }
    let mut plan = planner.plan;
    plan.reserved = planner.room.reservation();
    plan
}

/// Why runs with these requirements could not be started now even if they were first and a slot were free, or `None` if
/// they could: the answer to a submission, and to a question about a run that is no head.
pub fn obstacles(
    world: &QueueWorld,
    rules: &SchedulerRules,
    requirements: &Requirements,
) -> Option<WaitReason> {
    let room = Room::new(world, rules.overcommit);
    let mut pools = by_size(world);
    pools.retain(|pool| requirements.met_by(&world.pools[*pool].offer));
    room.best(&pools)
        .is_none()
        .then(|| verdict(&room, requirements, &pools))
}

struct Planner<'a> {
    world: &'a QueueWorld,
    /// As it was at the start.
    before: Room<'a>,
    room: Room<'a>,
    /// By class: the pools that satisfy it, the smallest first.
    suitable: Vec<Vec<usize>>,
    /// By class: why nothing more of it is taken. Room only shrinks, so once that is so it stays so.
    settled: Vec<Option<Arc<WaitReason>>>,
    /// By entry: whether it was looked at.
    done: Vec<bool>,
    slots: u32,
    entries: Vec<Entry<'a>>,
    /// By tenant.
    parts: Vec<Part>,
    plan: DispatchPlan,
}

/// What was taken at a level: the latest number, whose it is, and the latest one of anybody else.
#[derive(Default)]
struct Passed {
    latest: Option<(i64, usize)>,
    other: Option<(i64, usize)>,
}

impl Passed {
    fn note(&mut self, seq: i64, tenant: usize) {
        match self.latest {
            Some((latest, of)) if of == tenant => self.latest = Some((latest.max(seq), of)),
            Some((latest, _)) if latest > seq => {
                if self.other.is_none_or(|(other, _)| other < seq) {
                    self.other = Some((seq, tenant));
                }
            }
            before => (self.latest, self.other) = (Some((seq, tenant)), before),
        }
    }

    /// Whether somebody else's later run was taken.
    fn over(&self, seq: i64, tenant: usize) -> bool {
        [self.latest, self.other]
            .into_iter()
            .flatten()
            .any(|(taken, of)| of != tenant && taken > seq)
    }
}

impl Planner<'_> {
    /// Looks at all heads of one effective priority; returns where the next begins.
    fn level(&mut self, start: usize) -> usize {
        let level = self.entries[start].level;
        let rest = &self.entries[start..];
        let end = start + rest.partition_point(|entry| entry.level == level);
        // The tenants' next heads: (part, number, index).
        let mut turns = BinaryHeap::new();
        let mut from = start;
        while from < end {
            let Entry { tenant, head, .. } = self.entries[from];
            turns.push(Reverse((self.parts[tenant], head.seq, from)));
            from += self.entries[from..end].partition_point(|entry| entry.tenant == tenant);
        }
        let mut passed = Passed::default();
        while let Some(Reverse((.., at))) = turns.pop() {
            let Entry { tenant, head, .. } = self.entries[at];
            self.done[at] = true;
            if self.serve(at, &passed) {
                passed.note(head.seq, tenant);
                self.follow(at);
            }
            let next = at + 1;
            if next < end && self.entries[next].tenant == tenant {
                turns.push(Reverse((self.parts[tenant], self.entries[next].head.seq, next)));
            }
        }
        end
    }

    /// Takes a head or says why not. Returns whether it was taken.
    fn serve(&mut self, at: usize, passed: &Passed) -> bool {
        let Entry { head, class, .. } = self.entries[at];
        if let Some(reason) = self.settled[class].clone() {
            let reason = self.shared(at, passed).unwrap_or(reason);
            self.refuse(at, reason);
            return false;
        }
        let spot = self.room.best(&self.suitable[class]);
        if let Some(spot) = spot.filter(|_| self.slots > 0 && !self.plan.again) {
            self.take(at, spot);
            return true;
        }
        if spot.is_some() {
            let reason = if self.plan.again {
                WaitReason::Turn
            } else {
                WaitReason::Slots
            };
            let reason = Arc::new(reason);
            self.settled[class] = Some(Arc::clone(&reason));
            let reason = self.shared(at, passed).unwrap_or(reason);
            self.refuse(at, reason);
            return false;
        }
        let requirements = &self.world.classes[class].requirements;
        let mut reason = verdict(&self.room, requirements, &self.suitable[class]);
        self.settled[class] = Some(Arc::new(reason.clone()));
        if let WaitReason::Busy { reserved, .. } = &mut reason
            && self.room.kept.is_none()
        {
            let by = RunRef {
                seq: head.seq,
                run: head.run,
            };
            if self.room.keep(&self.suitable[class], by) {
                *reserved = self.room.reservation();
                // The others of its class wait for it as everybody does.
                let others = verdict(&self.room, requirements, &self.suitable[class]);
                self.settled[class] = Some(Arc::new(others));
            }
        }
        let reason = match &reason {
            WaitReason::Busy {
                reserved: Some(_), ..
            } => Arc::new(reason),
            _ => self.shared(at, passed).unwrap_or_else(|| Arc::new(reason)),
        };
        self.refuse(at, reason);
        false
    }

    /// The reason of a head that would have been taken, had not others with less of their share gone first.
    fn shared(&self, at: usize, passed: &Passed) -> Option<Arc<WaitReason>> {
        let Entry {
            head, class, tenant, ..
        } = self.entries[at];
        let would = passed.over(head.seq, tenant) && self.before.best(&self.suitable[class]).is_some();
        let TenantShare { running, weight } = self.parts[tenant].0;
        would.then(|| Arc::new(WaitReason::Share { running, weight }))
    }

    /// Takes those that follow a head in its class and priority and are not known, as long as nobody else could be before
    /// them.
    fn follow(&mut self, at: usize) {
        let Entry {
            head, class, last, ..
        } = self.entries[at];
        if !last {
            return;
        }
        for _ in 0..head.more {
            if self.slots == 0 {
                return;
            }
            let Some(spot) = self.room.best(&self.suitable[class]) else {
                return;
            };
            // The next may just have come, and then has not been lifted.
            let rival = |n: &usize| !self.done[*n] && self.settled[self.entries[*n].class].is_none();
            let near = self
                .entries
                .iter()
                .take_while(|entry| entry.level >= i64::from(head.priority));
            if (0..near.count()).any(|n| rival(&n)) {
                self.plan.again = true;
                return;
            }
            self.take(at, spot);
        }
    }

    fn take(&mut self, at: usize, spot: Spot) {
        let Entry { head, tenant, .. } = self.entries[at];
        let gone = self.room.take(spot);
        self.slots -= 1;
        let running = &mut self.parts[tenant].0.running;
        *running = running.saturating_add(1);
        let (pool, host) = (
            &self.world.pools[spot.pool].offer.pool,
            &self.world.hosts[spot.host].name,
        );
        let same = |last: &Decision| {
            (last.class, last.priority) == (head.class, head.priority)
                && (&last.pool, &last.host) == (pool, host)
        };
        if !self.plan.decisions.last().is_some_and(same) {
            self.plan.decisions.push(Decision {
                class: head.class,
                priority: head.priority,
                pool: pool.clone(),
                host: host.clone(),
                count: 0,
                warm: 0,
                give_way: Vec::new(),
            });
        }
        let Some(decision) = self.plan.decisions.last_mut() else {
            return;
        };
        decision.count += 1;
        decision.warm += u32::from(spot.start == Start::Warm);
        for (host, pool) in gone {
            let (pool, host) = (&self.world.pools[pool].offer.pool, &self.world.hosts[host].name);
            match decision
                .give_way
                .iter_mut()
                .find(|way| (&way.pool, &way.host) == (pool, host))
            {
                Some(way) => way.count += 1,
                None => decision.give_way.push(GiveWay {
                    pool: pool.clone(),
                    host: host.clone(),
                    count: 1,
                }),
            }
        }
    }

    fn refuse(&mut self, at: usize, reason: Arc<WaitReason>) {
        let Entry { head, level, .. } = self.entries[at];
        self.plan.waiting.push(Waiting {
            class: head.class,
            priority: head.priority,
            effective: level,
            seq: head.seq,
            reason,
        });
    }
}
