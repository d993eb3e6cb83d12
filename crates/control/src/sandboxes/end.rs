//! Ends of sandboxes.

use crate::conflict::retry_on_conflict;
use crate::{Control, ControlError, Result};
use ostler_domain::{Sandbox, SandboxId, SandboxStatus};
use ostler_store::StoreExt;
use std::time::Duration;
use tokio::task::JoinSet;

/// Time that the programs of a sandbox have to end by themselves.
pub(super) const GRACE: Duration = Duration::from_secs(2);

impl Control {
    /// Ends a sandbox and removes everything of it. Idempotent. If the driver fails, the record stays `destroying`, and
    /// the next round over the pools tries again.
    pub(crate) async fn destroy(&self, id: SandboxId, reason: &str) -> Result<()> {
        let live = retry_on_conflict!({
            let Some(mut sandbox) = self.parts.store.get::<Sandbox, _>(id).await? else {
                return Ok(None);
            };
            match sandbox.status {
                SandboxStatus::Destroyed => return Ok(None),
                SandboxStatus::Destroying => {}
                _ => {
                    sandbox.transition(SandboxStatus::Destroying)?;
                    sandbox.reason = Some(reason.to_owned());
                    let changes = self.sandbox_changes(&mut sandbox, "agent.destroying");
                    self.commit(changes).await?;
                }
            }
            Ok::<_, ControlError>(Some(sandbox))
        })?;
        let Some(sandbox) = live else { return Ok(()) };
        self.driver_of(&sandbox)?
            .remove(id, GRACE)
            .await
            .map_err(|error| ControlError::Unavailable(error.to_string()))?;
        retry_on_conflict!({
            // Another round may have been at it, too.
            match self.parts.store.get::<Sandbox, _>(id).await? {
                Some(mut gone) if gone.status != SandboxStatus::Destroyed => {
                    gone.transition(SandboxStatus::Destroyed)?;
                    let changes = self.sandbox_changes(&mut gone, "agent.destroyed");
                    self.commit(changes).await
                }
                _ => Ok(()),
            }
        })
    }

    /// Takes a sandbox off the books whose server is gone, and with it the way to remove it.
    pub(crate) async fn forget(&self, id: SandboxId, reason: &str) -> Result<()> {
        retry_on_conflict!({
            match self.parts.store.get::<Sandbox, _>(id).await? {
                Some(mut gone) if gone.status != SandboxStatus::Destroyed => {
                    if gone.status != SandboxStatus::Destroying {
                        gone.transition(SandboxStatus::Destroying)?;
                    }
                    gone.transition(SandboxStatus::Destroyed)?;
                    gone.reason = Some(reason.to_owned());
                    let changes = self.sandbox_changes(&mut gone, "agent.destroyed");
                    self.commit(changes).await
                }
                _ => Ok(()),
            }
        })
    }

    /// [`Self::destroy`], where a failure must not keep others from ending: it is tried again by the rounds.
    pub(crate) async fn destroyed(&self, sandbox: &Sandbox, reason: &str) -> bool {
        let done = self.destroy(sandbox.id, reason).await;
        if let Err(error) = &done {
            tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is not removed yet; it is tried again");
        }
        done.is_ok()
    }

    /// Ends all sandboxes of this server: nothing of it is left after a graceful stop.
    pub async fn end_sandboxes(&self) -> Result<()> {
        // Each is given time to end by itself, which all can have at once.
        let mut ends = JoinSet::new();
        for sandbox in self.parts.store.list(self.own_sandboxes()).await? {
            let control = self.clone();
            ends.spawn(async move { control.destroyed(&sandbox, "the server was stopped").await });
        }
        ends.join_all().await;
        Ok(())
    }
}
