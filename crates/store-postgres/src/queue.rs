//! The run queue. See the tables of the migration for where a run is in which state.

mod claim;
mod end;
mod enqueue;
mod intake;
mod read;

pub(crate) use end::{cancel_in, skip_in, supersede_in};
pub(crate) use enqueue::{enqueue_in, release_in};
pub(crate) use intake::Intake;

use crate::commit::cancel_alone;
use crate::connect::PostgresStore;
use crate::error::{Tries, store_error};
use async_trait::async_trait;
use ostler_domain::{NewRun, PlanId, Run, RunId, RunStatus, SandboxId, ServerId, TenantId, Timestamp};
use ostler_store::{
    Cancelled, ClaimRuns, FinishRun, Head, RequeueRun, RunClass, RunCounters, RunFilter, RunQueue, StoreError,
};
use std::collections::BTreeMap;

#[async_trait]
impl RunQueue for PostgresStore {
    async fn enqueue(&self, runs: Vec<NewRun>) -> Result<Vec<i64>, StoreError> {
        self.enqueue_runs(runs).await
    }

    async fn classes(&self) -> Result<Vec<RunClass>, StoreError> {
        self.inner.classes.all(&self.inner.pool).await
    }

    async fn release(&self, ids: Vec<RunId>) -> Result<u64, StoreError> {
        enqueue::release(&self.inner, &ids).await
    }

    async fn skip(&self, ids: Vec<RunId>, reason: String, at: Timestamp) -> Result<Vec<bool>, StoreError> {
        end::skip(&self.inner, &ids, &reason, at).await
    }

    async fn heads(&self, classes: &[i64], now: Timestamp) -> Result<Vec<Head>, StoreError> {
        claim::heads(&self.inner, classes, now).await
    }

    async fn claim(&self, claim: ClaimRuns) -> Result<Vec<Run>, StoreError> {
        claim::claim(&self.inner, &claim).await
    }

    async fn next_due(&self, classes: &[i64], now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        claim::next_due(&self.inner, classes, now).await
    }

    async fn assign_sandbox(&self, id: RunId, attempt: u32, sandbox: SandboxId) -> Result<bool, StoreError> {
        let mut tries = Tries::default();
        loop {
            let query = sqlx::query("UPDATE run_active SET sandbox_id = $3 WHERE id = $1 AND attempt = $2")
                .bind(id.to_string())
                .bind(i64::from(attempt))
                .bind(sandbox.to_string());
            match self.inner.execute(query).await {
                Ok(changed) => return Ok(changed == 1),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn finish(&self, ends: Vec<FinishRun>) -> Result<Vec<bool>, StoreError> {
        end::finish(&self.inner, &ends).await
    }

    async fn requeue(&self, runs: Vec<RequeueRun>) -> Result<Vec<Option<RunStatus>>, StoreError> {
        end::requeue(&self.inner, &runs).await
    }

    async fn request_cancel(&self, id: RunId, at: Timestamp) -> Result<Cancelled, StoreError> {
        cancel_alone(self, id, at).await
    }

    async fn cancel_requests(&self, server: ServerId) -> Result<Vec<RunId>, StoreError> {
        read::cancel_requests(&self.inner, server).await
    }

    async fn running(&self, server: ServerId) -> Result<Vec<Run>, StoreError> {
        read::running(&self.inner, server).await
    }

    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        read::run(&self.inner, id).await
    }

    async fn runs(&self, filter: RunFilter) -> Result<Vec<Run>, StoreError> {
        read::runs(&self.inner, filter).await
    }

    async fn counters(&self, tenant: Option<TenantId>) -> Result<RunCounters, StoreError> {
        read::counters(&self.inner, tenant).await
    }

    async fn running_by_tenant(&self) -> Result<BTreeMap<TenantId, i64>, StoreError> {
        read::running_by_tenant(&self.inner).await
    }

    async fn plan_counters(&self, plan: PlanId) -> Result<RunCounters, StoreError> {
        read::plan_counters(&self.inner, plan).await
    }

    async fn plan_held(&self, plan: PlanId) -> Result<i64, StoreError> {
        read::plan_held(&self.inner, plan).await
    }

    async fn position(&self, id: RunId) -> Result<Option<u64>, StoreError> {
        read::position(&self.inner, id).await
    }

    async fn heartbeat(&self, server: ServerId, now: Timestamp) -> Result<(), StoreError> {
        let mut tries = Tries::default();
        loop {
            let query = sqlx::query(
                "INSERT INTO servers (id, seen_at) VALUES ($1, $2) \
                 ON CONFLICT (id) DO UPDATE SET seen_at = GREATEST(servers.seen_at, excluded.seen_at)",
            )
            .bind(server.to_string())
            .bind(now.0);
            match self.inner.execute(query).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    if !tries.again(&error, true).await {
                        return Err(store_error(&error));
                    }
                }
            }
        }
    }

    async fn silent_servers(&self, before: Timestamp) -> Result<Vec<ServerId>, StoreError> {
        read::silent_servers(&self.inner, before).await
    }
}
