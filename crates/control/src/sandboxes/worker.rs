//! Pools of workers: what their configuration means for the template, by the policy of the settings.
//!
//! It is resolved when the pool is set, so that a pool shows all that its sandboxes get, and a change of the policy opens
//! nothing in pools that are there.

use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::{SetWorker, SignIn};
use ostler_domain::{Permission, SandboxTemplate};
use ostler_sandbox::worker::{WORKER_ID, WorkerAuth, WorkerConfig, WorkerPolicy};

impl Control {
    /// A template, that of the pool if none is given, with what its workers need. Fails when the settings do not allow it.
    pub async fn worker_template(
        &self,
        caller: &Caller,
        pool: &str,
        template: Option<SandboxTemplate>,
        worker: SetWorker,
    ) -> Result<SandboxTemplate> {
        caller.require(Permission::FleetWrite)?;
        let mut template = match template {
            Some(template) => template,
            None => self.pool(pool).await?.template,
        };
        let settings = &self.parts.sandboxes;
        let policy = WorkerPolicy {
            allow_engine_socket: settings.allow_engine_socket,
            allow_host_session: settings.allow_host_session,
            engine_socket: settings.engine_socket.clone(),
            ..WorkerPolicy::closed(std::env::home_dir().unwrap_or_default())
        };
        let setup = config(pool, worker)?
            .setup(&policy)
            .map_err(|refused| ControlError::Unprocessable(refused.to_string()))?;
        template.env.extend(setup.env);
        // Each has its own, from its start on.
        template.env.remove(WORKER_ID);
        for mount in setup.mounts {
            template.mounts.retain(|known| known.target != mount.target);
            template.mounts.push(mount);
        }
        Ok(template)
    }
}

fn config(pool: &str, worker: SetWorker) -> Result<WorkerConfig> {
    let gateway = || {
        worker.gateway.clone().ok_or_else(|| {
            ControlError::Invalid(
                "agents that do not sign in as the host's user need the address of a gateway (`--worker-gateway URL`)".into(),
            )
        })
    };
    Ok(WorkerConfig {
        auth: match worker.auth {
            SignIn::HostSession => WorkerAuth::HostSession,
            SignIn::ApiKey => WorkerAuth::ApiKey { gateway: gateway()? },
            SignIn::Gateway => WorkerAuth::Gateway { gateway: gateway()? },
        },
        // Of all of them; that of one is the id of its sandbox.
        worker_id: pool.to_owned(),
        worker_type: worker.worker_type,
        agent_kind: worker.agent_kind,
        server_url: worker.server,
        capabilities: worker.capabilities,
        home: worker.home,
    })
}
