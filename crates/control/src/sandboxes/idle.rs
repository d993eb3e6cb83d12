//! Freezing what nobody uses, and ending it when that lasts.

use crate::conflict::retry_on_conflict;
use crate::{Control, ControlError, Result};
use ostler_domain::{PausedBy, Sandbox, SandboxId, SandboxStatus};
use ostler_sandbox::DriverError;
use ostler_store::{Op, SandboxStamp, StoreExt};
use std::time::Duration;

/// Uses closer together than this are noted once.
const STEP: Duration = Duration::from_secs(5);

/// After how long without use something happens to a sandbox.
struct Patience {
    pause: Option<Duration>,
    destroy: Option<Duration>,
}

impl Control {
    /// Freezes all programs of a sandbox.
    pub(crate) async fn pause_sandbox(&self, id: SandboxId, by: PausedBy) -> Result<Sandbox> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        let sandbox = sandbox.ok_or_else(|| ControlError::NotFound {
            what: "sandbox",
            id: id.to_string(),
        })?;
        // The record first: a health check that comes in between must not take it for dead.
        let marked = self.mark_paused(id, Some(by)).await?;
        if let Err(error) = self.driver_of(&sandbox)?.pause(id).await {
            self.mark_paused(id, sandbox.paused).await?;
            return Err(driver_error(&error));
        }
        Ok(marked)
    }

    /// Lets them go on. One that is not frozen goes on as it is.
    pub(crate) async fn resume_sandbox(&self, id: SandboxId) -> Result<Sandbox> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        let sandbox = sandbox.ok_or_else(|| ControlError::NotFound {
            what: "sandbox",
            id: id.to_string(),
        })?;
        self.driver_of(&sandbox)?
            .resume(id)
            .await
            .map_err(|error| driver_error(&error))?;
        self.mark_paused(id, None).await
    }

    async fn mark_paused(&self, id: SandboxId, paused: Option<PausedBy>) -> Result<Sandbox> {
        retry_on_conflict!({
            let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
            let mut sandbox = sandbox.ok_or_else(|| ControlError::NotFound {
                what: "sandbox",
                id: id.to_string(),
            })?;
            if sandbox.paused == paused {
                return Ok(sandbox);
            }
            sandbox.paused = paused;
            let kind = if paused.is_some() {
                "agent.paused"
            } else {
                "agent.resumed"
            };
            self.commit(self.sandbox_changes(&mut sandbox, kind)).await?;
            Ok(sandbox)
        })
    }

    /// Notes that a holder uses a sandbox, and lets it go on if it was frozen because nobody did.
    pub(crate) async fn used(&self, sandbox: Sandbox) -> Result<Sandbox> {
        let now = self.now();
        if sandbox.used_at.is_none_or(|last| now.since(last) >= STEP) {
            self.parts
                .store
                .stamp_sandboxes(vec![sandbox.id], SandboxStamp::Used, now)
                .await?;
        }
        if sandbox.paused == Some(PausedBy::Idle) {
            return self.resume_sandbox(sandbox.id).await;
        }
        Ok(sandbox)
    }

    /// One round over what tenants hold on this server: freezes what has not been used for a while, and ends it after a
    /// longer one. Something that executes a program is in use. Returns how many were frozen or ended.
    pub async fn mind_idle(&self) -> Result<usize> {
        let held = self
            .own_sandboxes()
            .and("status", Op::Eq, SandboxStatus::Running)
            .and("for_run", Op::Eq, false);
        let mut changed = 0;
        for sandbox in self.parts.store.list(held).await? {
            let patience = self.patience(&sandbox);
            let last = sandbox
                .used_at
                .or(sandbox.claimed_at)
                .unwrap_or(sandbox.created_at);
            let idle = self.now().since(last);
            let over = |limit: Option<Duration>| limit.is_some_and(|limit| idle >= limit);
            if !over(patience.pause) && !over(patience.destroy) {
                continue;
            }
            if sandbox.paused.is_none() && self.busy(&sandbox).await {
                self.parts
                    .store
                    .stamp_sandboxes(vec![sandbox.id], SandboxStamp::Used, self.now())
                    .await?;
                continue;
            }
            if over(patience.destroy) {
                let reason = format!("nobody used it for {} s", idle.as_secs());
                changed += usize::from(self.destroyed(&sandbox, &reason).await);
            } else if sandbox.paused.is_none() {
                match self.pause_sandbox(sandbox.id, PausedBy::Idle).await {
                    Ok(_) => changed += 1,
                    // Its driver cannot; it stays as it is.
                    Err(ControlError::Unprocessable(_)) => {}
                    Err(error) => {
                        tracing::warn!(%error, sandbox.id = %sandbox.id, "an idle sandbox is not frozen");
                    }
                }
            }
        }
        Ok(changed)
    }

    /// That of the holder's configuration, or else of the settings; 0 is never.
    fn patience(&self, sandbox: &Sandbox) -> Patience {
        let of = |name: &str, default: u64| {
            let own = sandbox.config.get(name).and_then(serde_json::Value::as_u64);
            Some(own.unwrap_or(default))
                .filter(|s| *s > 0)
                .map(Duration::from_secs)
        };
        let settings = &self.parts.sandboxes;
        Patience {
            pause: of("idle_pause_seconds", settings.idle_pause_seconds),
            destroy: of("idle_destroy_seconds", settings.idle_destroy_seconds),
        }
    }

    /// Whether a program is being executed in it. One that does not answer is left to the health checks.
    async fn busy(&self, sandbox: &Sandbox) -> bool {
        match self.guest(sandbox) {
            Ok(guest) => guest.is_busy().await.unwrap_or(true),
            Err(_) => true,
        }
    }
}

/// The error of a use case from that of a driver.
pub(crate) fn driver_error(error: &DriverError) -> ControlError {
    match error {
        DriverError::Unsupported { .. } => ControlError::Unprocessable(error.to_string()),
        DriverError::NotFound { .. } => ControlError::Conflict(error.to_string()),
        _ => ControlError::Unavailable(error.to_string()),
    }
}
