//! The store as a whole.

use crate::{Change, Column, Event, Filter, Op, Record, RunQueue, StoreError, Table, Value, corrupt};
use async_trait::async_trait;
use ostler_domain::{
    DepartmentId, DriverKind, Sandbox, SandboxId, SandboxStatus, ServerId, TenantId, Timestamp,
};
use std::sync::Arc;
use tokio::sync::broadcast;

/// Something may have changed. Hints are coalesced and may be lost or false; a query tells the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hint {
    /// Runs were put on the queue.
    RunsQueued,
    /// The end of a run was requested.
    CancelRequested,
    /// Runs ended.
    RunsFinished,
    /// Events were appended.
    Events,
    /// The pool's sandboxes or its settings changed.
    Pools,
}

/// What a claim of a sandbox needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimSandbox {
    /// The pool.
    pub pool: String,
    /// The server whose driver runs it.
    pub server_id: ServerId,
    /// The new holder.
    pub tenant_id: TenantId,
    /// Its department.
    pub department_id: Option<DepartmentId>,
    /// The holder's configuration.
    pub config: serde_json::Value,
    /// See [`Sandbox::tool_allowlist`].
    pub tool_allowlist: Option<Vec<String>>,
    /// See [`Sandbox::for_run`].
    pub for_run: bool,
    /// The present.
    pub now: Timestamp,
}

/// What tells of a claim, made from the sandbox as it was claimed. It may be called more than once, also for a claim that
/// then comes to nothing.
pub type Told = Arc<dyn Fn(&Sandbox) -> Vec<Change> + Send + Sync>;

/// What [`Store::stamp_sandboxes`] notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxStamp {
    /// They were found healthy: `checked_at`.
    Checked,
    /// Their holder used them: `used_at`.
    Used,
    /// Their holder gave them what may be secret: `secrets_at`. Nothing takes that away again.
    Secrets,
}

impl SandboxStamp {
    /// The column.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Checked => "checked_at",
            Self::Used => "used_at",
            Self::Secrets => "secrets_at",
        }
    }
}

/// Some of the sandboxes that are not destroyed, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxCount {
    /// Their pool.
    pub pool: String,
    /// Their driver.
    pub driver: DriverKind,
    /// Their server.
    pub server_id: ServerId,
    /// The host of the driver.
    pub host: String,
    /// Their state.
    pub status: SandboxStatus,
    /// Whether they end with the run that holds them.
    pub for_run: bool,
    /// How many.
    pub count: u32,
}

/// The statement of [`Store::sandbox_counts`], the same for every backend.
pub const SANDBOX_COUNTS: &str = "SELECT pool, driver, server_id, host, status, for_run, count(*) FROM sandboxes \
    WHERE status <> 'destroyed' GROUP BY pool, driver, server_id, host, status, for_run ORDER BY 1, 2, 3, 4, 5, 6";

impl SandboxCount {
    /// From the values of a row of [`SANDBOX_COUNTS`].
    pub fn from_values(values: Vec<Value>) -> Result<Self, StoreError> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Null);
        let wrong = |message| corrupt("sandboxes", "count", message);
        Ok(Self {
            pool: Column::from_value(next()).map_err(wrong)?,
            driver: Column::from_value(next()).map_err(wrong)?,
            server_id: Column::from_value(next()).map_err(wrong)?,
            host: Column::from_value(next()).map_err(wrong)?,
            status: Column::from_value(next()).map_err(wrong)?,
            for_run: Column::from_value(next()).map_err(wrong)?,
            count: Column::from_value(next()).map_err(wrong)?,
        })
    }
}

/// Something that is not as it should be, such as a protection that is not in force: sentences for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcoming {
    /// What was found.
    pub found: String,
    /// What it means.
    pub meaning: String,
    /// What to do about it.
    pub advice: String,
}

/// One migration and whether it has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Number, from 1.
    pub version: i64,
    /// What it does.
    pub name: String,
    /// Whether it is in force.
    pub applied: bool,
}

/// Everything that is kept. A backend with row-level security keeps every call within the present [`crate::Scope`].
#[async_trait]
pub trait Store: RunQueue {
    /// Commits changes, all or none. Durable when it returns.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError>;

    /// Runs a `SELECT` made by [`Filter::to_sql`]; use [`StoreExt`].
    async fn select(
        &self,
        table: &'static Table,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>, StoreError>;

    /// Makes the oldest warm sandbox of a pool `running` for a holder (through `provisioning`, of which nothing is left to
    /// do for it), in one atomic statement. `None` when none is warm. Two claims never get the same one. Oldest by `created_at`, then by id; the version is counted up,
    /// `claimed_at` and `used_at` are set, and the holder's values replace those of before. What `told` makes of it, changes
    /// of rows and events, is written in the same transaction.
    async fn claim_sandbox(
        &self,
        claim: ClaimSandbox,
        told: Option<Told>,
    ) -> Result<Option<Sandbox>, StoreError>;

    /// Notes a moment of sandboxes. Touches nothing else, not even their version: it may come at any moment between the
    /// reading and the writing of others.
    async fn stamp_sandboxes(
        &self,
        ids: Vec<SandboxId>,
        what: SandboxStamp,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// How many sandboxes there are that are not destroyed, by pool, server, host and state.
    async fn sandbox_counts(&self) -> Result<Vec<SandboxCount>, StoreError>;

    /// Removes the rows of a table in which `column` holds a time before `before`. Returns how many.
    async fn prune(
        &self,
        table: &'static Table,
        column: &'static str,
        before: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Events after number `after`, oldest first: those of one tenant, or all.
    async fn events(
        &self,
        tenant: Option<TenantId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// The number of the newest event; 0 when there is none.
    async fn last_event(&self) -> Result<i64, StoreError>;

    /// What is not as it should be although the store works.
    fn shortcomings(&self) -> Vec<Shortcoming> {
        Vec::new()
    }

    /// Hints from now on, those of other servers included.
    fn hints(&self) -> broadcast::Receiver<Hint>;

    /// The migrations that this program knows, in order.
    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError>;

    /// Applies migrations up to `to` (all when `None`). Each in its own transaction. Returns those applied.
    async fn migrate_up(&self, to: Option<i64>) -> Result<Vec<i64>, StoreError>;

    /// Takes migrations back down to `to`, which stays in force (0 for none). Returns those taken back.
    async fn migrate_down(&self, to: i64) -> Result<Vec<i64>, StoreError>;

    /// Finishes what was accepted and closes. Later calls fail with `Unavailable`.
    async fn close(&self);
}

/// Typed reading, for every store.
#[async_trait]
pub trait StoreExt: Store {
    /// The rows that a filter describes.
    async fn list<R: Record>(&self, filter: Filter<R>) -> Result<Vec<R>, StoreError> {
        let (sql, parameters) = filter.to_sql();
        let rows = self.select(R::TABLE, sql, parameters).await?;
        rows.into_iter().map(R::from_values).collect()
    }

    /// The first such row.
    async fn first<R: Record>(&self, filter: Filter<R>) -> Result<Option<R>, StoreError> {
        Ok(self.list(filter.limit(1)).await?.into_iter().next())
    }

    /// The row with this id, in a table whose key is `id`.
    async fn get<R: Record, K: crate::Column + Send>(&self, id: K) -> Result<Option<R>, StoreError> {
        self.first(Filter::all().and("id", Op::Eq, id)).await
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
