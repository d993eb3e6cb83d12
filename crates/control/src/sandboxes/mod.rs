//! Sandboxes: warm pools, claims, cold starts, health, ends, and what is found at start-up.
//!
//! The record comes before the thing: a sandbox is written down as `provisioning` before its driver starts it, and as
//! `destroying` before its driver removes it, so that whatever instant a server is killed at, its next start finds a
//! record for everything that its drivers have, or removes what has none.

mod capacity;
mod claim;
mod end;
mod health;
mod hosts;
mod idle;
mod place;
mod pools;
mod recover;
mod start;
mod usage;
mod view;
mod worker;

pub(crate) use capacity::{amounts, room_of};
pub(crate) use claim::Boot;
pub(crate) use claim::full;
pub use claim::{Claimed, Holder, Phase};
pub(crate) use health::Loss;
pub(crate) use health::crash;
pub(crate) use idle::driver_error;
pub use place::Counts;
pub(crate) use pools::Buckets;
pub use pools::PoolChange;
