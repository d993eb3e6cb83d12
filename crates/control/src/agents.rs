//! Agents: sandboxes that a tenant holds, to execute programs in and to copy files to and from.
//!
//! What a caller starts must not outlive the caller unseen. A sandbox that was being made for somebody who went away
//! ends, and so does a program whose output nobody reads any more, with all of its children, after the time that was
//! agreed on.

mod denials;
mod exec;
mod files;
mod programs;
mod snapshot;
mod terminal;
mod way_out;

pub use exec::{AgentCommand, AgentOutput, AgentProgram, MAX_EXEC};
pub use files::{AgentFile, AgentUpload};
pub(crate) use programs::Programs;
pub use terminal::{AgentTerminal, Keyboard, NewTerminal};
pub(crate) use way_out::Served;

use crate::conflict::retry_on_conflict;
use crate::guest::GuestError;
use crate::runs::impossible;
use crate::sandboxes::{Claimed, Holder};
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{
    DepartmentId, PausedBy, Permission, Pool, Requirements, Sandbox, SandboxId, SandboxStatus,
};
use ostler_store::{Filter, Op, StoreExt, Told};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Longest list of commands, and longest command in it.
const MAX_TOOLS: usize = 200;
const MAX_TOOL_NAME: usize = 100;

/// A sandbox that a tenant asks for.
#[derive(Debug, Clone, Default)]
pub struct NewAgent {
    /// Department.
    pub department_id: Option<DepartmentId>,
    /// Pool by name; the smallest that satisfies the requirements when absent.
    pub pool: Option<String>,
    /// What it must offer.
    pub requirements: Requirements,
    /// Configuration: null or an object, whose `env` becomes environment.
    pub config: serde_json::Value,
    /// Commands that programs in it may use.
    pub tool_allowlist: Option<Vec<String>>,
}

impl Control {
    /// Gives the tenant a sandbox: a warm one of the pool if there is one, otherwise a new one. A caller that drops this
    /// future gives it up.
    pub async fn provision_agent(&self, caller: &Caller, new: NewAgent) -> Result<Claimed> {
        caller.require(Permission::AgentsWrite)?;
        config_env(&new.config)?;
        check_tools(new.tool_allowlist.as_deref())?;
        if let Some(department) = new.department_id {
            self.department_of(caller.tenant_id, department).await?;
        }
        let pools = self.suitable_pools(new.pool, new.requirements).await?;
        let holder = Holder {
            department_id: new.department_id,
            config: new.config,
            tool_allowlist: restricted(new.tool_allowlist),
            ..Holder::default()
        };
        let (control, tenant) = (self.clone(), caller.tenant_id);
        let (teller, by) = (self.clone(), caller.clone());
        let tell = move |sandbox: &Sandbox, warm: bool| {
            let view = ostler_contracts::SandboxView::from(sandbox.clone());
            let details = serde_json::json!({ "pool": sandbox.pool, "warm": warm });
            vec![
                teller.audit_entry(&by, "agent.provision", sandbox.id, details),
                teller.event(tenant, "agent.provisioned", sandbox.id, view),
            ]
        };
        let (reply, answer) = oneshot::channel();
        // A task of its own, so that a caller who goes away leaves no sandbox half made.
        tokio::spawn(async move {
            let told: Told = {
                let tell = tell.clone();
                Arc::new(move |sandbox| tell(sandbox, true))
            };
            let mut done = control.acquire_agent(&pools, tenant, holder, &told).await;
            if let Ok(claimed) = &done
                && claimed.cold_reason.is_some()
                && let Err(error) = control.commit(tell(&claimed.sandbox, false)).await
            {
                let reason = "who asked for it could not be written down";
                control.destroyed(&claimed.sandbox, reason).await;
                done = Err(error);
            }
            let Err(Ok(claimed)) = reply.send(done) else {
                return;
            };
            let id = claimed.sandbox.id;
            if let Err(error) = control.destroy(id, "who asked for it went away").await {
                tracing::warn!(%error, sandbox.id = %id, "a sandbox that nobody waits for is not removed yet; it is tried again");
            }
        });
        answer.await.unwrap_or_else(|_| {
            Err(ControlError::Unavailable(
                "the server stopped while it made the sandbox".into(),
            ))
        })
    }

    /// The tenant's sandboxes that are not gone, newest first.
    pub async fn agents(&self, caller: &Caller) -> Result<Vec<Sandbox>> {
        caller.require(Permission::AgentsRead)?;
        let held = Filter::by("tenant_id", caller.tenant_id)
            .and("for_run", Op::Eq, false)
            .and("status", Op::Ne, SandboxStatus::Destroyed)
            .order_by_desc("created_at");
        Ok(self.parts.store.list(held).await?)
    }

    /// One of the tenant's sandboxes, also one that is gone.
    pub async fn agent(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        let sandbox = sandbox
            .filter(|s| s.tenant_id == Some(caller.tenant_id) && !s.for_run)
            .ok_or_else(|| ControlError::NotFound {
                what: "agent",
                id: id.to_string(),
            })?;
        caller.require(Permission::AgentsRead)?;
        Ok(sandbox)
    }

    /// Ends a sandbox with everything in it. Repeating it changes nothing. What its driver could not remove is the error,
    /// and is tried again until it is gone.
    pub async fn destroy_agent(&self, caller: &Caller, id: SandboxId) -> Result<()> {
        let sandbox = self.agent(caller, id).await?;
        caller.require(Permission::AgentsWrite)?;
        let by = self.acting(caller, "agent.destroy", id, ());
        by.destroy(sandbox.id, "its holder ended it").await
    }

    /// Changes the configuration or the list of commands; what is absent stays. Holds for programs started from now on.
    pub async fn configure_agent(
        &self,
        caller: &Caller,
        id: SandboxId,
        config: Option<serde_json::Value>,
        tool_allowlist: Option<Vec<String>>,
    ) -> Result<Sandbox> {
        if let Some(config) = &config {
            config_env(config)?;
        }
        check_tools(tool_allowlist.as_deref())?;
        retry_on_conflict!({
            let mut sandbox = self.live_agent(caller, id).await?;
            if config.is_some() && !config_env(&sandbox.config)?.is_empty() {
                // Programs may have kept what they were given by the one that is replaced.
                self.note_secrets(id).await?;
            }
            sandbox.config = config.clone().unwrap_or(sandbox.config);
            if let Some(tools) = tool_allowlist.clone() {
                sandbox.tool_allowlist = restricted(Some(tools));
            }
            let changes = self.sandbox_changes(&mut sandbox, "agent.configured");
            // What it is configured to may hold secrets.
            self.acting(caller, "agent.configure", id, ())
                .commit(changes)
                .await?;
            Ok(sandbox)
        })
    }

    /// Freezes all programs of a sandbox, where its driver can. Until [`Self::resume_agent`] nothing in it answers.
    pub async fn pause_agent(&self, caller: &Caller, id: SandboxId) -> Result<()> {
        self.live_agent(caller, id).await?;
        let by = self.acting(caller, "agent.pause", id, ());
        by.pause_sandbox(id, PausedBy::Holder).await.map(drop)
    }

    /// Lets them go on. One that is not frozen goes on as it is.
    pub async fn resume_agent(&self, caller: &Caller, id: SandboxId) -> Result<()> {
        self.live_agent(caller, id).await?;
        let by = self.acting(caller, "agent.resume", id, ());
        by.resume_sandbox(id).await.map(drop)
    }

    /// A sandbox of the tenant to work in now: notes the use, and wakes one that was frozen for want of it.
    async fn agent_in_use(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        let sandbox = self.live_agent(caller, id).await?;
        self.used(sandbox).await
    }

    /// A sandbox of the tenant that can be worked with here, for a caller who may.
    async fn live_agent(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        let sandbox = self.agent(caller, id).await?;
        caller.require(Permission::AgentsWrite)?;
        if !matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Unhealthy) {
            let reason = sandbox
                .reason
                .map_or(String::new(), |reason| format!(": {reason}"));
            return Err(ControlError::Conflict(format!(
                "the agent is {}{reason}",
                sandbox.status
            )));
        }
        if sandbox.server_id != self.parts.server_id {
            return Err(ControlError::Unavailable(format!(
                "the agent is on another server, {}",
                sandbox.server_id
            )));
        }
        Ok(sandbox)
    }

    /// The pools that satisfy the requirements, the smallest first.
    async fn suitable_pools(
        &self,
        named: Option<String>,
        mut requirements: Requirements,
    ) -> Result<Vec<Pool>> {
        match (named, &requirements.pool) {
            (Some(named), Some(other)) if named != *other => {
                return Err(ControlError::Invalid(format!(
                    "two pools are asked for, {named} and {other}"
                )));
            }
            (Some(named), _) => requirements.pool = Some(named),
            (None, _) => {}
        }
        let mut pools: Vec<Pool> = self.parts.store.list(Filter::all()).await?;
        pools.sort_by_key(|pool| (pool.template.cpus, pool.template.memory_mb));
        pools.retain(|pool| {
            self.offer(pool).is_some_and(|mut offer| {
                // It is given one as the pool has them; none is started with another kernel for it.
                offer.kernels.truncate(1);
                requirements.unmet(&offer).is_empty()
            })
        });
        if pools.is_empty() {
            let mut verdicts = self.verdicts(&requirements).await?;
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.suitable) {
                let kernel = requirements.kernel.as_deref().unwrap_or_default();
                verdict.reasons = vec![format!(
                    "its sandboxes do not run the kernel {kernel} by themselves"
                )];
            }
            return Err(ControlError::Unprocessable(impossible(&verdicts)));
        }
        Ok(pools)
    }
}

/// The environment that a configuration asks for.
fn config_env(config: &serde_json::Value) -> Result<BTreeMap<String, String>> {
    let wrong = |what: &str| Err(ControlError::Invalid(what.to_owned()));
    let object = match config {
        serde_json::Value::Null => return Ok(BTreeMap::new()),
        serde_json::Value::Object(object) => object,
        _ => return wrong("an agent's configuration must be an object"),
    };
    let Some(env) = object.get("env") else {
        return Ok(BTreeMap::new());
    };
    let Ok(env) = serde_json::from_value::<BTreeMap<String, String>>(env.clone()) else {
        return wrong("`env` in an agent's configuration must be an object of texts");
    };
    check_env(&env)?;
    Ok(env)
}

fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ControlError::Invalid(format!(
                "the environment variable `{}` cannot be: its name is empty or holds `=`, or it holds a zero byte",
                name.escape_debug()
            )));
        }
    }
    Ok(())
}

/// A list that says `all` restricts nothing.
fn restricted(tools: Option<Vec<String>>) -> Option<Vec<String>> {
    tools.filter(|tools| tools != &["all"])
}

fn check_tools(tools: Option<&[String]>) -> Result<()> {
    let tools = tools.unwrap_or_default();
    let wrong =
        |tool: &String| tool.is_empty() || tool.len() > MAX_TOOL_NAME || tool.chars().any(char::is_control);
    if tools.len() > MAX_TOOLS || tools.iter().any(wrong) {
        return Err(ControlError::Invalid(format!(
            "the list of commands may have {MAX_TOOLS} entries, each a text of 1 to {MAX_TOOL_NAME} bytes on one line"
        )));
    }
    Ok(())
}

fn guest_error(error: GuestError) -> ControlError {
    match error {
        GuestError::Refused(message) => ControlError::Unprocessable(message),
        other => ControlError::Unavailable(format!("{other}; if the agent is paused, resume it first")),
    }
}
