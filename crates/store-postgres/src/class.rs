//! Classes of runs: their numbers, remembered.

use crate::error::store_error;
use ostler_domain::{NewRun, Requirements, TenantId};
use ostler_store::{RunClass, StoreError, corrupt};
use sqlx::{PgPool, Row};
use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

/// The classes that this process has met. They are never removed, so what is remembered stays true.
#[derive(Debug, Default)]
pub(crate) struct Classes(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    ids: HashMap<TenantId, HashMap<Requirements, i64>>,
    requirements: HashMap<i64, Requirements>,
}

impl Known {
    fn id(&self, run: &NewRun) -> Option<i64> {
        self.ids.get(&run.tenant_id)?.get(&run.requirements).copied()
    }
}

impl Classes {
    /// Forgets everything: the tables were changed.
    pub(crate) fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }

    fn known(&self, runs: &[NewRun]) -> Result<Vec<i64>, BTreeSet<(TenantId, Requirements)>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<i64> = runs.iter().map_while(|run| known.id(run)).collect();
        if ids.len() == runs.len() {
            return Ok(ids);
        }
        Err(runs
            .iter()
            .filter(|run| known.id(run).is_none())
            .map(|run| (run.tenant_id, run.requirements.clone()))
            .collect())
    }

    /// The classes of `runs`, one for each. New ones are made at once, in their own transaction: they outlive a rollback
    /// of the runs, which does no harm.
    pub(crate) async fn of(&self, pool: &PgPool, runs: &[NewRun]) -> Result<Vec<i64>, sqlx::Error> {
        let missing = match self.known(runs) {
            Ok(ids) => return Ok(ids),
            Err(missing) => missing,
        };
        let tenants: Vec<String> = missing.iter().map(|(tenant, _)| tenant.to_string()).collect();
        let texts: Vec<String> = missing.iter().map(|(_, wanted)| wanted.canonical()).collect();
        sqlx::query(
            "INSERT INTO run_classes (tenant_id, requirements) \
             SELECT m.tenant, m.wanted FROM unnest($1::text[], $2::text[]) AS m(tenant, wanted) WHERE NOT EXISTS (\
             SELECT 1 FROM run_classes c WHERE c.tenant_id = m.tenant AND c.requirements = m.wanted) \
             ON CONFLICT DO NOTHING",
        )
        .bind(&tenants)
        .bind(&texts)
        .execute(pool)
        .await?;
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT c.id FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m(tenant, wanted, place) \
             JOIN run_classes c ON c.tenant_id = m.tenant AND c.requirements = m.wanted ORDER BY m.place",
        )
        .bind(&tenants)
        .bind(&texts)
        .fetch_all(pool)
        .await?;
        if ids.len() != missing.len() {
            return Err(sqlx::Error::RowNotFound);
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for ((tenant, requirements), id) in missing.into_iter().zip(ids) {
            known.requirements.insert(id, requirements.clone());
            known.ids.entry(tenant).or_default().insert(requirements, id);
        }
        drop(known);
        self.known(runs).map_err(|_| sqlx::Error::RowNotFound)
    }

    /// All classes there are.
    pub(crate) async fn all(&self, pool: &PgPool) -> Result<Vec<RunClass>, StoreError> {
        let rows = sqlx::query("SELECT id, requirements, tenant_id FROM run_classes ORDER BY id")
            .fetch_all(pool)
            .await
            .map_err(|e| store_error(&e))?;
        let mut classes = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.try_get(0).map_err(|e| store_error(&e))?;
            let text: String = row.try_get(1).map_err(|e| store_error(&e))?;
            let requirements = serde_json::from_str(&text)
                .map_err(|e| corrupt("run_classes", "requirements", e.to_string()))?;
            let tenant: String = row.try_get(2).map_err(|e| store_error(&e))?;
            let tenant_id = tenant.parse().map_err(|e: ostler_domain::ParseIdError| {
                corrupt("run_classes", "tenant_id", e.to_string())
            })?;
            classes.push(RunClass {
                id,
                tenant_id,
                requirements,
            });
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for class in &classes {
            known.requirements.insert(class.id, class.requirements.clone());
        }
        Ok(classes)
    }

    /// What a class needs, if it is remembered.
    pub(crate) fn requirements(&self, id: i64) -> Option<Requirements> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.requirements.get(&id).cloned()
    }

    /// Makes sure that [`Self::requirements`] knows all of `ids`.
    pub(crate) async fn learn(
        &self,
        pool: &PgPool,
        ids: impl Iterator<Item = i64>,
    ) -> Result<(), StoreError> {
        let unknown = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let mut ids = ids;
            ids.any(|id| !known.requirements.contains_key(&id))
        };
        if unknown {
            self.all(pool).await?;
        }
        Ok(())
    }
}
