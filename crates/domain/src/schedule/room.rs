//! What is free where, and what is left when something is taken: arithmetic only.
//!
//! Everything is by index, in flat tables: a plan looks at every pool and host once per class and once per run taken.

use super::reason::{Resource, RunRef};
use super::world::{Amounts, Overcommit, QueueWorld};
use std::collections::{BTreeSet, HashMap};

/// From here on an amount counts as without limit. What is below may be added and multiplied without a thought.
const UNLIMITED: i64 = 1 << 50;

/// What is kept for somebody.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) pool: usize,
    pub(super) host: usize,
    pub(super) by: RunRef,
}

/// The room on all hosts and in all pools.
#[derive(Clone)]
pub(super) struct Room<'a> {
    pub(super) world: &'a QueueWorld,
    /// The resources that are counted; their number is the width of the tables below.
    resources: Vec<Resource>,
    /// By pool: what a sandbox takes.
    pub(super) cost: Vec<i64>,
    /// By host: what it has, over-commitment included.
    pub(super) capacity: Vec<i64>,
    /// By host: what neither runs nor people have, whether or not something warm is there; less what is kept.
    pub(super) open: Vec<i64>,
    /// By host: what nothing at all has.
    pub(super) free: Vec<i64>,
    /// By host: what is there when all runs have ended.
    passable: Vec<i64>,
    /// By host and pool: the warm ones, where its sandboxes can be started.
    pub(super) warm: Vec<Option<u32>>,
    /// By pool: its sandboxes.
    pub(super) live: Vec<u32>,
    /// By pool: how many more runs it can have.
    pub(super) units: Vec<u32>,
    pub(super) kept: Option<Kept>,
}

impl<'a> Room<'a> {
    pub(super) fn new(world: &'a QueueWorld, overcommit: Overcommit) -> Self {
        let devices: BTreeSet<&String> = world
            .hosts
            .iter()
            .flat_map(|host| host.capacity.devices.keys())
            .collect();
        let mut resources = vec![Resource::Cpus, Resource::Memory, Resource::Disk];
        resources.extend(devices.into_iter().map(|name| Resource::Device(name.clone())));
        let amount = |amounts: &Amounts, resource: &Resource, unnamed: u64| {
            let amount = match resource {
                Resource::Cpus => amounts.cpus,
                Resource::Memory => amounts.memory_mb,
                Resource::Disk => amounts.disk_mb,
                Resource::Device(name) => amounts.devices.get(name).copied().unwrap_or(unnamed),
            };
            i64::try_from(amount).unwrap_or(UNLIMITED).min(UNLIMITED)
        };
        let given = |host: &Amounts, resource: &Resource| {
            let percent = match resource {
                Resource::Cpus => overcommit.cpus,
                Resource::Memory => overcommit.memory,
                Resource::Disk => overcommit.disk,
                Resource::Device(_) => 100,
            };
            match amount(host, resource, u64::MAX) {
                UNLIMITED => UNLIMITED,
                some => {
                    some.saturating_mul(i64::try_from(percent).unwrap_or(i64::MAX))
                        .min(UNLIMITED * 100)
                        / 100
                }
            }
        };
        let costs = world.pools.iter().map(|pool| Amounts::of(&pool.offer));
        let cost: Vec<i64> = costs
            .flat_map(|cost| resources.iter().map(|r| amount(&cost, r, 0)).collect::<Vec<_>>())
            .collect();
        let by_name: HashMap<&str, usize> = world
            .pools
            .iter()
            .enumerate()
            .map(|(n, pool)| (pool.offer.pool.as_str(), n))
            .collect();
        let (width, pools) = (resources.len(), world.pools.len());
        let (mut capacity, mut open, mut free, mut passable) = (vec![], vec![], vec![], vec![]);
        let mut warm = vec![None; world.hosts.len() * pools];
        let mut own_warm = vec![0u32; pools];
        for (h, host) in world.hosts.iter().enumerate() {
            for resource in &resources {
                let has = given(&host.capacity, resource);
                let stays = has - amount(&host.lasting, resource, 0);
                let left = stays - amount(&host.passing, resource, 0);
                capacity.push(has);
                passable.push(stays);
                open.push(left);
                free.push(left);
            }
            for (name, count) in &host.warm {
                let Some(pool) = by_name.get(name.as_str()) else {
                    continue;
                };
                warm[h * pools + pool] = Some(*count);
                own_warm[*pool] = own_warm[*pool].saturating_add(*count);
                for r in 0..width {
                    free[h * width + r] -= cost[pool * width + r]
                        .saturating_mul(i64::from(*count))
                        .min(UNLIMITED);
                }
            }
        }
        let live: Vec<u32> = world.pools.iter().map(|pool| pool.live).collect();
        let units = world
            .pools
            .iter()
            .zip(&own_warm)
            .map(|(pool, warm)| pool.max.saturating_sub(pool.live.saturating_sub(*warm)));
        Self {
            world,
            units: units.collect(),
            resources,
            cost,
            capacity,
            open,
            free,
            passable,
            warm,
            live,
            kept: None,
        }
    }

    pub(super) fn width(&self) -> usize {
        self.resources.len()
    }

    pub(super) fn units(&self, pool: usize) -> u32 {
        self.units[pool]
    }

    /// Where sandboxes of a pool can be started, whether or not there is room now.
    pub(super) fn hosts_of(&self, pool: usize) -> impl Iterator<Item = usize> {
        (0..self.world.hosts.len()).filter(move |host| self.warm_at(*host, pool).is_some())
    }

    pub(super) fn warm_at(&self, host: usize, pool: usize) -> Option<u32> {
        self.warm[host * self.world.pools.len() + pool]
    }

    /// For each resource that a sandbox of the pool takes and the host has not without limit: its index, what the
    /// sandbox takes, and what the table says of the host.
    pub(super) fn compared(
        &self,
        table: &[i64],
        host: usize,
        pool: usize,
    ) -> impl Iterator<Item = (usize, i64, i64)> {
        let width = self.width();
        let has = &table[host * width..(host + 1) * width];
        let takes = &self.cost[pool * width..(pool + 1) * width];
        let capacity = &self.capacity[host * width..(host + 1) * width];
        (0..width)
            .filter(move |r| takes[*r] > 0 && capacity[*r] < UNLIMITED)
            .map(move |r| (r, takes[r], has[r]))
    }

    pub(super) fn fits(&self, table: &[i64], host: usize, pool: usize) -> bool {
        self.compared(table, host, pool)
            .all(|(_, takes, has)| takes <= has)
    }

    /// Whether the empty host has what a sandbox takes.
    pub(super) fn fits_empty(&self, host: usize, pool: usize) -> bool {
        self.fits(&self.capacity, host, pool)
    }

    /// Whether it has when all runs have ended.
    pub(super) fn fits_without_runs(&self, host: usize, pool: usize) -> bool {
        self.fits(&self.passable, host, pool)
    }

    /// What a sandbox of the pool lacks on the host, what is kept for others counted as free: the sum over all resources,
    /// of each in 1/1024 of what the host has.
    pub(super) fn lack(&self, host: usize, pool: usize) -> i64 {
        let lacks = self.compared(&self.open, host, pool).map(|(r, takes, open)| {
            let lacks = takes - open - self.kept_of(host, r);
            lacks.max(0).saturating_mul(1024) / self.capacity[host * self.width() + r].max(1)
        });
        // What is less than a part in 1024 is not nothing.
        let exact = self
            .compared(&self.open, host, pool)
            .any(|(r, takes, open)| takes > open + self.kept_of(host, r));
        lacks.fold(0, i64::saturating_add).max(i64::from(exact))
    }

    /// The first resource that is too little for a sandbox of the pool: how much it takes, and how much is free, what is
    /// kept for others included.
    pub(super) fn lacking(&self, host: usize, pool: usize) -> Option<(Resource, u64, u64)> {
        let first = self
            .compared(&self.open, host, pool)
            .map(|(r, takes, open)| (r, takes, open + self.kept_of(host, r)))
            .find(|(_, takes, open)| takes > open);
        first.map(|found| self.told(found))
    }

    /// The same, when all runs have ended.
    pub(super) fn lacking_without_runs(&self, host: usize, pool: usize) -> Option<(Resource, u64, u64)> {
        let first = self
            .compared(&self.passable, host, pool)
            .find(|(_, takes, has)| takes > has);
        first.map(|found| self.told(found))
    }

    /// The same when nothing runs anywhere, of the host that comes closest, with that host.
    pub(super) fn too_large(&self, pool: usize) -> Option<(usize, Resource, u64, u64)> {
        let short = self.hosts_of(pool).filter_map(|host| {
            let lacks = |(_, takes, has): &(usize, i64, i64)| takes - has;
            let lacking = self
                .compared(&self.capacity, host, pool)
                .filter(|found| lacks(found) > 0);
            Some((host, lacking.max_by_key(lacks)?))
        });
        let (host, found) = short.min_by_key(|(_, (_, takes, has))| takes - has)?;
        let (resource, needed, has) = self.told(found);
        Some((host, resource, needed, has))
    }

    fn told(&self, (r, takes, has): (usize, i64, i64)) -> (Resource, u64, u64) {
        (self.resources[r].clone(), takes.max(0) as u64, has.max(0) as u64)
    }

    pub(super) fn kept_of(&self, host: usize, r: usize) -> i64 {
        match self.kept {
            Some(kept) if kept.host == host => self.cost[kept.pool * self.width() + r],
            _ => 0,
        }
    }
}
