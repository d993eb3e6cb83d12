//! What sandboxes use: sampled at a period and kept for a while.

use crate::guest::Guest;
use crate::{Caller, Control, Result};
use futures::StreamExt;
use ostler_domain::{Permission, SandboxId, SandboxStatus, UsageSample};
use ostler_sandbox::Usage;
use ostler_store::{Change, Filter, Record, SandboxBrief, StoreExt};
use std::time::Duration;

/// Samples in one answer.
const MOST: u32 = 2000;
/// Samples in one transaction.
const BATCH: usize = 500;

impl Control {
    /// The samples of a sandbox, newest first: the operator's view.
    pub async fn sandbox_usage(&self, caller: &Caller, id: SandboxId) -> Result<Vec<UsageSample>> {
        self.sandbox(caller, id).await?;
        self.samples(id).await
    }

    /// The samples of one of the tenant's own sandboxes, newest first.
    pub async fn agent_usage(&self, caller: &Caller, id: SandboxId) -> Result<Vec<UsageSample>> {
        caller.require(Permission::AgentsRead)?;
        let agent = self.agent(caller, id).await?;
        let mut samples = self.samples(agent.id).await?;
        samples.retain(|sample| sample.tenant_id == agent.tenant_id);
        Ok(samples)
    }

    async fn samples(&self, id: SandboxId) -> Result<Vec<UsageSample>> {
        let newest = Filter::by("sandbox_id", id).order_by_desc("at").limit(MOST);
        Ok(self.parts.store.list(newest).await?)
    }

    /// One round over the sandboxes of this server: notes what each has used, and drops what is too old. Returns how many
    /// samples were taken.
    pub async fn sample_usage(&self) -> Result<usize> {
        let settings = &self.parts.sandboxes;
        let sandboxes = self
            .own_briefs(&[SandboxStatus::Warm, SandboxStatus::Running])
            .await?;
        let samples: Vec<UsageSample> = futures::stream::iter(sandboxes)
            .map(|sandbox| async move {
                let used = self.use_of(&sandbox).await?;
                let number = |n: Option<u64>| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
                Some(UsageSample {
                    sandbox_id: sandbox.id,
                    at: self.now(),
                    tenant_id: sandbox.tenant_id,
                    cpu_us: number(used.cpu_us),
                    memory_bytes: number(used.memory_bytes),
                    read_bytes: number(used.read_bytes),
                    written_bytes: number(used.written_bytes),
                    received_bytes: number(used.received_bytes),
                    sent_bytes: number(used.sent_bytes),
                    processes: used.processes.map(i64::from),
                })
            })
            .buffer_unordered(settings.health_checks.max(1))
            .filter_map(std::future::ready)
            .collect()
            .await;
        for batch in samples.chunks(BATCH) {
            self.commit(batch.iter().map(Change::insert).collect()).await?;
        }
        let old = self
            .now()
            .minus(Duration::from_secs(settings.usage_keep_hours * 3600));
        self.parts.store.prune(UsageSample::TABLE, "at", old).await?;
        Ok(samples.len())
    }

    /// As the driver counts it, and what it does not count as the guest does.
    async fn use_of(&self, sandbox: &SandboxBrief) -> Option<Usage> {
        let driver = self.driver_on(sandbox.driver, &sandbox.host).ok()?;
        let counted = driver.usage(sandbox.id).await.ok();
        let by_driver = counted.unwrap_or_default();
        let complete = by_driver.cpu_us.is_some() && by_driver.memory_bytes.is_some();
        if complete || sandbox.paused.is_some() {
            return counted;
        }
        let guest = Guest::new(driver, sandbox.id);
        let Ok(by_guest) = guest.usage().await else {
            return counted;
        };
        Some(Usage {
            cpu_us: by_driver.cpu_us.or(by_guest.cpu_us),
            memory_bytes: by_driver.memory_bytes.or(by_guest.memory_bytes),
            read_bytes: by_driver.read_bytes.or(by_guest.read_bytes),
            written_bytes: by_driver.written_bytes.or(by_guest.written_bytes),
            received_bytes: by_driver.received_bytes.or(by_guest.received_bytes),
            sent_bytes: by_driver.sent_bytes.or(by_guest.sent_bytes),
            processes: by_driver.processes.or(by_guest.processes),
        })
    }
}
