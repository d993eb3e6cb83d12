//! What is found at the start of a server.

use super::end::GRACE;
use super::idle::driver_error;
use crate::{Control, Result};
use ostler_domain::{SandboxId, SandboxStatus};
use ostler_sandbox::DriverStatus;
use ostler_store::StoreExt;
use std::collections::BTreeSet;

impl Control {
    /// Brings records and drivers together after a start: removes what has no record, and ends what nobody holds any
    /// more. `keep` are the sandboxes of runs that are adopted. What a driver cannot do at present is left to the rounds
    /// over the pools and to the next start, so that one that is broken does not keep the server from starting.
    pub async fn reconcile_sandboxes(&self, keep: &BTreeSet<SandboxId>) -> Result<usize> {
        let mut ended = self.remove_unrecorded().await?;
        for sandbox in self.parts.store.list(self.own_sandboxes()).await? {
            let held = sandbox.status == SandboxStatus::Running && !sandbox.for_run;
            let useful = held || sandbox.status == SandboxStatus::Warm || keep.contains(&sandbox.id);
            let status = match self.driver_of(&sandbox) {
                Ok(driver) => driver
                    .status(sandbox.id)
                    .await
                    .map_err(|error| driver_error(&error)),
                Err(error) => Err(error),
            };
            match status {
                Err(error) => {
                    tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is left as it is");
                }
                // Whether it is well is for the health checks to say, which are patient.
                Ok(DriverStatus::Running) if useful => {}
                Ok(_) if held => {
                    let (control, id) = (self.clone(), sandbox.id);
                    // Another one may take long to start.
                    tokio::spawn(async move {
                        if let Err(error) = control.replace(id, "it ended while the server was away").await {
                            tracing::warn!(%error, sandbox.id = %id, "a sandbox is not replaced yet; it is tried again");
                        }
                    });
                    ended += 1;
                }
                Ok(_) => ended += usize::from(self.destroyed(&sandbox, "the server was started again").await),
            }
        }
        Ok(ended)
    }

    /// Removes what the drivers of this server have and no record of it names.
    pub(crate) async fn remove_unrecorded(&self) -> Result<usize> {
        let mut ended = 0;
        for host in self.parts.drivers.iter() {
            let found = match host.driver.list().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "sandboxes without a record cannot be looked for; the next start does it");
                    continue;
                }
            };
            // After the things: the record of each comes before it.
            let records = self.parts.store.list(self.own_sandboxes()).await?;
            let known: BTreeSet<SandboxId> = records
                .iter()
                .filter(|s| s.driver == host.kind && s.host == host.name)
                .map(|s| s.id)
                .collect();
            for id in found.into_iter().filter(|id| !known.contains(id)) {
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
}
