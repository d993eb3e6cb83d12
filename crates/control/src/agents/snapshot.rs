//! Snapshots of agents, from which pools start.

use crate::sandboxes::driver_error;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::{SnapshotView, Time};
use ostler_domain::{DriverKind, Permission, Pool, Sandbox, SandboxId};
use ostler_store::{Filter, SandboxSecrets, SandboxStamp, StoreExt};
use std::collections::BTreeMap;

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
        self.without_secrets(&sandbox).await?;
        let driver = self.driver_of(&sandbox)?;
        let known = driver.snapshots().await.map_err(|error| driver_error(&error))?;
        if known.iter().any(|known| known == name) {
            return Err(ControlError::Conflict(format!(
                "there is a snapshot {name} of {} already; give this one another name, or remove that with `ostler \
                 snapshot rm {name}`",
                sandbox.driver
            )));
        }
        let details = serde_json::json!({ "name": name });
        self.note_act(caller, "agent.snapshot", id, details).await?;
        let (control, name) = (self.clone(), name.to_owned());
        // A task of its own: a caller who goes away must not leave a snapshot that nobody has looked at.
        let kept = tokio::spawn(async move {
            let kept = driver.snapshot(id, &name).await;
            kept.map_err(|error| driver_error(&error))?;
            // What it was given meanwhile was noted before, and may be in the snapshot.
            let judged = match control.parts.store.get::<Sandbox, _>(id).await {
                Ok(Some(sandbox)) => control.without_secrets(&sandbox).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if judged.is_err() {
                let removed = driver.remove_snapshot(&name).await;
                removed.map_err(|error| driver_error(&error))?;
            }
            judged
        });
        kept.await.unwrap_or_else(|_| {
            Err(ControlError::Unavailable(
                "the server stopped while it kept the state of the agent".into(),
            ))
        })
    }

    /// Refuses a sandbox that holds, or once was given, what others must not see.
    async fn without_secrets(&self, sandbox: &Sandbox) -> Result<()> {
        let given: Option<SandboxSecrets> = self.parts.store.get(sandbox.id).await?;
        let at = given.and_then(|given| given.secrets_at);
        let Some(secret) = secret_of(sandbox).map(str::to_owned).or_else(|| {
            let at = Time::from(at?);
            Some(format!(
                "the environment that its programs were given, the last at {at}"
            ))
        }) else {
            return Ok(());
        };
        Err(ControlError::Conflict(format!(
            "a snapshot would keep {secret}, which others that start from it could read; take it of an agent that was \
             never given any"
        )))
    }

    /// Notes that a sandbox is given what may be secret, before that enters it. It holds for as long as the sandbox lives:
    /// programs may have written it anywhere.
    pub(super) async fn note_secrets(&self, id: SandboxId) -> Result<()> {
        let stamped = self
            .parts
            .store
            .stamp_sandboxes(vec![id], SandboxStamp::Secrets, self.now());
        Ok(stamped.await?)
    }

    /// The snapshots that the drivers of this server keep, by driver and name.
    pub async fn snapshots(&self, caller: &Caller) -> Result<Vec<SnapshotView>> {
        caller.require(Permission::FleetRead)?;
        let pools: Vec<Pool> = self.parts.store.list(Filter::all()).await?;
        let mut found = BTreeMap::new();
        for host in self.parts.drivers.all() {
            let names = host.driver.snapshots().await;
            for name in names.map_err(|error| driver_error(&error))? {
                found.entry((host.kind, name)).or_insert_with_key(|(kind, name)| {
                    let starts = |pool: &&Pool| {
                        pool.template.driver == *kind && pool.template.snapshot.as_ref() == Some(name)
                    };
                    pools
                        .iter()
                        .filter(starts)
                        .map(|pool| pool.name.clone())
                        .collect()
                });
            }
        }
        let view = |((driver, name), pools)| SnapshotView { driver, name, pools };
        Ok(found.into_iter().map(view).collect())
    }

    /// Removes a snapshot. Agents that were started from it have what they need of it; one from which a pool starts stays.
    pub async fn remove_snapshot(&self, caller: &Caller, driver: DriverKind, name: &str) -> Result<()> {
        caller.require(Permission::FleetWrite)?;
        let all = self.snapshots(caller).await?;
        let found = all
            .into_iter()
            .find(|view| view.driver == driver && view.name == name);
        let view = found.ok_or_else(|| ControlError::NotFound {
            what: "snapshot",
            id: format!("{driver}/{name}"),
        })?;
        if let Some(pool) = view.pools.first() {
            return Err(ControlError::Conflict(format!(
                "the sandboxes of the pool {pool} are restored from the snapshot {name}: give it another first, or none \
                 with `ostler pool set {pool} --snapshot ''`"
            )));
        }
        let details = serde_json::json!({ "driver": driver });
        self.note_act(caller, "snapshot.remove", name, details).await?;
        for host in self.parts.drivers.hosts(driver) {
            let removed = host.driver.remove_snapshot(name).await;
            removed.map_err(|error| driver_error(&error))?;
        }
        Ok(())
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
