//! A world for the scheduler: a queue, sandboxes on hosts, people who hold some. It keeps its own books, sandbox by
//! sandbox, and shares no arithmetic with what it tests.

use ostler_domain::schedule::{
    Amounts, HostRoom, Overcommit, PoolRoom, QueueClass, QueueHead, QueueWorld, SchedulerRules, TenantShare,
};
use ostler_domain::{Offer, Requirements, TenantId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Use {
    Warm,
    Run {
        seq: i64,
        class: usize,
        priority: i32,
        created_at: Timestamp,
        started_at: Timestamp,
    },
    Person,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SimBox {
    pub(crate) pool: usize,
    pub(crate) host: usize,
    pub(crate) used: Use,
}

#[derive(Debug, Clone)]
pub(crate) struct SimHost {
    pub(crate) capacity: Amounts,
    pub(crate) pools: BTreeSet<usize>,
    pub(crate) available: bool,
    /// A host that is not there is not told of.
    pub(crate) there: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) seq: i64,
    pub(crate) class: usize,
    pub(crate) priority: i32,
    pub(crate) created_at: Timestamp,
}

#[derive(Debug, Clone)]
pub(crate) struct Sim {
    pub(crate) now: Timestamp,
    pub(crate) slots: u32,
    pub(crate) rules: SchedulerRules,
    /// How many of each (class, priority) the scheduler is told by number.
    pub(crate) known: usize,
    pub(crate) next_seq: i64,
    pub(crate) pools: Vec<(Offer, u32)>,
    pub(crate) classes: Vec<(usize, Requirements)>,
    pub(crate) weights: Vec<u32>,
    pub(crate) hosts: Vec<SimHost>,
    pub(crate) boxes: Vec<SimBox>,
    pub(crate) queue: Vec<Queued>,
}

pub(crate) fn tenant(n: usize) -> TenantId {
    TenantId::from_u128(n as u128 + 1)
}

pub(crate) fn host_name(n: usize) -> String {
    format!("h{n}")
}

pub(crate) fn offer(n: usize, cpus: u32, memory_mb: u64) -> Offer {
    // As it is kept, so that what else an offer says does not matter here.
    let offer = serde_json::json!({
        "pool": format!("p{n}"), "driver": "sim", "image": null, "arch": "x86_64", "isolation": "namespace",
        "cpus": cpus, "memory_mb": memory_mb, "disk_mb": null, "network": "none",
        "labels": {}, "devices": [], "kernels": [],
    });
    serde_json::from_value(offer).unwrap()
}

/// CPUs, memory, disk, the device `gpu`.
pub(crate) fn row(amounts: &Amounts) -> [u64; 4] {
    let gpu = amounts.devices.get("gpu").copied().unwrap_or(0);
    [amounts.cpus, amounts.memory_mb, amounts.disk_mb, gpu]
}

/// What is kept, as the tests see it: so much less on a host, and one less of a pool.
pub(crate) type Kept = Option<(usize, usize)>;

impl Sim {
    /// One host of so many CPUs, one pool per entry of `sizes`, one class per pool and tenant that needs that many CPUs.
    pub(crate) fn simple(cpus: &[u64], sizes: &[u32], weights: &[u32]) -> Self {
        let mut classes = Vec::new();
        for tenant in 0..weights.len() {
            for size in sizes {
                classes.push((
                    tenant,
                    Requirements {
                        cpus: Some(*size),
                        ..Requirements::default()
                    },
                ));
            }
        }
        let hosts = cpus.iter().map(|cpus| SimHost {
            capacity: Amounts {
                cpus: *cpus,
                ..Amounts::unlimited()
            },
            pools: (0..sizes.len()).collect(),
            available: true,
            there: true,
        });
        Self {
            now: Timestamp(1_000_000_000_000),
            slots: 100,
            rules: SchedulerRules {
                ageing_seconds: 100,
                overcommit: Overcommit::default(),
            },
            known: 1,
            next_seq: 1,
            pools: sizes
                .iter()
                .enumerate()
                .map(|(n, size)| (offer(n, *size, 100), 100))
                .collect(),
            classes,
            weights: weights.to_vec(),
            hosts: hosts.collect(),
            boxes: Vec::new(),
            queue: Vec::new(),
        }
    }

    pub(crate) fn submit(&mut self, class: usize, priority: i32, skew_seconds: i64) -> i64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let created_at = Timestamp(self.now.0 + skew_seconds * 1_000_000);
        self.queue.push(Queued {
            seq,
            class,
            priority,
            created_at,
        });
        seq
    }

    pub(crate) fn cost(&self, pool: usize) -> [u64; 4] {
        row(&Amounts::of(&self.pools[pool].0))
    }

    /// What a host gives away.
    pub(crate) fn capacity(&self, host: usize) -> [u64; 4] {
        let [cpus, memory, disk, gpu] = row(&self.hosts[host].capacity);
        let Overcommit {
            cpus: c,
            memory: m,
            disk: d,
        } = self.rules.overcommit;
        let part = |has: u64, percent: u64| {
            (u128::from(has) * u128::from(percent) / 100).min(u64::MAX.into()) as u64
        };
        // A device that the host does not count never runs out.
        let counted = self.hosts[host].capacity.devices.contains_key("gpu");
        [
            part(cpus, c),
            part(memory, m),
            part(disk, d),
            if counted { gpu } else { u64::MAX },
        ]
    }

    pub(crate) fn in_use(&self, host: usize, which: impl Fn(&Use) -> bool) -> [u64; 4] {
        let mut sum = [0; 4];
        for found in self.boxes.iter().filter(|b| b.host == host && which(&b.used)) {
            for (sum, cost) in sum.iter_mut().zip(self.cost(found.pool)) {
                *sum += cost;
            }
        }
        sum
    }

    pub(crate) fn live(&self, pool: usize) -> usize {
        self.boxes.iter().filter(|b| b.pool == pool).count()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &SimBox> {
        self.boxes.iter().filter(|b| matches!(b.used, Use::Run { .. }))
    }

    pub(crate) fn running_of(&self, tenant: usize) -> usize {
        let of = |b: &&SimBox| matches!(b.used, Use::Run { class, .. } if self.classes[class].0 == tenant);
        self.running().filter(of).count()
    }

    pub(crate) fn slots_free(&self) -> u32 {
        self.slots.saturating_sub(self.running().count() as u32)
    }

    /// Whether a sandbox could ever be there.
    pub(crate) fn ever(&self, pool: usize, host: usize) -> bool {
        let fits = self
            .cost(pool)
            .iter()
            .zip(self.capacity(host))
            .all(|(cost, has)| *cost <= has);
        self.hosts[host].there && self.hosts[host].pools.contains(&pool) && fits
    }

    /// Whether a run of the class could be given a sandbox in this moment, by trying everything: with what is kept for
    /// another left alone, and all that is warm giving way.
    pub(crate) fn placeable(&self, class: usize, kept: Kept) -> bool {
        (0..self.pools.len()).any(|pool| {
            (0..self.hosts.len()).any(|host| self.suits(class, pool) && self.room_for(pool, host, kept))
        })
    }

    pub(crate) fn suits(&self, class: usize, pool: usize) -> bool {
        self.classes[class].1.unmet(&self.pools[pool].0).is_empty()
    }

    pub(crate) fn room_for(&self, pool: usize, host: usize, kept: Kept) -> bool {
        let of_runs = self.in_use(host, |used| *used != Use::Warm);
        let mut units = self.pools[pool].1 as usize;
        let own = |b: &&SimBox| b.pool == pool && b.used == Use::Warm && self.hosts[b.host].there;
        units = (units + self.boxes.iter().filter(own).count()).saturating_sub(self.live(pool));
        let mut aside = [0; 4];
        if let Some((kept_host, kept_pool)) = kept {
            if kept_host == host {
                aside = self.cost(kept_pool);
            }
            units = units.saturating_sub(usize::from(kept_pool == pool));
        }
        let capacity = self.capacity(host);
        let fits = (0..4).all(|r| {
            let cost = self.cost(pool)[r];
            cost == 0 || capacity[r] == u64::MAX || of_runs[r] + aside[r] + cost <= capacity[r]
        });
        self.hosts[host].available && self.ever(pool, host) && units > 0 && fits
    }

    /// What the scheduler is told.
    pub(crate) fn told(&self) -> QueueWorld {
        let amounts = |[cpus, memory_mb, disk_mb, gpu]: [u64; 4]| Amounts {
            cpus,
            memory_mb,
            disk_mb,
            devices: BTreeMap::from([("gpu".to_owned(), gpu)]),
        };
        let mut levels: BTreeMap<(usize, i32), Vec<&Queued>> = BTreeMap::new();
        for queued in &self.queue {
            levels
                .entry((queued.class, queued.priority))
                .or_default()
                .push(queued);
        }
        let mut heads = Vec::new();
        for level in levels.values_mut() {
            level.sort_by_key(|queued| queued.seq);
            let known = level.len().min(self.known.max(1));
            for (n, queued) in level.iter().take(known).enumerate() {
                heads.push(QueueHead {
                    class: queued.class as i64,
                    priority: queued.priority,
                    seq: queued.seq,
                    run: None,
                    created_at: queued.created_at,
                    more: if n + 1 == known {
                        (level.len() - known) as u32
                    } else {
                        0
                    },
                });
            }
        }
        let hosts = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.there)
            .map(|(n, host)| {
                let warm = host.pools.iter().map(|pool| {
                    let of = |b: &&SimBox| b.host == n && b.pool == *pool && b.used == Use::Warm;
                    (
                        self.pools[*pool].0.pool.clone(),
                        self.boxes.iter().filter(of).count() as u32,
                    )
                });
                HostRoom {
                    name: host_name(n),
                    unavailable: (!host.available).then(|| "it is in quarantine".to_owned()),
                    capacity: host.capacity.clone(),
                    passing: amounts(self.in_use(n, |used| matches!(used, Use::Run { .. }))),
                    lasting: amounts(self.in_use(n, |used| *used == Use::Person)),
                    warm: warm.collect(),
                }
            });
        QueueWorld {
            now: self.now,
            slots: self.slots_free(),
            classes: self
                .classes
                .iter()
                .enumerate()
                .map(|(n, (of, requirements))| QueueClass {
                    id: n as i64,
                    tenant: tenant(*of),
                    requirements: requirements.clone(),
                })
                .collect(),
            heads,
            pools: self
                .pools
                .iter()
                .enumerate()
                .map(|(n, (offer, max))| PoolRoom {
                    offer: offer.clone(),
                    max: *max,
                    live: self.live(n) as u32,
                })
                .collect(),
            hosts: hosts.collect(),
            tenants: self
                .weights
                .iter()
                .enumerate()
                .map(|(n, weight)| {
                    (
                        tenant(n),
                        TenantShare {
                            running: self.running_of(n) as u32,
                            weight: *weight,
                        },
                    )
                })
                .collect(),
        }
    }
}
