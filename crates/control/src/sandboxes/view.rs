//! The operator's view of sandboxes.

use crate::guest::Guest;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, Sandbox, SandboxId, SandboxStatus};
use ostler_store::{Filter, SandboxBrief, StoreExt};

impl Control {
    /// All sandboxes that are not gone.
    pub async fn sandboxes(&self, caller: &Caller) -> Result<Vec<Sandbox>> {
        caller.require(Permission::FleetRead)?;
        let live = Filter::all().unlike("status", "destroyed").order_by("created_at");
        Ok(self.parts.store.list(live).await?)
    }

    /// One sandbox, also one that is gone.
    pub async fn sandbox(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        caller.require(Permission::FleetRead)?;
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        sandbox.ok_or_else(|| ControlError::NotFound {
            what: "sandbox",
            id: id.to_string(),
        })
    }

    /// A connection to the guest of a sandbox of this server.
    pub(crate) fn guest(&self, sandbox: &Sandbox) -> Result<Guest> {
        Ok(Guest::new(self.driver_of(sandbox)?, sandbox.id))
    }

    /// The sandboxes of this server that are not gone.
    pub(crate) fn own_sandboxes(&self) -> Filter<Sandbox> {
        Filter::by("server_id", self.parts.server_id).unlike("status", "destroyed")
    }

    /// The same in brief: those in one of these states.
    pub(super) async fn own_briefs(&self, states: &[SandboxStatus]) -> Result<Vec<SandboxBrief>> {
        let wanted = Filter::by("server_id", self.parts.server_id)
            .unlike("status", "destroyed")
            .within("status", states.iter().copied());
        Ok(self.parts.store.list(wanted).await?)
    }
}
