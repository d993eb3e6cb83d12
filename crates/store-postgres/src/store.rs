//! The store as a whole, but for the queue.

use crate::connect::PostgresStore;
use crate::error::{Tries, store_error};
use crate::schema;
use crate::value::{bind_all, row_values};
use async_trait::async_trait;
use ostler_domain::{Sandbox, SandboxId, TenantId, Timestamp};
use ostler_store::{
    Change, ClaimSandbox, Event, Hint, MigrationStatus, NewEvent, Record, SANDBOX_COUNTS, SandboxCount,
    SandboxStamp, Store, StoreError, Table, Value, corrupt,
};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::broadcast;

const CLAIM: &str = "
UPDATE sandboxes SET status = 'running', tenant_id = $3, department_id = $4, config = $5, tool_allowlist = $6,
    for_run = $7, claimed_at = $8, used_at = $8, version = version + 1
WHERE id = (
    SELECT id FROM sandboxes WHERE pool = $1 AND server_id = $2 AND status = 'warm'
    ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING";

fn event(row: &PgRow) -> Result<Event, StoreError> {
    let text = |at: usize| row.try_get::<String, _>(at).map_err(|e| store_error(&e));
    let number = |at: usize| row.try_get::<i64, _>(at).map_err(|e| store_error(&e));
    let tenant: Option<String> = row.try_get(1).map_err(|e| store_error(&e))?;
    Ok(Event {
        seq: number(0)?,
        event: NewEvent {
            tenant_id: tenant
                .map(|t| t.parse())
                .transpose()
                .map_err(|e: ostler_domain::ParseIdError| corrupt("events", "tenant_id", e.to_string()))?,
            kind: text(2)?,
            subject: text(3)?,
            data: serde_json::from_str(&text(4)?).map_err(|e| corrupt("events", "data", e.to_string()))?,
            at: Timestamp(number(5)?),
        },
    })
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.commit_changes(changes).await
    }

    async fn select(
        &self,
        table: &'static Table,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let mut tries = Tries::default();
        loop {
            let arguments = bind_all(parameters.iter().cloned())?;
            let rows = sqlx::query_with(AssertSqlSafe(sql.as_str()), arguments)
                .fetch_all(&self.inner.pool)
                .await;
            match rows {
                Ok(rows) => return rows.iter().map(|row| row_values(table, row)).collect(),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn claim_sandbox(&self, claim: ClaimSandbox) -> Result<Option<Sandbox>, StoreError> {
        let table = Sandbox::TABLE;
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let sql = format!("{CLAIM} {}", columns.join(", "));
        let allowed = serde_json::to_string(&claim.tool_allowlist).map_err(|e| StoreError::Engine {
            message: format!("the list of tools cannot be written: {e}"),
        })?;
        let mut tries = Tries::default();
        loop {
            let row = sqlx::query(AssertSqlSafe(sql.as_str()))
                .bind(&claim.pool)
                .bind(claim.server_id.to_string())
                .bind(claim.tenant_id.to_string())
                .bind(claim.department_id.map(|d| d.to_string()))
                .bind(claim.config.to_string())
                .bind(&allowed)
                .bind(i64::from(claim.for_run))
                .bind(claim.now.0)
                .fetch_optional(&self.inner.pool)
                .await;
            match row {
                Ok(Some(row)) => {
                    self.inner.hints.give(Hint::Pools);
                    return Sandbox::from_values(row_values(table, &row)?).map(Some);
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    if !tries.again(&error, false).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn stamp_sandboxes(
        &self,
        ids: Vec<SandboxId>,
        what: SandboxStamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let sql = format!("UPDATE sandboxes SET {} = $2 WHERE id = ANY($1)", what.column());
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(&ids)
            .bind(at.0)
            .execute(&self.inner.pool)
            .await;
        done.map_err(|error| store_error(&error))?;
        Ok(())
    }

    async fn sandbox_counts(&self) -> Result<Vec<SandboxCount>, StoreError> {
        let rows = sqlx::query(SANDBOX_COUNTS).fetch_all(&self.inner.pool).await;
        let rows = rows.map_err(|error| store_error(&error))?;
        let read = |row: &PgRow| {
            let mut values = Vec::new();
            for at in 0..5 {
                values.push(Value::Text(row.try_get(at)?));
            }
            values.push(Value::Int(row.try_get(5)?));
            Ok(values)
        };
        rows.iter()
            .map(|row| SandboxCount::from_values(read(row).map_err(|e: sqlx::Error| store_error(&e))?))
            .collect()
    }

    async fn prune(
        &self,
        table: &'static Table,
        column: &'static str,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        let sql = format!("DELETE FROM {} WHERE {column} < $1", table.name);
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(before.0)
            .execute(&self.inner.pool)
            .await;
        Ok(done.map_err(|error| store_error(&error))?.rows_affected())
    }

    async fn events(
        &self,
        tenant: Option<TenantId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let mut tries = Tries::default();
        loop {
            let query = match tenant {
                Some(tenant) => sqlx::query(
                    "SELECT seq, tenant_id, kind, subject, data, at FROM events \
                     WHERE seq > $1 AND tenant_id = $3 ORDER BY seq LIMIT $2",
                )
                .bind(after)
                .bind(i64::from(limit))
                .bind(tenant.to_string()),
                None => sqlx::query(
                    "SELECT seq, tenant_id, kind, subject, data, at FROM events WHERE seq > $1 ORDER BY seq LIMIT $2",
                )
                .bind(after)
                .bind(i64::from(limit)),
            };
            match query.fetch_all(&self.inner.pool).await {
                Ok(rows) => return rows.iter().map(event).collect(),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn last_event(&self) -> Result<i64, StoreError> {
        let mut tries = Tries::default();
        loop {
            let read = sqlx::query_scalar("SELECT COALESCE(max(seq), 0) FROM events")
                .fetch_one(&self.inner.pool)
                .await;
            match read {
                Ok(seq) => return Ok(seq),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.inner.hints.subscribe()
    }

    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        schema::status(&self.inner.pool).await
    }

    async fn migrate_up(&self, to: Option<i64>) -> Result<Vec<i64>, StoreError> {
        schema::up(&self.inner.pool, to).await
    }

    async fn migrate_down(&self, to: i64) -> Result<Vec<i64>, StoreError> {
        let done = schema::down(&self.inner.pool, to).await;
        self.inner.classes.clear();
        done
    }

    async fn close(&self) {
        self.shut_down().await;
    }
}
