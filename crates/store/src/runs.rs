//! The run queue.

use crate::{Change, StoreError};
use async_trait::async_trait;
use ostler_domain::{
    NewRun, PlanId, ProjectId, Requirements, Run, RunId, RunKind, RunOutcome, RunStatus, SandboxId, ServerId,
    SubtaskId, TaskId, TenantId, Timestamp,
};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// A class: all runs of one tenant with equal requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunClass {
    /// Number of the class in this store.
    pub id: i64,
    /// Whose runs they are.
    pub tenant_id: TenantId,
    /// What its runs need.
    pub requirements: Requirements,
}

/// Which runs a server can start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRuns {
    /// Who claims.
    pub server_id: ServerId,
    /// Classes whose requirements it can satisfy.
    pub classes: Vec<i64>,
    /// When there are any, only these are taken, in the order of the list as far as `limit` goes, and `classes` is not
    /// looked at. Those of one class and priority are one pick, where the first of them stands.
    pub picks: Vec<Pick>,
    /// At most this many.
    pub limit: u32,
    /// The present: runs with a later `not_before` are left.
    pub now: Timestamp,
    /// The sandbox that all of them are executed in, where that is known already; noted as by
    /// [`RunQueue::assign_sandbox`].
    pub sandbox: Option<SandboxId>,
}

impl ClaimRuns {
    /// The picks, each class and priority once.
    pub fn merged_picks(&self) -> Vec<Pick> {
        let mut merged: Vec<Pick> = Vec::with_capacity(self.picks.len());
        let mut places = HashMap::with_capacity(self.picks.len());
        for pick in &self.picks {
            match places.entry((pick.class, pick.priority)) {
                Entry::Vacant(place) => {
                    place.insert(merged.len());
                    merged.push(*pick);
                }
                Entry::Occupied(place) => {
                    let first = &mut merged[*place.get()];
                    first.limit = first.limit.saturating_add(pick.limit);
                }
            }
        }
        merged
    }
}

/// Some of the oldest runs of one class and one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The class.
    pub class: i64,
    /// Exactly this priority.
    pub priority: i32,
    /// At most this many.
    pub limit: u32,
}

/// Priorities that [`RunQueue::heads`] tells of each class, from the highest.
pub const LEVELS: u32 = 16;

/// The first waiting run of a class and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The class.
    pub class: i64,
    /// The priority.
    pub priority: i32,
    /// Number of the run.
    pub seq: i64,
    /// When it was submitted.
    pub created_at: Timestamp,
}

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishRun {
    /// Which run.
    pub id: RunId,
    /// Which attempt; a write about any other than the present one changes nothing.
    pub attempt: u32,
    /// A terminal state; with any other the whole call fails with [`StoreError::Engine`].
    pub status: RunStatus,
    /// How it ended.
    pub outcome: RunOutcome,
    /// When.
    pub at: Timestamp,
    /// What is committed with the end, if it is one. An error of any of these fails the whole call, and then nothing of
    /// it is changed.
    pub then: Vec<Change>,
}

impl FinishRun {
    /// Whether another run of the same test takes the place of this one: what the outcome says.
    pub fn is_superseded(&self) -> bool {
        self.outcome.test.as_ref().is_some_and(|test| test.superseded)
    }
}

/// An attempt that came to nothing through no fault of its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequeueRun {
    /// Which run.
    pub id: RunId,
    /// Which attempt.
    pub attempt: u32,
    /// Why. Kept as `outcome.error` when the run is `lost` by it; otherwise the caller tells.
    pub reason: String,
    /// Not to be started again before this. Replaces the run's own `not_before`, with `None` too.
    pub not_before: Option<Timestamp>,
    /// When.
    pub at: Timestamp,
    /// Whether the attempt counts against `max_attempts`. One that never reached a sandbox does not. Attempt numbers go
    /// on rising all the same, since they are the fence.
    pub counts: bool,
}

/// What a request to end a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was waiting, and is cancelled now.
    AtOnce,
    /// It is being executed; its server has been told.
    Requested,
    /// It had ended before.
    TooLate,
    /// There is no such run.
    Unknown,
}

/// How many runs there are in each state; exact at any instant. A state without runs may be missing or 0.
pub type RunCounters = BTreeMap<RunStatus, i64>;

/// Which runs are wanted; newest first, unless `after_seq` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Owner.
    pub tenant_id: Option<TenantId>,
    /// Project.
    pub project_id: Option<ProjectId>,
    /// Task.
    pub task_id: Option<TaskId>,
    /// Subtask.
    pub subtask_id: Option<SubtaskId>,
    /// Plan.
    pub plan_id: Option<PlanId>,
    /// Whether those are left out whose place another run of the same test has taken.
    pub latest_only: bool,
    /// Kind.
    pub kind: Option<RunKind>,
    /// State.
    pub status: Option<RunStatus>,
    /// Whether only those are wanted that are held now.
    pub held_only: bool,
    /// Only those submitted before the run with this number, to page on.
    pub before_seq: Option<i64>,
    /// Only those submitted after the run with this number, and oldest first, to page on in that order (0 to begin).
    pub after_seq: Option<i64>,
    /// At most this many; 0 means 50.
    pub limit: u32,
}

/// The one queue of everything that is executed.
///
/// Order: higher priority first, then first submitted first. A run that is *held* has no place in it before it is
/// released: nobody is given it and it holds up nobody; otherwise it is one of those that are queued. [`NewRun::held`] of
/// a run that is read says whether it is held now. A run is claimed by one server for one *attempt*; every
/// later write names (run, attempt) and changes nothing once that attempt is over.
///
/// Runs refer to nothing: no tenant, project or task need exist for them, and they outlive those, since they are the
/// history of what was executed and paid for.
#[async_trait]
pub trait RunQueue: Send + Sync {
    /// Puts runs on the queue, all or none; returns their numbers in the order given. An id that is there already, or
    /// twice in the list, is `Duplicate` of `runs` and `id`.
    async fn enqueue(&self, runs: Vec<NewRun>) -> Result<Vec<i64>, StoreError>;

    /// Classes that runs have been submitted for. Never shrinks while the server runs; at most a few thousand.
    async fn classes(&self) -> Result<Vec<RunClass>, StoreError>;

    /// Lets held runs wait for their turn, at the place in the order that they have by their priority and number, or for
    /// their `not_before` if they have one. Others are left as they are. Returns how many were held.
    async fn release(&self, ids: Vec<RunId>) -> Result<u64, StoreError>;

    /// Ends runs that wait, held or not, as `skipped`, with `reason` as `outcome.error`. For each whether it did; one that
    /// does not wait, or is not there, is left as it is.
    async fn skip(&self, ids: Vec<RunId>, reason: String, at: Timestamp) -> Result<Vec<bool>, StoreError>;

    /// The first run that can be started of each class and priority, of each class at most [`LEVELS`] priorities, from the
    /// highest; in the order of class and then priority. The cost depends on how many are told and not on how many wait.
    async fn heads(&self, classes: &[i64], now: Timestamp) -> Result<Vec<Head>, StoreError>;

    /// Claims waiting runs in order and makes them `running` with the next attempt number. Never gives one run to two.
    /// A run whose `not_before` is still to come does not hold up others; once due it is at its place in the order. The
    /// answer is in that order over all classes together.
    async fn claim(&self, claim: ClaimRuns) -> Result<Vec<Run>, StoreError>;

    /// When the next run of these classes that waits for its `not_before` comes due: always later than `now`.
    async fn next_due(&self, classes: &[i64], now: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Notes the sandbox that an attempt is executed in. False when the attempt is over.
    async fn assign_sandbox(&self, id: RunId, attempt: u32, sandbox: SandboxId) -> Result<bool, StoreError>;

    /// Ends attempts. For each: whether it was still the present one; if not, nothing was changed.
    async fn finish(&self, ends: Vec<FinishRun>) -> Result<Vec<bool>, StoreError>;

    /// Puts attempts that came to nothing back on the queue, at their old place. One that has used up its attempts
    /// becomes `lost`, one whose end was requested becomes `cancelled` (which goes before `lost`). For each the state it
    /// is in now; `None` if the attempt was over. A run that waits again has neither server nor sandbox; `started_at`
    /// stays. `lost` and `cancelled` set `finished_at`, and keep server and sandbox.
    async fn requeue(&self, runs: Vec<RequeueRun>) -> Result<Vec<Option<RunStatus>>, StoreError>;

    /// Requests the end of a run. `cancel_requested` is set in either case; a waiting run gets `finished_at` and an empty
    /// outcome. Asking again for a running one is `Requested` again.
    async fn request_cancel(&self, id: RunId, at: Timestamp) -> Result<Cancelled, StoreError>;

    /// The runs that `server` is executing and whose end was requested.
    async fn cancel_requests(&self, server: ServerId) -> Result<Vec<RunId>, StoreError>;

    /// The runs that `server` is executing.
    async fn running(&self, server: ServerId) -> Result<Vec<Run>, StoreError>;

    /// One run.
    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError>;

    /// Runs.
    async fn runs(&self, filter: RunFilter) -> Result<Vec<Run>, StoreError>;

    /// How many there are in each state: of one tenant, or of all.
    async fn counters(&self, tenant: Option<TenantId>) -> Result<RunCounters, StoreError>;

    /// How many runs of each tenant are being executed; tenants without any may be left out.
    async fn running_by_tenant(&self) -> Result<BTreeMap<TenantId, i64>, StoreError>;

    /// How many runs of a plan there are in each state, without those whose place another has taken; exact at any instant.
    async fn plan_counters(&self, plan: PlanId) -> Result<RunCounters, StoreError>;

    /// How many of the queued ones among them are held.
    async fn plan_held(&self, plan: PlanId) -> Result<i64, StoreError>;

    /// How many waiting runs of the same class go before this one, held ones not counted, those that still wait for their `not_before`
    /// included; `None` when it is not waiting.
    async fn position(&self, id: RunId) -> Result<Option<u64>, StoreError>;

    /// Says that `server` lives. Its runs are its own as long as it goes on saying so. An earlier `now` than the last one
    /// changes nothing.
    async fn heartbeat(&self, server: ServerId, now: Timestamp) -> Result<(), StoreError>;

    /// Servers with running runs that have not been heard of since `before`: the last heartbeat is earlier, or there
    /// never was one.
    async fn silent_servers(&self, before: Timestamp) -> Result<Vec<ServerId>, StoreError>;
}
