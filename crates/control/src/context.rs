//! What all use cases share.

use crate::agents::{Programs, Served};
use crate::audit::Pending;
use crate::credentials::Keys;
use crate::hosts::{Drivers, LOCAL};
use crate::reconcilers::Reconcilers;
use crate::sandboxes::{Buckets, Loss};
use crate::{ControlError, LogStore, Result, SandboxSettings, SchedulerSettings, WorkSettings};
use ostler_agents::{Kinds, Prompts};
use ostler_domain::{
    Clock, DriverKind, MergeRequest, Project, ProjectId, Sandbox, ServerId, Subtask, SubtaskId, Task, TaskId,
    TenantId, Timestamp,
};
use ostler_forge::Repositories;
use ostler_sandbox::Driver;
use ostler_store::{Change, Column, NewEvent, Record, Store, StoreExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::broadcast;

/// What a [`Control`] is made of.
pub struct Parts {
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Clones and worktrees.
    pub repositories: Repositories,
    /// Agent kinds.
    pub kinds: Kinds,
    /// Prompt templates.
    pub prompts: Prompts,
    /// Intervals and limits.
    pub work: WorkSettings,
    /// The drivers that this server has.
    pub drivers: Drivers,
    /// How sandboxes are looked after.
    pub sandboxes: SandboxSettings,
    /// Run logs.
    pub logs: LogStore,
    /// This server.
    pub server_id: ServerId,
}

/// How many losses a slow listener may be behind: whoever misses one finds out by asking the guest.
const LOSSES: usize = 256;

/// The use cases; cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) parts: Arc<Parts>,
    pub(crate) reconcilers: Arc<Reconcilers>,
    pub(crate) keys: Keys,
    /// See [`Control::acting`].
    pub(crate) pending: Pending,
    /// The fill of the pools.
    pub(crate) buckets: Arc<Buckets>,
    /// Sandboxes that cannot be worked in any more.
    pub(crate) losses: broadcast::Sender<Loss>,
    /// The programs of agents that run here.
    pub(crate) programs: Arc<Programs>,
    /// The agents whose connections to the outside are taken here.
    pub(crate) served: Served,
    /// The way out of sandboxes whose network is filtered.
    pub(crate) egress: Option<ostler_egress::Proxy>,
    /// What builds images, where there is an engine for it.
    pub(crate) images: Arc<OnceLock<crate::Images>>,
    /// The plans of tests that are being settled here.
    pub(crate) moves: Arc<crate::plans::Moves>,
    /// Where what tests leave is kept.
    pub(crate) artifacts: Option<crate::artifacts::Artifacts>,
    /// How runs are taken up.
    pub(crate) scheduler: Arc<SchedulerSettings>,
    /// Held from the look at what a machine has left until the record of a new sandbox takes it.
    pub(crate) placing: Arc<tokio::sync::Mutex<()>>,
    /// Drivers that were wanted and cannot be used, and why.
    pub(crate) unavailable: Arc<BTreeMap<DriverKind, String>>,
}

impl Control {
    /// From its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            reconcilers: Arc::default(),
            keys: Keys::default(),
            pending: Pending::default(),
            buckets: Arc::default(),
            losses: broadcast::channel(LOSSES).0,
            programs: Arc::default(),
            served: Served::default(),
            egress: None,
            images: Arc::default(),
            moves: Arc::default(),
            artifacts: None,
            scheduler: Arc::default(),
            placing: Arc::default(),
            unavailable: Arc::default(),
        }
    }

    /// With a way out of sandboxes whose network is filtered. Without one they reach nothing.
    #[must_use]
    pub fn with_egress(mut self, proxy: ostler_egress::Proxy) -> Self {
        self.egress = Some(proxy);
        self
    }

    /// With other rules than the default ones for taking up runs.
    #[must_use]
    pub fn with_scheduler(mut self, settings: SchedulerSettings) -> Self {
        self.scheduler = Arc::new(settings);
        self
    }

    /// With the reasons why drivers that were wanted cannot be used: what is wrong and what to do.
    #[must_use]
    pub fn with_unavailable(mut self, drivers: BTreeMap<DriverKind, String>) -> Self {
        self.unavailable = Arc::new(drivers);
        self
    }

    /// Why this server cannot use a driver; `None` when it can.
    pub fn unavailable(&self, driver: DriverKind) -> Option<String> {
        if self.parts.drivers.has(driver) {
            return None;
        }
        let away = self.parts.drivers.away().into_iter();
        let mut reasons: Vec<String> = away
            .filter(|((kind, _), _)| *kind == driver)
            .map(|((_, name), why)| match name.as_str() {
                LOCAL => why,
                name => format!("on {name}: {why}"),
            })
            .collect();
        reasons.extend(self.unavailable.get(&driver).cloned());
        Some(if reasons.is_empty() {
            format!("this server has no {driver} driver; see `ostler doctor`")
        } else {
            format!("this server has no {driver} driver: {}", reasons.join("; "))
        })
    }

    /// The driver that runs a sandbox of this server.
    pub(crate) fn driver_of(&self, sandbox: &Sandbox) -> Result<Arc<dyn Driver>> {
        self.driver_on(sandbox.driver, &sandbox.host)
    }

    /// The driver of a kind on a host.
    pub(crate) fn driver_on(&self, kind: DriverKind, host: &str) -> Result<Arc<dyn Driver>> {
        self.parts.drivers.get(kind, host).ok_or_else(|| {
            let missing = || match self.parts.drivers.away().get(&(kind, host.to_owned())) {
                Some(why) => format!("the host {host} of the {kind} driver is away: {why}"),
                None => format!("this server has no {kind} driver on the host {host} any more"),
            };
            ControlError::Unavailable(self.unavailable(kind).unwrap_or_else(missing))
        })
    }

    /// The store, for what needs no rule.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.parts.store
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    pub(crate) async fn commit(&self, mut changes: Vec<Change>) -> Result<()> {
        let Some(entry) = self.pending.take() else {
            return Ok(self.parts.store.commit(changes).await?);
        };
        changes.push(entry.clone());
        let done = self.parts.store.commit(changes).await;
        if done.is_err() {
            self.pending.put_back(entry);
        }
        Ok(done?)
    }

    /// A row of the tenant; one of another tenant is not there.
    pub(crate) async fn owned<R, K>(&self, what: &'static str, tenant: TenantId, id: K) -> Result<R>
    where
        R: Record + Owned + Sync,
        K: Column + std::fmt::Display + Send + Copy,
    {
        let row: Option<R> = self.parts.store.get(id).await?;
        row.filter(|row| row.tenant() == tenant)
            .ok_or_else(|| ControlError::NotFound {
                what,
                id: id.to_string(),
            })
    }

    pub(crate) async fn project_of(&self, tenant: TenantId, id: ProjectId) -> Result<Project> {
        self.owned("project", tenant, id).await
    }

    pub(crate) async fn task_of(&self, tenant: TenantId, id: TaskId) -> Result<Task> {
        self.owned("task", tenant, id).await
    }

    pub(crate) async fn subtask_of(&self, tenant: TenantId, id: SubtaskId) -> Result<Subtask> {
        self.owned("subtask", tenant, id).await
    }

    /// The event that tells watchers of an object.
    pub(crate) fn event(
        &self,
        tenant: TenantId,
        kind: &str,
        subject: impl std::fmt::Display,
        data: impl Serialize,
    ) -> Change {
        Change::Event(NewEvent {
            tenant_id: Some(tenant),
            kind: kind.to_owned(),
            subject: subject.to_string(),
            data: serde_json::to_value(data).unwrap_or_default(),
            at: self.now(),
        })
    }

    /// A sandbox's new state, with an event for its holder. Counts its version up.
    pub(crate) fn sandbox_changes(&self, sandbox: &mut Sandbox, kind: &str) -> Vec<Change> {
        let mut changes = vec![Change::update(sandbox)];
        sandbox.version += 1;
        if let Some(tenant) = sandbox.tenant_id.filter(|_| !sandbox.for_run) {
            let view = ostler_contracts::SandboxView::from(sandbox.clone());
            changes.push(self.event(tenant, kind, sandbox.id, view));
        }
        changes
    }

    /// A task's new state, with the event.
    pub(crate) fn task_changes(&self, task: &mut Task) -> [Change; 2] {
        task.updated_at = self.now();
        let view = ostler_contracts::TaskView::from(task.clone());
        [
            Change::update(task),
            self.event(task.tenant_id, "task.updated", task.id, view),
        ]
    }

    /// A subtask's new state, with the event.
    pub(crate) fn subtask_changes(&self, subtask: &mut Subtask) -> [Change; 2] {
        subtask.updated_at = self.now();
        let view = ostler_contracts::SubtaskView::from(subtask.clone());
        [
            Change::update(subtask),
            self.event(subtask.tenant_id, "subtask.updated", subtask.id, view),
        ]
    }
}

/// A row that belongs to a tenant.
pub(crate) trait Owned {
    /// Whose it is.
    fn tenant(&self) -> TenantId;
}

macro_rules! owned {
    ($($type:ty),*) => {$(
        impl Owned for $type {
            fn tenant(&self) -> TenantId {
                self.tenant_id
            }
        }
    )*};
}
owned!(
    Project,
    Task,
    Subtask,
    MergeRequest,
    ostler_domain::TestPlan,
    ostler_domain::ApiToken,
    ostler_domain::Department,
    ostler_domain::User
);
