//! Carries out what the scheduler decides, and refuses what cannot be carried out.

use crate::checks;
use crate::sim::{Sim, SimBox, Use, host_name};
use ostler_domain::schedule::{Decision, DispatchPlan, plan_dispatch};
use proptest::prelude::*;

/// A run that was started, and the world as it was just before.
pub(crate) struct Started {
    pub(crate) seq: i64,
    pub(crate) class: usize,
    pub(crate) before: Sim,
}

impl Sim {
    /// Plans, carries out and checks, as often as the plan wants it. Returns the numbers started, in order, and the last
    /// plan.
    pub(crate) fn dispatch(&mut self) -> Result<(Vec<i64>, DispatchPlan), TestCaseError> {
        let mut all = Vec::new();
        for _ in 0..1000 {
            let before = self.clone();
            let told = self.told();
            let plan = plan_dispatch(&told, &self.rules);
            prop_assert_eq!(
                &plan,
                &plan_dispatch(&told, &self.rules),
                "the same twice is not the same"
            );
            let mut started = Vec::new();
            for decision in &plan.decisions {
                self.carry_out(decision, &mut started)?;
            }
            checks::plan(&before, self, &plan, &started)?;
            all.extend(started.iter().map(|s| s.seq));
            if !plan.again {
                return Ok((all, plan));
            }
            prop_assert!(!started.is_empty(), "it wants to be asked again, and did nothing");
        }
        Err(TestCaseError::fail("it is never done"))
    }

    fn carry_out(&mut self, decision: &Decision, started: &mut Vec<Started>) -> Result<(), TestCaseError> {
        let pool_of = |sim: &Self, name: &str| {
            sim.pools
                .iter()
                .position(|(offer, _)| offer.pool == name)
                .unwrap()
        };
        let host_of = |sim: &Self, name: &str| (0..sim.hosts.len()).find(|n| host_name(*n) == name).unwrap();
        for way in &decision.give_way {
            for _ in 0..way.count {
                let gone = SimBox {
                    pool: pool_of(self, &way.pool),
                    host: host_of(self, &way.host),
                    used: Use::Warm,
                };
                let at = self.boxes.iter().position(|b| *b == gone);
                prop_assert!(at.is_some(), "{way:?} is to give way, and is not there");
                self.boxes.remove(at.unwrap());
            }
        }
        let (pool, host) = (pool_of(self, &decision.pool), host_of(self, &decision.host));
        let class = decision.class as usize;
        prop_assert!(decision.count > 0 && decision.warm <= decision.count);
        prop_assert!(
            self.suits(class, pool),
            "{decision:?} does not satisfy {:?}",
            self.classes[class]
        );
        prop_assert!(
            self.hosts[host].there && self.hosts[host].available && self.hosts[host].pools.contains(&pool)
        );
        for n in 0..decision.count {
            let before = self.clone();
            let of_level = self
                .queue
                .iter()
                .enumerate()
                .filter(|(_, q)| (q.class, q.priority) == (class, decision.priority));
            let first = of_level.min_by_key(|(_, q)| q.seq).map(|(at, _)| at);
            prop_assert!(first.is_some(), "{decision:?} takes more than wait");
            let run = self.queue.remove(first.unwrap());
            let used = Use::Run {
                seq: run.seq,
                class,
                priority: run.priority,
                created_at: run.created_at,
                started_at: self.now,
            };
            if n < decision.warm {
                let warm = SimBox {
                    pool,
                    host,
                    used: Use::Warm,
                };
                let at = self.boxes.iter().position(|b| *b == warm);
                prop_assert!(
                    at.is_some(),
                    "{decision:?} counts on a warm one that is not there"
                );
                self.boxes[at.unwrap()].used = used;
            } else {
                self.boxes.push(SimBox { pool, host, used });
            }
            started.push(Started {
                seq: run.seq,
                class,
                before,
            });
        }
        self.within_limits()
    }

    /// No host gives more than it has, no pool is larger than it may be, no more runs than slots.
    pub(crate) fn within_limits(&self) -> Result<(), TestCaseError> {
        for host in 0..self.hosts.len() {
            let (used, has) = (self.in_use(host, |_| true), self.capacity(host));
            prop_assert!(
                used.iter().zip(has).all(|(used, has)| *used <= has),
                "{used:?} of {has:?} on {host}"
            );
        }
        for pool in 0..self.pools.len() {
            prop_assert!(
                self.live(pool) <= self.pools[pool].1 as usize,
                "the pool {pool} has {}",
                self.live(pool)
            );
        }
        prop_assert!(self.running().count() <= self.slots as usize);
        Ok(())
    }

    /// Starts what is no run, where there is room for it.
    pub(crate) fn start_other(&mut self, pool: usize, host: usize, used: Use) {
        let fits = (0..4).all(|r| {
            self.in_use(host, |_| true)[r].saturating_add(self.cost(pool)[r]) <= self.capacity(host)[r]
        });
        if self.ever(pool, host) && fits && self.live(pool) < self.pools[pool].1 as usize {
            self.boxes.push(SimBox { pool, host, used });
        }
    }

    /// Ends the sandbox; its run, if it is `lost`, waits again at its old place.
    pub(crate) fn end(&mut self, at: usize, lost: bool) {
        if let Use::Run {
            seq,
            class,
            priority,
            created_at,
            ..
        } = self.boxes.remove(at).used
            && lost
        {
            self.queue.push(crate::sim::Queued {
                seq,
                class,
                priority,
                created_at,
            });
        }
    }
}
