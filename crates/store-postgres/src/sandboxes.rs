//! The claim of a sandbox.

use crate::commit::{Failure, changes_in, named};
use crate::connect::PostgresStore;
use crate::error::{Tries, store_error};
use crate::value::row_values;
use ostler_domain::Sandbox;
use ostler_store::{ClaimSandbox, Hint, Record, StoreError, Told};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use std::collections::BTreeSet;

const CLAIM: &str = "
UPDATE sandboxes SET status = 'running', tenant_id = $3, department_id = $4, config = $5, tool_allowlist = $6,
    for_run = $7, claimed_at = $8, used_at = $8, version = version + 1
WHERE id = (
    SELECT id FROM sandboxes WHERE pool = $1 AND server_id = $2 AND status = 'warm'
    ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING";

impl PostgresStore {
    /// See [`ostler_store::Store::claim_sandbox`].
    pub(crate) async fn claim_sandbox_told(
        &self,
        claim: &ClaimSandbox,
        told: Option<&Told>,
    ) -> Result<Option<Sandbox>, StoreError> {
        let columns: Vec<&str> = Sandbox::TABLE.columns.iter().map(|(name, _)| *name).collect();
        let sql = format!("{CLAIM} {}", columns.join(", "));
        let allowed = serde_json::to_string(&claim.tool_allowlist).map_err(|e| StoreError::Engine {
            message: format!("the list of tools cannot be written: {e}"),
        })?;
        let mut tries = Tries::default();
        loop {
            let query = sqlx::query(AssertSqlSafe(sql.as_str()))
                .bind(&claim.pool)
                .bind(claim.server_id.to_string())
                .bind(claim.tenant_id.to_string())
                .bind(claim.department_id.map(|d| d.to_string()))
                .bind(claim.config.to_string())
                .bind(&allowed)
                .bind(i64::from(claim.for_run))
                .bind(claim.now.0);
            match self.claim_once(query, told).await {
                Ok((claimed, hints)) => {
                    for hint in hints {
                        self.inner.hints.give(hint);
                    }
                    return Ok(claimed);
                }
                Err(Failure::Sql(error)) => {
                    if !tries.again(&error, false).await {
                        return Err(store_error(&error));
                    }
                }
                Err(Failure::Store(error)) => return Err(error),
            }
        }
    }

    async fn claim_once(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        told: Option<&Told>,
    ) -> Result<(Option<Sandbox>, Vec<Hint>), Failure> {
        let Some(told) = told else {
            let rows = self.inner.rows(query).await?;
            let Some(row) = rows.first() else {
                return Ok((None, Vec::new()));
            };
            let claimed = Sandbox::from_values(row_values(Sandbox::TABLE, row)?)?;
            return Ok((Some(claimed), vec![Hint::Pools]));
        };
        let mut transaction = self.inner.transaction().await?;
        let Some(row) = query.fetch_optional(&mut *transaction).await? else {
            return Ok((None, Vec::new()));
        };
        let claimed = Sandbox::from_values(row_values(Sandbox::TABLE, &row)?)?;
        let changes = told(&claimed);
        let mut hints = BTreeSet::from([Hint::Pools as u8]);
        changes_in(&mut transaction, &changes, &mut hints).await?;
        transaction.commit().await?;
        self.inner.upkeep.note(changes.len(), 0);
        Ok((Some(claimed), named(&hints)))
    }
}
