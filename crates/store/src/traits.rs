//! The store as a whole.

use crate::{Change, Event, Filter, Op, Record, RunQueue, StoreError, Table, Value};
use async_trait::async_trait;
use ostler_domain::{DepartmentId, Sandbox, ServerId, TenantId, Timestamp};
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

/// Everything that is kept.
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

    /// Makes the oldest warm sandbox of a pool `provisioning` for a holder, in one atomic statement. `None` when none
    /// is warm. Two claims never get the same one. Oldest by `created_at`, then by id; the version is counted up,
    /// `claimed_at` is set, and the holder's values replace those of before.
    async fn claim_sandbox(&self, claim: ClaimSandbox) -> Result<Option<Sandbox>, StoreError>;

    /// Events after number `after`, oldest first: those of one tenant, or all.
    async fn events(
        &self,
        tenant: Option<TenantId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// The number of the newest event; 0 when there is none.
    async fn last_event(&self) -> Result<i64, StoreError>;

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
