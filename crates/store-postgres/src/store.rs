//! The store as a whole, but for the queue.

use crate::connect::PostgresStore;
use crate::error::{Tries, store_error};
use crate::schema;
use crate::value::{bind_all, row_values};
use async_trait::async_trait;
use ostler_domain::{Sandbox, SandboxId, TenantId, Timestamp};
use ostler_store::{
    Change, ClaimSandbox, Event, Hint, MigrationStatus, NewEvent, SANDBOX_COUNTS, SandboxCount, SandboxStamp,
    Shortcoming, Store, StoreError, Table, Told, Value, corrupt,
};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::broadcast;

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
            let query = sqlx::query_with(AssertSqlSafe(sql.as_str()), arguments);
            match self.inner.rows(query).await {
                Ok(rows) => return rows.iter().map(|row| row_values(table, row)).collect(),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn claim_sandbox(
        &self,
        claim: ClaimSandbox,
        told: Option<Told>,
    ) -> Result<Option<Sandbox>, StoreError> {
        self.claim_sandbox_told(&claim, told.as_ref()).await
    }

    async fn stamp_sandboxes(
        &self,
        ids: Vec<SandboxId>,
        what: SandboxStamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let sql = format!("UPDATE sandboxes SET {} = $2 WHERE id = ANY($1)", what.column());
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&ids).bind(at.0);
        let done = self.inner.execute(query).await;
        done.map_err(|error| store_error(&error))?;
        Ok(())
    }

    async fn sandbox_counts(&self) -> Result<Vec<SandboxCount>, StoreError> {
        let rows = self.inner.rows(sqlx::query(SANDBOX_COUNTS)).await;
        let rows = rows.map_err(|error| store_error(&error))?;
        let read = |row: &PgRow| {
            let mut values = Vec::new();
            for at in 0..5 {
                values.push(Value::Text(row.try_get(at)?));
            }
            for at in 5..7 {
                values.push(Value::Int(row.try_get(at)?));
            }
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
        let query = sqlx::query(AssertSqlSafe(sql)).bind(before.0);
        self.inner
            .execute(query)
            .await
            .map_err(|error| store_error(&error))
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
            match self.inner.rows(query).await {
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
            let query = sqlx::query("SELECT COALESCE(max(seq), 0) FROM events");
            let read = self.inner.rows(query).await;
            match read.and_then(|rows| rows.first().map_or(Ok(0), |row| row.try_get(0))) {
                Ok(seq) => return Ok(seq),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    fn shortcomings(&self) -> Vec<Shortcoming> {
        self.inner.request_role.shortcoming().into_iter().collect()
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.inner.hints.subscribe()
    }

    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        schema::status(&self.inner.pool).await
    }

    async fn migrate_up(&self, to: Option<i64>) -> Result<Vec<i64>, StoreError> {
        let done = schema::up(&self.inner.pool, to).await;
        self.inner.classes.clear();
        self.inner.request_role.look(&self.inner.pool).await?;
        for shortcoming in self.shortcomings() {
            let (meaning, advice) = (shortcoming.meaning, shortcoming.advice);
            tracing::warn!(meaning, advice, "{}", shortcoming.found);
        }
        done
    }

    async fn migrate_down(&self, to: i64) -> Result<Vec<i64>, StoreError> {
        let done = schema::down(&self.inner.pool, to).await;
        self.inner.classes.clear();
        self.inner.request_role.look(&self.inner.pool).await?;
        for shortcoming in self.shortcomings() {
            let (meaning, advice) = (shortcoming.meaning, shortcoming.advice);
            tracing::warn!(meaning, advice, "{}", shortcoming.found);
        }
        done
    }

    async fn close(&self) {
        self.shut_down().await;
    }
}
