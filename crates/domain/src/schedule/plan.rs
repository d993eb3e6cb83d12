//! What the scheduler decides.

use super::reason::{Reservation, WaitReason};
use std::sync::Arc;

/// Runs of one class and priority that are to be started, the first submitted ones first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Number of the class.
    pub class: i64,
    /// Priority as it was submitted.
    pub priority: i32,
    /// Name of the pool that gives each a sandbox.
    pub pool: String,
    /// Name of the host.
    pub host: String,
    /// How many.
    pub count: u32,
    /// How many of them get a sandbox that is warm; the others have one started.
    pub warm: u32,
    /// Warm sandboxes to be ended first, so that there is room.
    pub give_way: Vec<GiveWay>,
}

/// Warm sandboxes that are ended to make room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveWay {
    /// Name of their pool.
    pub pool: String,
    /// Name of the host.
    pub host: String,
    /// How many.
    pub count: u32,
}

/// A head that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Number of the class.
    pub class: i64,
    /// Priority as it was submitted.
    pub priority: i32,
    /// Priority as waiting has lifted it.
    pub effective: i64,
    /// Position in the order of submission.
    pub seq: i64,
    /// Why.
    pub reason: Arc<WaitReason>,
}

/// What is to be done now, and why the rest is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DispatchPlan {
    /// What is to be started, in this order.
    pub decisions: Vec<Decision>,
    /// The heads that are not taken, in order.
    pub waiting: Vec<Waiting>,
    /// What is kept free, for the first that does not fit.
    pub reserved: Option<Reservation>,
    /// There may be room for more, and who is first is known when the queue is looked at again.
    pub again: bool,
}
