//! What must be tidied while the queue runs: rows of counts, and the dead rows that a claim would walk over.
//!
//! The server's own vacuum looks once a minute; in that time a busy queue leaves more than a million dead index entries
//! at its head, exactly where every claim begins to read.

use crate::connect::Inner;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Rows of counts after which they are replaced by their sum.
const COUNTS: u64 = 300;
/// Runs that left a queue table after which it is vacuumed.
const MOVED: u64 = 30_000;
const RETRY: Duration = Duration::from_secs(1);

/// What has piled up since it was last tidied.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    counts: AtomicU64,
    moved: AtomicU64,
    wake: Notify,
}

impl Upkeep {
    /// Notes `counts` new rows of counts, and `moved` runs that were claimed.
    pub(crate) fn note(&self, counts: usize, moved: usize) {
        let counts = self.counts.fetch_add(counts as u64, Ordering::Relaxed) + counts as u64;
        let moved = self.moved.fetch_add(moved as u64, Ordering::Relaxed) + moved as u64;
        if counts >= COUNTS || moved >= MOVED {
            self.wake.notify_one();
        }
    }

    /// Tidies whenever enough has piled up; ends when it is dropped.
    pub(crate) async fn run(inner: Arc<Inner>) {
        loop {
            inner.upkeep.wake.notified().await;
            if let Err(error) = inner.upkeep.tidy(&inner).await {
                tracing::debug!(%error, "the queue could not be tidied; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn tidy(&self, inner: &Inner) -> Result<(), sqlx::Error> {
        if self.counts.load(Ordering::Relaxed) >= COUNTS {
            self.counts.store(0, Ordering::Relaxed);
            sqlx::query(COMPACT).execute(&inner.pool).await?;
        }
        if self.moved.load(Ordering::Relaxed) >= MOVED {
            self.moved.store(0, Ordering::Relaxed);
            for statement in VACUUMS {
                sqlx::raw_sql(*statement).execute(&inner.pool).await?;
            }
        }
        Ok(())
    }
}

/// Rows that another server is summing up at the same time are left to it: a row can be deleted once only.
const COMPACT: &str = "
WITH gone AS (DELETE FROM run_counts RETURNING *)
INSERT INTO run_counts (tenant_id, queued, running, succeeded, failed, timed_out, cancelled, lost, skipped)
SELECT tenant_id, sum(queued), sum(running), sum(succeeded), sum(failed), sum(timed_out), sum(cancelled), sum(lost),
    sum(skipped)
FROM gone GROUP BY tenant_id";

const VACUUMS: &[&str] = &[
    "VACUUM (INDEX_CLEANUP TRUE, TRUNCATE FALSE) run_ready",
    "VACUUM (INDEX_CLEANUP TRUE, TRUNCATE FALSE) run_active",
    "VACUUM (TRUNCATE FALSE) run_counts",
];
