//! Generated sequences in generated worlds: runs are submitted, started and end, time passes, hosts come and go, people
//! take sandboxes. After each step every rule is checked; in the end everything that can be executed was.

use crate::sim::{Sim, SimHost, Use, offer};
use ostler_domain::schedule::{Amounts, Overcommit, SchedulerRules};
use ostler_domain::{Requirements, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Submit {
        class: usize,
        priority: i32,
        count: usize,
        skew: i64,
    },
    Dispatch,
    End {
        which: usize,
        lost: bool,
    },
    Pass(i64),
    Available(usize, bool),
    There(usize, bool),
    Warm(usize, usize),
    Take(usize, usize),
    GiveBack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..60;
    prop_oneof![
        4 => (n.clone(), -1..3i32, 1..5usize, -30..30i64)
            .prop_map(|(class, priority, count, skew)| Step::Submit { class, priority, count, skew }),
        5 => Just(Step::Dispatch),
        5 => (n.clone(), prop::bool::weighted(0.2)).prop_map(|(which, lost)| Step::End { which, lost }),
        2 => (0..40i64).prop_map(Step::Pass),
        1 => (n.clone(), any::<bool>()).prop_map(|(host, yes)| Step::Available(host, yes)),
        1 => (n.clone(), any::<bool>()).prop_map(|(host, yes)| Step::There(host, yes)),
        2 => (n.clone(), n.clone()).prop_map(|(pool, host)| Step::Warm(pool, host)),
        1 => (n.clone(), n.clone()).prop_map(|(pool, host)| Step::Take(pool, host)),
        1 => n.prop_map(Step::GiveBack),
    ]
}

type PoolSeed = (u32, u64, Option<u64>, bool, bool, u32);
type HostSeed = (u64, u64, Option<u64>, u8);
type ClassSeed = (usize, u32, u64, bool, bool, Option<usize>);

fn world() -> impl Strategy<Value = Sim> {
    let pool = (
        1..6u32,
        1..8u64,
        prop::option::weighted(0.3, 1..4u64),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        0..6u32,
    );
    let host = (
        2..13u64,
        4..16u64,
        prop::option::of(0..3u64),
        prop_oneof![3 => Just(255u8), 1 => any::<u8>()],
    );
    let class = (
        0..3usize,
        0..7u32,
        0..8u64,
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.1, 0..4usize),
    );
    let rules = (
        prop_oneof![Just(0u64), Just(10), Just(100)],
        prop_oneof![Just(100u64), Just(150)],
        1..4usize,
        1..13u32,
    );
    let parts = (
        prop::collection::vec(pool, 1..5),
        prop::collection::vec(host, 1..4),
        prop::collection::vec(class, 1..7),
        prop::collection::vec(1..5u32, 3),
        rules,
    );
    parts.prop_map(
        |(pools, hosts, classes, weights, (ageing_seconds, cpus, known, slots))| {
            let count = pools.len();
            Sim {
                now: Timestamp(1_000_000_000_000),
                slots,
                rules: SchedulerRules {
                    ageing_seconds,
                    overcommit: Overcommit {
                        cpus,
                        ..Overcommit::default()
                    },
                },
                known,
                next_seq: 1,
                pools: pools
                    .into_iter()
                    .enumerate()
                    .map(|(n, seed)| pool_of(n, seed))
                    .collect(),
                classes: classes.into_iter().map(class_of).collect(),
                weights,
                hosts: hosts.into_iter().map(|seed| host_of(seed, count)).collect(),
                boxes: Vec::new(),
                queue: Vec::new(),
            }
        },
    )
}

fn pool_of(n: usize, (cpus, memory, disk, gpu, label, max): PoolSeed) -> (ostler_domain::Offer, u32) {
    let mut offer = offer(n, cpus, memory * 256);
    offer.disk_mb = disk;
    offer.devices = if gpu {
        BTreeSet::from(["gpu".to_owned()])
    } else {
        BTreeSet::new()
    };
    offer.labels = if label {
        BTreeMap::from([("fast".to_owned(), "yes".to_owned())])
    } else {
        BTreeMap::new()
    };
    (offer, max)
}

fn host_of((cpus, memory, gpu, pools): HostSeed, count: usize) -> SimHost {
    SimHost {
        capacity: Amounts {
            cpus,
            memory_mb: memory * 256,
            disk_mb: 8,
            devices: gpu.into_iter().map(|count| ("gpu".to_owned(), count)).collect(),
        },
        pools: (0..count).filter(|n| pools & (1 << n) != 0).collect(),
        available: true,
        there: true,
    }
}

fn class_of((tenant, cpus, memory, gpu, label, pool): ClassSeed) -> (usize, Requirements) {
    let requirements = Requirements {
        cpus: Some(cpus),
        memory_mb: Some(memory * 256),
        devices: if gpu {
            BTreeSet::from(["gpu".to_owned()])
        } else {
            BTreeSet::new()
        },
        labels: if label {
            BTreeMap::from([("fast".to_owned(), "yes".to_owned())])
        } else {
            BTreeMap::new()
        },
        pool: pool.map(|n| format!("p{n}")),
        ..Requirements::default()
    };
    (tenant, requirements)
}

impl Sim {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let hosts = self.hosts.len();
        match *step {
            Step::Submit {
                class,
                priority,
                count,
                skew,
            } => {
                for _ in 0..count {
                    self.submit(class % self.classes.len(), priority, skew);
                }
            }
            Step::Dispatch => {
                self.dispatch()?;
            }
            Step::End { which, lost } => self.end_nth(which, |used| matches!(used, Use::Run { .. }), lost),
            Step::Pass(seconds) => self.now.0 += seconds * 1_000_000,
            Step::Available(host, yes) => self.hosts[host % hosts].available = yes,
            Step::There(host, yes) => {
                let host = host % hosts;
                self.hosts[host].there = yes;
                while let Some(at) = self.boxes.iter().position(|b| b.host == host && !yes) {
                    self.end(at, true);
                }
            }
            Step::Warm(pool, host) => self.start_other(pool % self.pools.len(), host % hosts, Use::Warm),
            Step::Take(pool, host) => self.start_other(pool % self.pools.len(), host % hosts, Use::Person),
            Step::GiveBack(which) => self.end_nth(which, |used| *used == Use::Person, false),
        }
        self.within_limits()
    }

    fn end_nth(&mut self, which: usize, of: impl Fn(&Use) -> bool, lost: bool) {
        let all: Vec<usize> = (0..self.boxes.len())
            .filter(|n| of(&self.boxes[*n].used))
            .collect();
        if !all.is_empty() {
            self.end(all[which % all.len()], lost);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_rule_holds_after_every_step(mut sim in world(), steps in prop::collection::vec(step(), 0..50)) {
        for step in &steps {
            sim.step(step)?;
        }
        // From here on nothing stands in the way any more but the world itself.
        for host in &mut sim.hosts {
            (host.available, host.there) = (true, true);
        }
        sim.boxes.retain(|b| b.used != Use::Person);
        for _ in 0..=sim.queue.len() + sim.boxes.len() {
            sim.dispatch()?;
            let kept = sim.boxes.iter().filter(|b| b.used == Use::Warm).cloned().collect();
            sim.boxes = kept;
        }
        for queued in &sim.queue {
            let ever = |pool: usize| sim.pools[pool].1 > 0 && (0..sim.hosts.len()).any(|host| sim.ever(pool, host));
            let could = (0..sim.pools.len()).any(|pool| sim.suits(queued.class, pool) && ever(pool));
            prop_assert!(!could, "{queued:?} was never started");
        }
    }
}
