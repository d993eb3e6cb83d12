//! Snapshots of agents, from which pools start.

use crate::sandboxes::driver_error;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, Sandbox, SandboxId};

/// Longest name.
const MAX_NAME: usize = 60;

impl Control {
    /// Keeps the state of an agent under a name, from which a pool can start. What is in it can be read by whoever gets a
    /// sandbox of that pool, so it needs the right to change pools, and an agent that was given secrets is refused.
    pub async fn snapshot_agent(&self, caller: &Caller, id: SandboxId, name: &str) -> Result<()> {
        if ostler_domain::slug(name, MAX_NAME) != name {
            return Err(ControlError::Invalid(format!(
                "the name of a snapshot is up to {MAX_NAME} lower-case letters, digits and single hyphens"
            )));
        }
        let sandbox = self.agent_in_use(caller, id).await?;
        caller.require(Permission::FleetWrite)?;
        if let Some(secret) = secret_of(&sandbox) {
            return Err(ControlError::Conflict(format!(
                "a snapshot would keep {secret}, which others that start from it could read; take it of an agent \
                 without"
            )));
        }
        let details = serde_json::json!({ "name": name });
        self.note_act(caller, "agent.snapshot", id, details).await?;
        self.driver_of(&sandbox)?
            .snapshot(id, name)
            .await
            .map_err(|error| driver_error(&error))
    }
}

/// What a sandbox holds that others must not see: environment is where tokens and keys come in.
fn secret_of(sandbox: &Sandbox) -> Option<&'static str> {
    let configured = sandbox.config.get("env").and_then(serde_json::Value::as_object);
    if sandbox.for_run {
        Some("the workspace of a run")
    } else if configured.is_some_and(|env| !env.is_empty()) {
        Some("the environment of its configuration")
    } else if !sandbox.template.env.is_empty() {
        Some("the environment of its pool")
    } else {
        None
    }
}
