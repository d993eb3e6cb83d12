//! What the scheduler is told: the front of the queue, the pools, the hosts, the tenants.

use crate::{Offer, Requirements, RunId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the scheduler orders and fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerRules {
    /// Seconds of waiting that lift a run by one priority; 0 for never, and then a stream of runs of higher priority keeps
    /// one of lower priority waiting for ever.
    pub ageing_seconds: u64,
    /// How much of a host is given away.
    pub overcommit: Overcommit,
}

impl Default for SchedulerRules {
    fn default() -> Self {
        Self {
            ageing_seconds: 300,
            overcommit: Overcommit::default(),
        }
    }
}

/// How much of what a host has is given to sandboxes, percent. Devices are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overcommit {
    /// Of its CPUs.
    pub cpus: u64,
    /// Of its memory.
    pub memory: u64,
    /// Of its disk.
    pub disk: u64,
}

impl Default for Overcommit {
    /// All, and no more.
    fn default() -> Self {
        Self {
            cpus: 100,
            memory: 100,
            disk: 100,
        }
    }
}

/// Amounts of everything that a host has and a sandbox takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts {
    /// CPUs.
    pub cpus: u64,
    /// Memory, MiB.
    pub memory_mb: u64,
    /// Disk, MiB.
    pub disk_mb: u64,
    /// Devices by name. Of a host those that only one sandbox can have at a time; one that is not named is shared, as
    /// `kvm` is, and never runs out.
    pub devices: BTreeMap<String, u64>,
}

impl Amounts {
    /// Of a host of which nothing is known: as much as anybody wants.
    pub const fn unlimited() -> Self {
        Self {
            cpus: u64::MAX,
            memory_mb: u64::MAX,
            disk_mb: u64::MAX,
            devices: BTreeMap::new(),
        }
    }

    /// What one sandbox takes. One without a limit to its disk takes none that is counted.
    pub fn of(offer: &Offer) -> Self {
        Self {
            cpus: u64::from(offer.cpus),
            memory_mb: offer.memory_mb,
            disk_mb: offer.disk_mb.unwrap_or(0),
            devices: offer.devices.iter().map(|name| (name.clone(), 1)).collect(),
        }
    }

    /// Adds another; saturates.
    pub fn add(&mut self, other: &Self) {
        self.cpus = self.cpus.saturating_add(other.cpus);
        self.memory_mb = self.memory_mb.saturating_add(other.memory_mb);
        self.disk_mb = self.disk_mb.saturating_add(other.disk_mb);
        for (name, count) in &other.devices {
            let sum = self.devices.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
}

/// All waiting runs of one tenant with equal requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueClass {
    /// Number of the class.
    pub id: i64,
    /// Whose runs.
    pub tenant: TenantId,
    /// What they need.
    pub requirements: Requirements,
}

/// One of the first waiting runs of a class and priority.
///
/// The first of each (class, priority) must be there; the more of those that follow, the more is decided at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHead {
    /// Its class, by number.
    pub class: i64,
    /// Priority as it was submitted.
    pub priority: i32,
    /// Position in the order of submission, unique.
    pub seq: i64,
    /// Its id, where the caller has it: only for messages.
    pub run: Option<RunId>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// How many more wait behind it in the same class and priority that are not heads of their own. A guess that is too
    /// high will do, if whoever claims fewer runs than were planned looks at the queue again.
    pub more: u32,
}

/// A pool as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRoom {
    /// What its sandboxes offer, and so what each takes of a host.
    pub offer: Offer,
    /// Most sandboxes at once, on all servers.
    pub max: u32,
    /// Sandboxes that are not gone, on all servers: warm, starting, held or ending.
    pub live: u32,
}

/// A machine that sandboxes are started on; if several drivers share it, it is still one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// Name, unique.
    pub name: String,
    /// Why nothing is to be started there at present, if that is so.
    pub unavailable: Option<String>,
    /// What it has. A part of which nothing is known is `u64::MAX`.
    pub capacity: Amounts,
    /// What is in use there and comes free by itself: sandboxes of runs, and those that are being started or ended.
    pub passing: Amounts,
    /// What is in use there for as long as somebody likes: sandboxes that people hold.
    pub lasting: Amounts,
    /// The pools whose sandboxes can be started there, by name, and how many of each are warm there. A warm one of any
    /// other kind belongs to `passing`.
    pub warm: BTreeMap<String, u32>,
}

/// What a tenant has and is entitled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantShare {
    /// Runs of it that are being executed.
    pub running: u32,
    /// Its share is its weight among those who want something; 0 counts as 1.
    pub weight: u32,
}

impl Default for TenantShare {
    fn default() -> Self {
        Self {
            running: 0,
            weight: 1,
        }
    }
}

/// Everything that one plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueWorld {
    /// The present.
    pub now: Timestamp,
    /// Runs that the server can take up now.
    pub slots: u32,
    /// The classes of the heads.
    pub classes: Vec<QueueClass>,
    /// The front of the queue, in any order.
    pub heads: Vec<QueueHead>,
    /// The pools.
    pub pools: Vec<PoolRoom>,
    /// The hosts of this server.
    pub hosts: Vec<HostRoom>,
    /// Tenants; one that is not there has nothing running and the weight 1.
    pub tenants: BTreeMap<TenantId, TenantShare>,
}
