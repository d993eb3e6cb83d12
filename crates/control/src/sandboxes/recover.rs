//! What is found at the start of a server, and on a host that was away then.

use super::end::GRACE;
use super::idle::driver_error;
use crate::hosts::DriverHost;
use crate::{Control, ControlError, Result};
use ostler_domain::{Sandbox, SandboxId, SandboxStatus};
use ostler_sandbox::{Driver, DriverStatus};
use ostler_store::{Op, StoreExt};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Control {
    /// Brings records and drivers together after a start: removes what has no record, and ends what nobody holds any
    /// more. `keep` are the sandboxes of runs that are adopted. What a driver cannot do at present is left to the rounds
    /// over the pools and to the next start, so that one that is broken does not keep the server from starting.
    pub async fn reconcile_sandboxes(&self, keep: &BTreeSet<SandboxId>) -> Result<usize> {
        let mut ended = self.remove_unrecorded().await?;
        for sandbox in self.parts.store.list(self.own_sandboxes()).await? {
            let useful = match self.driver_of(&sandbox) {
                Ok(driver) => is_useful(&sandbox, &driver, keep).await,
                Err(error) => Err(error),
            };
            match useful {
                Err(error) => {
                    tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is left as it is");
                }
                Ok(true) => {}
                Ok(false) => ended += usize::from(self.end_lost(&sandbox).await),
            }
        }
        Ok(ended)
    }

    /// Takes a host into use that was away when this server started. Before anything is started there, what an earlier
    /// life of this server has left there is dealt with as at a start. Fails when that cannot be done, and the host is as
    /// away as before. Returns how many sandboxes were ended there.
    pub async fn add_host(&self, host: DriverHost) -> Result<usize> {
        let mut ended = 0;
        let unrecorded = self.unrecorded(&host).await?;
        for id in unrecorded {
            host.driver
                .remove(id, GRACE)
                .await
                .map_err(|error| driver_error(&error))?;
            ended += 1;
        }
        let there =
            self.own_sandboxes()
                .and("driver", Op::Eq, host.kind)
                .and("host", Op::Eq, host.name.clone());
        // Runs whose sandboxes were out of reach at the start were put back then.
        let keep = BTreeSet::new();
        let (mut lost, mut live) = (Vec::new(), Vec::new());
        for sandbox in self.parts.store.list(there).await? {
            if is_useful(&sandbox, &host.driver, &keep).await? {
                live.push(sandbox);
            } else {
                lost.push(sandbox);
            }
        }
        tracing::info!(driver = %host.kind, host = host.name, live = live.len(), "a host is there and used from now on");
        self.parts.drivers.add(host);
        for sandbox in live.into_iter().filter(is_held) {
            self.adopt_programs_of(sandbox);
        }
        for sandbox in lost {
            ended += usize::from(self.end_lost(&sandbox).await);
        }
        Ok(ended)
    }

    /// Ends what is left of a sandbox that is of no use any more; another takes the place of what a tenant holds.
    async fn end_lost(&self, sandbox: &Sandbox) -> bool {
        if !is_held(sandbox) {
            return self.destroyed(sandbox, "the server was started again").await;
        }
        let (control, id) = (self.clone(), sandbox.id);
        // Another one may take long to start.
        tokio::spawn(async move {
            if let Err(error) = control.replace(id, "it ended while the server was away").await {
                tracing::warn!(%error, sandbox.id = %id, "a sandbox is not replaced yet; it is tried again");
            }
        });
        true
    }

    /// Removes what the drivers of this server have and no record of it names.
    pub(crate) async fn remove_unrecorded(&self) -> Result<usize> {
        let mut ended = 0;
        for host in self.parts.drivers.all() {
            let unrecorded = match self.unrecorded(&host).await {
                Ok(unrecorded) => unrecorded,
                Err(ControlError::Unavailable(error)) => {
                    tracing::warn!(%error, "sandboxes without a record cannot be looked for; the next start does it");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for id in unrecorded {
                match host.driver.remove(id, GRACE).await {
                    Ok(()) => ended += 1,
                    Err(error) => {
                        tracing::warn!(%error, sandbox.id = %id, "a sandbox without a record is not removed; the next start does it");
                    }
                }
            }
        }
        Ok(ended)
    }

    /// What a host has and no record of this server names.
    async fn unrecorded(&self, host: &DriverHost) -> Result<Vec<SandboxId>> {
        let mut found = host
            .driver
            .list()
            .await
            .map_err(|error| ControlError::Unavailable(error.to_string()))?;
        // After the things: the record of each comes before it.
        let records = self.parts.store.list(self.own_sandboxes()).await?;
        let known: BTreeSet<SandboxId> = records
            .iter()
            .filter(|s| s.driver == host.kind && s.host == host.name)
            .map(|s| s.id)
            .collect();
        found.retain(|id| !known.contains(id));
        Ok(found)
    }
}

/// Whether a tenant holds it.
fn is_held(sandbox: &Sandbox) -> bool {
    sandbox.status == SandboxStatus::Running && !sandbox.for_run
}

/// Whether a sandbox goes on after a start. Whether it is well is for the health checks to say, which are patient.
async fn is_useful(sandbox: &Sandbox, driver: &Arc<dyn Driver>, keep: &BTreeSet<SandboxId>) -> Result<bool> {
    let status = driver
        .status(sandbox.id)
        .await
        .map_err(|error| driver_error(&error))?;
    let wanted = is_held(sandbox) || sandbox.status == SandboxStatus::Warm || keep.contains(&sandbox.id);
    Ok(wanted && matches!(status, DriverStatus::Running))
}
