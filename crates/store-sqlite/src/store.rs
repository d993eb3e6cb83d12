//! The store: each method is a read or a write of the modules beside this one.

use crate::engine::translate;
use crate::options::{self, SqliteOptions};
use crate::reader::Readers;
use crate::rows::{self, RUN, bind, collect, value};
use crate::writer::{Op, Writer};
use crate::{changes, claim, migrate, queue};
use async_trait::async_trait;
use ostler_domain::{PlanId, Run, RunId, RunStatus, Sandbox, SandboxId, ServerId, TenantId, Timestamp};
use ostler_store::{
    Cancelled, Change, ClaimRuns, ClaimSandbox, Column, Event, FinishRun, Head, Hint, MigrationStatus,
    NewEvent, RequeueRun, RunClass, RunCounters, RunFilter, RunQueue, SANDBOX_COUNTS, SandboxCount,
    SandboxStamp, Store, StoreError, Table, Told, Value, corrupt, json_from_value,
};
use rusqlite::{Row, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tokio::sync::broadcast;

/// Hints that a slow listener may be behind by; then it is told that it missed some, and looks for itself.
const HINTS: usize = 256;

/// How many runs of a plan are in each state.
pub(crate) const PLAN_COUNTERS: &str = "SELECT status, count(*) FROM runs \
    WHERE plan_id = ?1 AND superseded = 0 GROUP BY status";

/// A store in one file.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    hints: broadcast::Sender<Hint>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the database, and creates the file when there is none; its directory must exist. Applies no migrations.
    ///
    /// Blocks for at most `options.lock_wait`. Unless `options.shared`, the database is this process's alone until the
    /// store is closed: a second opener gets [`StoreError::Unavailable`]. A file that is no database, a damaged one and
    /// a schema that is newer than this program are [`StoreError::Schema`].
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let lock = options::lock(path, &options)?;
        let connection = options::open_writer(path, &options)?;
        migrate::check(&connection)?;
        let (hints, _) = broadcast::channel(HINTS);
        let queue = options.queue;
        let readers = Readers::open(path.to_owned(), options)?;
        Ok(Self {
            writer: Writer::start(connection, lock, queue, hints.clone())?,
            readers,
            hints,
        })
    }

    /// Rows of a statement that is used often.
    async fn query<T: Send + 'static>(
        &self,
        sql: impl AsRef<str> + Send + 'static,
        parameters: Vec<Value>,
        map: impl FnMut(&Row<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(sql.as_ref()).map_err(translate)?;
                collect(
                    &mut statement,
                    params_from_iter(parameters.into_iter().map(bind)),
                    map,
                )
            })
            .await
    }
}

/// A state and how many are in it.
fn count(row: &Row<'_>) -> Result<(RunStatus, i64), StoreError> {
    let count = i64::from_value(value(row, 1)?).map_err(|m| corrupt("run_counters", "n", m))?;
    Ok((rows::first(row)?, count))
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    fn get<T: Column>(row: &Row<'_>, at: usize, name: &'static str) -> Result<T, StoreError> {
        T::from_value(value(row, at)?).map_err(|m| corrupt("events", name, m))
    }
    Ok(Event {
        seq: get(row, 0, "seq")?,
        event: NewEvent {
            tenant_id: get(row, 1, "tenant_id")?,
            kind: get(row, 2, "kind")?,
            subject: get(row, 3, "subject")?,
            data: json_from_value(value(row, 4)?).map_err(|m| corrupt("events", "data", m))?,
            at: get(row, 5, "at")?,
        },
    })
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.writer.write(move |op| changes::commit(op, changes)).await
    }

    async fn select(
        &self,
        table: &'static Table,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let columns = table.columns.len();
        self.query(sql, parameters, move |row| {
            (0..columns).map(|at| value(row, at)).collect()
        })
        .await
    }

    async fn claim_sandbox(
        &self,
        claim: ClaimSandbox,
        told: Option<Told>,
    ) -> Result<Option<Sandbox>, StoreError> {
        self.writer
            .write(move |op| changes::claim_sandbox(op, &claim, told.as_ref()))
            .await
    }

    async fn stamp_sandboxes(
        &self,
        ids: Vec<SandboxId>,
        what: SandboxStamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |op| changes::stamp_sandboxes(op, &ids, what, at))
            .await
    }

    async fn sandbox_counts(&self) -> Result<Vec<SandboxCount>, StoreError> {
        let rows = self.query(SANDBOX_COUNTS, Vec::new(), |row| {
            (0..7).map(|at| value(row, at)).collect::<Result<Vec<_>, _>>()
        });
        rows.await?.into_iter().map(SandboxCount::from_values).collect()
    }

    async fn prune(
        &self,
        table: &'static Table,
        column: &'static str,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        self.writer
            .write(move |op| changes::prune(op, table, column, before))
            .await
    }

    async fn events(
        &self,
        tenant: Option<TenantId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let mut parameters = vec![Value::Int(after), Value::Int(limit.into())];
        let condition = if let Some(tenant) = tenant {
            parameters.push(tenant.to_value());
            "AND tenant_id = ?3"
        } else {
            ""
        };
        let sql = format!(
            "SELECT seq, tenant_id, kind, subject, data, at FROM events WHERE seq > ?1 {condition} \
             ORDER BY seq LIMIT ?2"
        );
        self.query(sql, parameters, event).await
    }

    async fn last_event(&self) -> Result<i64, StoreError> {
        let newest = self
            .query(
                "SELECT coalesce(max(seq), 0) FROM events",
                Vec::new(),
                rows::first,
            )
            .await?;
        Ok(newest.into_iter().next().unwrap_or(0))
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        self.readers.read(migrate::status).await
    }

    async fn migrate_up(&self, to: Option<i64>) -> Result<Vec<i64>, StoreError> {
        let to = to.unwrap_or(migrate::NEWEST);
        let mut done = Vec::new();
        while let Some(version) = self.writer.write(move |op| migrate::up(op, to)).await? {
            tracing::info!(version, "migration applied");
            done.push(version);
        }
        Ok(done)
    }

    async fn migrate_down(&self, to: i64) -> Result<Vec<i64>, StoreError> {
        let mut done = Vec::new();
        while let Some(version) = self.writer.write(move |op| migrate::down(op, to)).await? {
            tracing::info!(version, "migration taken back");
            done.push(version);
        }
        Ok(done)
    }

    async fn close(&self) {
        // Readers first: the last connection to go is the writer's, which then folds the log into the file.
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl RunQueue for SqliteStore {
    async fn enqueue(&self, runs: Vec<ostler_domain::NewRun>) -> Result<Vec<i64>, StoreError> {
        self.writer.write(move |op| queue::enqueue(op, &runs)).await
    }

    async fn classes(&self) -> Result<Vec<RunClass>, StoreError> {
        let sql = "SELECT id, tenant_id, requirements FROM run_classes ORDER BY id";
        self.query(sql, Vec::new(), |row| {
            Ok(RunClass {
                id: rows::first(row)?,
                tenant_id: Column::from_value(value(row, 1)?)
                    .map_err(|m| corrupt("run_classes", "tenant_id", m))?,
                requirements: json_from_value(value(row, 2)?)
                    .map_err(|m| corrupt("run_classes", "requirements", m))?,
            })
        })
        .await
    }

    async fn release(&self, ids: Vec<RunId>) -> Result<u64, StoreError> {
        self.writer.write(move |op| queue::release(op, &ids)).await
    }

    async fn skip(&self, ids: Vec<RunId>, reason: String, at: Timestamp) -> Result<Vec<bool>, StoreError> {
        self.writer
            .write(move |op| queue::skip(op, &ids, &reason, at))
            .await
    }

    async fn heads(&self, classes: &[i64], now: Timestamp) -> Result<Vec<Head>, StoreError> {
        let wanted: BTreeSet<i64> = classes.iter().copied().collect();
        let look = wanted.clone();
        let found = self
            .readers
            .read(move |connection| claim::heads(connection, &look, now))
            .await?;
        if let Some(heads) = found {
            return Ok(heads);
        }
        let read = move |op: &mut Op<'_>| {
            claim::promote(op, wanted.iter().copied(), now)?;
            claim::heads(op.connection, &wanted, now)
        };
        Ok(self.writer.write(read).await?.unwrap_or_default())
    }

    async fn claim(&self, claim: ClaimRuns) -> Result<Vec<Run>, StoreError> {
        self.writer.write(move |op| claim::claim(op, &claim)).await
    }

    async fn next_due(&self, classes: &[i64], now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let classes = classes.to_vec();
        self.readers
            .read(move |connection| {
                let mut statement = connection
                    .prepare_cached(
                        "SELECT min(not_before) FROM runs \
                         WHERE class_id = ?1 AND status = 'queued' AND delayed = 1 AND not_before > ?2",
                    )
                    .map_err(translate)?;
                let mut next: Option<i64> = None;
                for class in classes {
                    let due: Option<i64> = statement
                        .query_row((class, now.0), |row| row.get(0))
                        .map_err(translate)?;
                    next = next.into_iter().chain(due).min();
                }
                Ok(next.map(Timestamp))
            })
            .await
    }

    async fn assign_sandbox(&self, id: RunId, attempt: u32, sandbox: SandboxId) -> Result<bool, StoreError> {
        self.writer
            .write(move |op| queue::assign_sandbox(op, id, attempt, sandbox))
            .await
    }

    async fn finish(&self, ends: Vec<FinishRun>) -> Result<Vec<bool>, StoreError> {
        self.writer.write(move |op| queue::finish(op, ends)).await
    }

    async fn requeue(&self, runs: Vec<RequeueRun>) -> Result<Vec<Option<RunStatus>>, StoreError> {
        self.writer.write(move |op| queue::requeue(op, &runs)).await
    }

    async fn request_cancel(&self, id: RunId, at: Timestamp) -> Result<Cancelled, StoreError> {
        self.writer
            .write(move |op| queue::request_cancel(op, id, at))
            .await
    }

    async fn cancel_requests(&self, server: ServerId) -> Result<Vec<RunId>, StoreError> {
        let sql = "SELECT id FROM runs WHERE server_id = ?1 AND status = 'running' AND cancel_requested = 1 ORDER BY seq";
        self.query(sql, vec![server.to_value()], rows::first).await
    }

    async fn running(&self, server: ServerId) -> Result<Vec<Run>, StoreError> {
        let sql = format!("SELECT {RUN} FROM runs WHERE server_id = ?1 AND status = 'running' ORDER BY seq");
        self.query(sql, vec![server.to_value()], rows::run).await
    }

    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        let sql = format!("SELECT {RUN} FROM runs WHERE id = ?1");
        Ok(self.query(sql, vec![id.to_value()], rows::run).await?.pop())
    }

    async fn runs(&self, filter: RunFilter) -> Result<Vec<Run>, StoreError> {
        let conditions = [
            ("tenant_id =", filter.tenant_id.to_value()),
            ("project_id =", filter.project_id.to_value()),
            ("task_id =", filter.task_id.to_value()),
            ("subtask_id =", filter.subtask_id.to_value()),
            ("plan_id =", filter.plan_id.to_value()),
            ("kind =", filter.kind.to_value()),
            ("seq <", filter.before_seq.to_value()),
            ("seq >", filter.after_seq.to_value()),
        ];
        let mut sql = format!("SELECT {RUN} FROM runs WHERE 1 = 1");
        let mut parameters = Vec::new();
        for (comparison, wanted) in conditions {
            if wanted != Value::Null {
                parameters.push(wanted);
                sql = format!("{sql} AND {comparison} ?{}", parameters.len());
            }
        }
        if let Some(status) = filter.status {
            // Written out, so that the index of the running ones can be used.
            sql = format!("{sql} AND status = '{status}'");
        }
        if filter.latest_only {
            sql.push_str(" AND superseded = 0");
        }
        if filter.held_only {
            sql.push_str(" AND status = 'queued' AND delayed = 2");
        }
        let limit = if filter.limit == 0 { 50 } else { filter.limit };
        let order = if filter.after_seq.is_some() { "ASC" } else { "DESC" };
        sql = format!("{sql} ORDER BY seq {order} LIMIT {limit}");
        self.query(sql, parameters, rows::run).await
    }

    async fn counters(&self, tenant: Option<TenantId>) -> Result<RunCounters, StoreError> {
        let sql = if tenant.is_some() {
            "SELECT status, n FROM run_counters WHERE tenant_id = ?1"
        } else {
            "SELECT status, sum(n) FROM run_counters GROUP BY status"
        };
        let parameters = tenant.iter().map(Column::to_value).collect();
        let counts = self.query(sql, parameters, count).await?;
        Ok(counts.into_iter().collect())
    }

    async fn running_by_tenant(&self) -> Result<BTreeMap<TenantId, i64>, StoreError> {
        let sql = "SELECT tenant_id, n FROM run_counters WHERE status = 'running' AND n > 0";
        let counts = self.query(sql, Vec::new(), |row| {
            let count = i64::from_value(value(row, 1)?).map_err(|m| corrupt("run_counters", "n", m))?;
            Ok((rows::first(row)?, count))
        });
        Ok(counts.await?.into_iter().collect())
    }

    async fn plan_counters(&self, plan: PlanId) -> Result<RunCounters, StoreError> {
        let counts = self.query(PLAN_COUNTERS, vec![plan.to_value()], count).await?;
        Ok(counts.into_iter().collect())
    }

    async fn plan_held(&self, plan: PlanId) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) FROM runs WHERE plan_id = ?1 AND status = 'queued' AND delayed = 2";
        let counts: Vec<i64> = self.query(sql, vec![plan.to_value()], rows::first).await?;
        Ok(counts.first().copied().unwrap_or_default())
    }

    async fn position(&self, id: RunId) -> Result<Option<u64>, StoreError> {
        // Each part is one range of one index.
        let waits = "SELECT count(*) FROM runs w WHERE w.class_id = r.class_id AND w.status = 'queued'";
        let sql = format!(
            "SELECT ({waits} AND w.delayed = 0 AND w.priority > r.priority) \
             + ({waits} AND w.delayed = 0 AND w.priority = r.priority AND w.seq < r.seq) \
             + ({waits} AND w.delayed = 1 AND (w.priority > r.priority OR (w.priority = r.priority AND w.seq < r.seq))) \
             FROM runs r WHERE r.id = ?1 AND r.status = 'queued'"
        );
        let before: Vec<i64> = self.query(sql, vec![id.to_value()], rows::first).await?;
        Ok(before.first().map(|n| n.unsigned_abs()))
    }

    async fn heartbeat(&self, server: ServerId, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .write(move |op| queue::heartbeat(op, server, now))
            .await
    }

    async fn silent_servers(&self, before: Timestamp) -> Result<Vec<ServerId>, StoreError> {
        let sql = "SELECT DISTINCT r.server_id FROM runs r LEFT JOIN servers s ON s.id = r.server_id \
                   WHERE r.status = 'running' AND coalesce(s.seen_at < ?1, 1)";
        self.query(sql, vec![before.to_value()], rows::first).await
    }
}
