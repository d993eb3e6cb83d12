//! A store that ends its server at a step, and watches in which order runs are taken from the queue.

use crate::fuse::Fuse;
use crate::programs::Complaints;
use async_trait::async_trait;
use ostler_domain::{
    Clock, NewRun, PlanId, Run, RunId, RunStatus, Sandbox, SandboxId, ServerId, SystemClock, TenantId,
    Timestamp,
};
use ostler_store::{
    Cancelled, Change, ClaimRuns, ClaimSandbox, Event, FinishRun, Head, Hint, MigrationStatus, RequeueRun,
    RunClass, RunCounters, RunFilter, RunQueue, SandboxCount, SandboxStamp, Store, StoreError, Table, Told,
    Value,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

type Result<T> = std::result::Result<T, StoreError>;

/// When runs were first seen waiting for their turn by somebody, in any server of the world.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<HashMap<RunId, Timestamp>>);

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what waits in a list of runs that was read.
    pub(crate) fn note(&self, runs: &[Run], now: Timestamp) {
        let mut seen = self.lock();
        for run in runs {
            let waits = run.status == RunStatus::Queued
                && !run.submitted.held
                && run.submitted.not_before.is_none_or(|due| due <= now);
            if waits {
                seen.entry(run.submitted.id).or_insert(now);
            } else {
                seen.remove(&run.submitted.id);
            }
        }
    }

    fn since(&self, id: RunId) -> Option<Timestamp> {
        self.lock().get(&id).copied()
    }
}

/// A store as a server of these tests sees it.
pub(crate) struct Watched {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) complaints: Arc<Complaints>,
    /// Claims are watched one at a time.
    pub(crate) claims: tokio::sync::Mutex<()>,
}

impl Watched {
    async fn queued(&self) -> Result<Vec<Run>> {
        let filter = RunFilter {
            status: Some(RunStatus::Queued),
            limit: 10_000,
            ..RunFilter::default()
        };
        self.inner.runs(filter).await
    }

    /// What waited before a claim began, and goes before what was taken, must have been taken as well.
    async fn check_order(&self, claim: &ClaimRuns, waited: &[Run], taken: &[Run]) -> Result<()> {
        for run in taken {
            for other in waited {
                let (one, two) = (&run.submitted, &other.submitted);
                let alike = one.tenant_id == two.tenant_id && one.requirements == two.requirements;
                let seen = self.waiting.since(two.id).is_some_and(|since| since < claim.now);
                let due = two.not_before.is_none_or(|due| due <= claim.now) && !two.held;
                let first = (two.priority, -other.seq) > (one.priority, -run.seq);
                if !alike || !seen || !due || !first || taken.iter().any(|taken| taken.submitted.id == two.id)
                {
                    continue;
                }
                let now = self.inner.run(two.id).await?;
                if now.is_some_and(|now| now.status == RunStatus::Queued && !now.cancel_requested) {
                    let rule = if two.priority > one.priority {
                        "the higher priority goes first"
                    } else {
                        "of equal priority, the first submitted goes first"
                    };
                    self.complaints.add(format!(
                        "{rule}: number {} of priority {} was taken before number {} of priority {}",
                        run.seq, one.priority, other.seq, two.priority
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Methods that are handed on: a `step` is one that others see.
macro_rules! handed_on {
    ($trait:ident { $($kind:ident $name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)* } { $($more:tt)* }) => {
        #[async_trait]
        impl $trait for Watched {
            $(async fn $name(&self $(, $arg: $type)*) -> $ret {
                handed_on!(@$kind self);
                let answer = self.inner.$name($($arg),*).await;
                handed_on!(@$kind self);
                answer
            })*
            $($more)*
        }
    };
    (@step $self:ident) => { $self.fuse.step().await };
    (@read $self:ident) => { $self.fuse.gate().await };
}

handed_on!(RunQueue {
    step enqueue(runs: Vec<NewRun>) -> Result<Vec<i64>>;
    read classes() -> Result<Vec<RunClass>>;
    step release(ids: Vec<RunId>) -> Result<u64>;
    step skip(ids: Vec<RunId>, reason: String, at: Timestamp) -> Result<Vec<bool>>;
    read heads(classes: &[i64], now: Timestamp) -> Result<Vec<Head>>;
    read next_due(classes: &[i64], now: Timestamp) -> Result<Option<Timestamp>>;
    step assign_sandbox(id: RunId, attempt: u32, sandbox: SandboxId) -> Result<bool>;
    step finish(ends: Vec<FinishRun>) -> Result<Vec<bool>>;
    step requeue(runs: Vec<RequeueRun>) -> Result<Vec<Option<RunStatus>>>;
    step request_cancel(id: RunId, at: Timestamp) -> Result<Cancelled>;
    read cancel_requests(server: ServerId) -> Result<Vec<RunId>>;
    read running(server: ServerId) -> Result<Vec<Run>>;
    read run(id: RunId) -> Result<Option<Run>>;
    read runs(filter: RunFilter) -> Result<Vec<Run>>;
    read counters(tenant: Option<TenantId>) -> Result<RunCounters>;
    read plan_counters(plan: PlanId) -> Result<RunCounters>;
    read plan_held(plan: PlanId) -> Result<i64>;
    read position(id: RunId) -> Result<Option<u64>>;
    read heartbeat(server: ServerId, now: Timestamp) -> Result<()>;
    read running_by_tenant() -> Result<BTreeMap<TenantId, i64>>;
    read silent_servers(before: Timestamp) -> Result<Vec<ServerId>>;
} {
    async fn claim(&self, claim: ClaimRuns) -> Result<Vec<Run>> {
        let _one = self.claims.lock().await;
        self.fuse.step().await;
        let waited = self.queued().await?;
        let taken = self.inner.claim(claim.clone()).await?;
        self.check_order(&claim, &waited, &taken).await?;
        self.waiting.note(&waited, SystemClock.now());
        self.waiting.note(&taken, SystemClock.now());
        self.fuse.step().await;
        Ok(taken)
    }
});

handed_on!(Store {
    step commit(changes: Vec<Change>) -> Result<()>;
    read select(table: &'static Table, sql: String, parameters: Vec<Value>) -> Result<Vec<Vec<Value>>>;
    step claim_sandbox(claim: ClaimSandbox, told: Option<Told>) -> Result<Option<Sandbox>>;
    read stamp_sandboxes(ids: Vec<SandboxId>, what: SandboxStamp, at: Timestamp) -> Result<()>;
    read sandbox_counts() -> Result<Vec<SandboxCount>>;
    read prune(table: &'static Table, column: &'static str, before: Timestamp) -> Result<u64>;
    read events(tenant: Option<TenantId>, after: i64, limit: u32) -> Result<Vec<Event>>;
    read last_event() -> Result<i64>;
    read migrations() -> Result<Vec<MigrationStatus>>;
    read migrate_up(to: Option<i64>) -> Result<Vec<i64>>;
    read migrate_down(to: i64) -> Result<Vec<i64>>;
    read close() -> ();
} {
    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.inner.hints()
    }
});
