//! Why a run waits, as values and as sentences.

use crate::RunId;
use std::fmt;

/// A run in a message: by its id where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRef {
    /// Position in the order of submission.
    pub seq: i64,
    /// Its id.
    pub run: Option<RunId>,
}

/// What a host can run out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// CPUs.
    Cpus,
    /// Memory, MiB.
    Memory,
    /// Disk, MiB.
    Disk,
    /// A device, by name.
    Device(String),
}

/// What is kept free for the first run that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The run.
    pub by: RunRef,
    /// The pool that it will have a sandbox of.
    pub pool: String,
    /// The host that has what such a sandbox takes the soonest.
    pub host: String,
}

/// Why a run was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Every run that the server may execute at once is under way.
    Slots,
    /// It would have been taken, had others of its level not had the smaller part of their share.
    Share {
        /// Runs of its tenant that are being executed, those of this plan included.
        running: u32,
        /// The tenant's weight.
        weight: u32,
    },
    /// Whether it or another is first is not known before the queue is looked at again, which is done at once.
    Turn,
    /// Pools suit it, and something stands in the way in each.
    Busy {
        /// What stands in the way in each pool that suits it.
        pools: Vec<PoolObstacle>,
        /// What is kept free for it.
        reserved: Option<Reservation>,
    },
    /// No pool can ever serve it, as pools and hosts are now.
    Impossible {
        /// What each pool lacks; empty when there is no pool.
        pools: Vec<PoolObstacle>,
    },
}

/// What stands in the way in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolObstacle {
    /// Name of the pool.
    pub pool: String,
    /// What it is.
    pub obstacle: Obstacle,
}

/// What can stand in the way of a sandbox of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Its sandboxes are not what the run needs.
    Unmet(Vec<String>),
    /// It may have no sandboxes.
    Closed,
    /// One of its sandboxes is more than any host has.
    TooLarge {
        /// The host that comes closest.
        host: String,
        /// Of what there is too little.
        resource: Resource,
        /// How much a sandbox takes.
        needed: u64,
        /// How much that host has in all.
        has: u64,
    },
    /// This server has no host for it at present.
    NoHost,
    /// The hosts for it are not to be used at present.
    Unavailable {
        /// One of them.
        host: String,
        /// Why.
        why: String,
    },
    /// It has as many sandboxes as it may have, none of them warm here.
    Full {
        /// How many that is.
        max: u32,
    },
    /// The host that lacks the least lacks this.
    Capacity {
        /// The host.
        host: String,
        /// Of what there is too little.
        resource: Resource,
        /// How much a sandbox takes.
        needed: u64,
        /// How much is free, what warm sandboxes would give way with included.
        free: u64,
    },
    /// It is as for [`Self::Capacity`], but what is in the way is held by people and comes free when they like.
    Held {
        /// The host.
        host: String,
        /// Of what there is too little.
        resource: Resource,
        /// How much a sandbox takes.
        needed: u64,
        /// How much is left when all runs have ended.
        left: u64,
    },
    /// There would be enough, but it is kept for another run that has waited longer.
    Reserved {
        /// The host.
        host: String,
        /// For which.
        by: RunRef,
    },
}

impl Obstacle {
    /// Whether it goes away only when pools or hosts are changed.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Unmet(_) | Self::Closed | Self::TooLarge { .. })
    }
}

impl fmt::Display for RunRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            Some(run) => write!(f, "{run}"),
            None => write!(f, "the run submitted as number {}", self.seq),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus => f.write_str("CPUs"),
            Self::Memory => f.write_str("MiB of memory"),
            Self::Disk => f.write_str("MiB of disk"),
            Self::Device(name) => write!(f, "of the device {name}"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmet(lacks) => f.write_str(&lacks.join(", ")),
            Self::Closed => f.write_str("its maximum is 0"),
            Self::TooLarge {
                host,
                resource,
                needed,
                has,
            } => {
                write!(
                    f,
                    "a sandbox takes {needed} {resource}, and {host}, which comes closest, has {has} in all"
                )
            }
            Self::NoHost => f.write_str("no host of its driver is there"),
            Self::Unavailable { host, why } => write!(f, "nothing is started on {host}: {why}"),
            Self::Full { max } => write!(f, "all {max} sandboxes that it may have are in use"),
            Self::Capacity {
                host,
                resource,
                needed,
                free,
            } => {
                write!(
                    f,
                    "a sandbox takes {needed} {resource}, and {host} has {free} free"
                )
            }
            Self::Held {
                host,
                resource,
                needed,
                left,
            } => write!(
                f,
                "a sandbox takes {needed} {resource}, and people hold all but {left} on {host}"
            ),
            Self::Reserved { host, by } => write!(f, "what is free on {host} is kept for {by}"),
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots => f.write_str("all slots of the server are in use"),
            Self::Share { running, weight } => write!(
                f,
                "others have less of their share and go first; {running} runs of its tenant, whose weight is {weight}, \
                 are being executed"
            ),
            Self::Turn => f.write_str("others are taken up just now, and it is looked at again then"),
            Self::Busy { pools, reserved } => {
                f.write_str("it waits. ")?;
                listed(f, pools)?;
                if let Some(Reservation { host, pool, .. }) = reserved {
                    write!(f, "; what a sandbox of {pool} takes is kept for it on {host} as it comes free")?;
                }
                Ok(())
            }
            Self::Impossible { pools } if pools.is_empty() => f.write_str(
                "no pool is set up; make one with `ostler pool set`, or let `ostler doctor` say why there is none",
            ),
            Self::Impossible { pools } => {
                f.write_str("no pool satisfies the requirements. ")?;
                listed(f, pools)
            }
        }
    }
}

fn listed(f: &mut fmt::Formatter<'_>, pools: &[PoolObstacle]) -> fmt::Result {
    for (n, PoolObstacle { pool, obstacle }) in pools.iter().enumerate() {
        let between = if n == 0 { "" } else { "; " };
        write!(f, "{between}{pool}: {obstacle}")?;
    }
    Ok(())
}
