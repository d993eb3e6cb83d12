//! Health: sandboxes that do not answer are replaced, and those that end by themselves are noticed at once.
//!
//! Whoever works in a sandbox is told of its loss: the executor ends or puts back the run that it carried. What a tenant
//! holds is replaced here.

use super::Holder;
use crate::conflict::retry_on_conflict;
use crate::{Control, ControlError, Result, probe};
use futures::StreamExt;
use ostler_domain::{Sandbox, SandboxId, SandboxStatus};
use ostler_sandbox::{DriverEvent, DriverStatus, ExitInfo, MachineEnd};
use ostler_store::{Change, SandboxStamp, StoreExt};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a sandbox cannot be worked in any more.
#[derive(Debug, Clone)]
pub(crate) enum Loss {
    /// Its first process ended.
    Crashed(SandboxId, ExitInfo),
    /// It does not answer.
    Unhealthy(SandboxId, String),
}

impl Loss {
    pub(crate) fn sandbox(&self) -> SandboxId {
        match self {
            Self::Crashed(id, _) | Self::Unhealthy(id, _) => *id,
        }
    }
}

/// How a first process ended, in words.
pub(crate) fn crash(exit: &ExitInfo) -> String {
    match (exit.out_of_memory, exit.signal, exit.code) {
        _ if exit.machine == Some(MachineEnd::Panic) => "crash: the kernel of its sandbox panicked".into(),
        _ if exit.machine == Some(MachineEnd::Reboot) => {
            "crash: the machine of its sandbox was restarted from inside".into()
        }
        _ if exit.machine == Some(MachineEnd::PowerOff) => {
            "crash: the machine of its sandbox was switched off from inside".into()
        }
        (true, ..) => "killed: its sandbox ran out of memory".into(),
        (_, Some(signal), _) => format!("killed: its sandbox was ended by signal {signal}"),
        (_, None, Some(code)) => format!("crash: its sandbox ended with exit code {code}"),
        (_, None, None) => "crash: its sandbox ended".into(),
    }
}

impl Control {
    /// One round over the sandboxes of this server: asks each guest. One that has failed often enough is replaced. Returns
    /// how many were found unhealthy.
    pub async fn check_health(&self) -> Result<usize> {
        let settings = &self.parts.sandboxes;
        let looked_at = [
            SandboxStatus::Warm,
            SandboxStatus::Running,
            SandboxStatus::Unhealthy,
        ];
        let sandboxes = self.own_briefs(&looked_at).await?;
        let limit = Duration::from_secs(settings.health_limit_seconds.max(1));
        let mut checks = futures::stream::iter(sandboxes.into_iter().filter(|s| s.paused.is_none()))
            .map(|sandbox| async move {
                let found = match self.driver_on(sandbox.driver, &sandbox.host) {
                    Ok(driver) => probe::check(&driver, sandbox.id, limit)
                        .await
                        .map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                (sandbox, found)
            })
            .buffer_unordered(settings.health_checks.max(1));
        let mut healthy = Vec::new();
        let mut unhealthy = 0;
        while let Some((sandbox, found)) = checks.next().await {
            match found {
                Ok(()) if sandbox.failures == 0 && sandbox.status != SandboxStatus::Unhealthy => {
                    healthy.push(sandbox.id);
                }
                Ok(()) => self.well_again(sandbox.id).await?,
                Err(reason) => {
                    unhealthy += 1;
                    self.unwell(sandbox.id, &reason).await?;
                }
            }
        }
        if !healthy.is_empty() {
            let now = self.now();
            self.parts
                .store
                .stamp_sandboxes(healthy, SandboxStamp::Checked, now)
                .await?;
        }
        Ok(unhealthy)
    }

    async fn well_again(&self, id: SandboxId) -> Result<()> {
        retry_on_conflict!({
            let Some(mut sandbox) = self.checked(id).await? else {
                return Ok(());
            };
            if sandbox.status == SandboxStatus::Unhealthy {
                sandbox.transition(SandboxStatus::Running)?;
            }
            (sandbox.failures, sandbox.reason) = (0, None);
            sandbox.checked_at = Some(self.now());
            self.commit(vec![Change::update(&sandbox)]).await
        })
    }

    /// Counts a failed check; the last that is borne ends in a replacement.
    async fn unwell(&self, id: SandboxId, reason: &str) -> Result<()> {
        let most = self.parts.sandboxes.health_failures.max(1);
        let counted = retry_on_conflict!({
            let Some(mut sandbox) = self.checked(id).await? else {
                return Ok(None);
            };
            sandbox.failures += 1;
            sandbox.reason = Some(format!(
                "health check {} of {most} failed: {reason}",
                sandbox.failures
            ));
            self.commit(vec![Change::update(&sandbox)]).await?;
            Ok::<_, ControlError>(Some(sandbox))
        })?;
        match counted {
            Some(sandbox) if sandbox.failures >= most => {
                let why = format!(
                    "it failed {} health checks in a row, the last: {reason}",
                    sandbox.failures
                );
                let _ = self.losses.send(Loss::Unhealthy(id, why.clone()));
                self.replace(id, &why).await
            }
            _ => Ok(()),
        }
    }

    /// A sandbox whose health still matters.
    async fn checked(&self, id: SandboxId) -> Result<Option<Sandbox>> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        Ok(sandbox.filter(|s| {
            s.paused.is_none()
                && matches!(
                    s.status,
                    SandboxStatus::Warm | SandboxStatus::Running | SandboxStatus::Unhealthy
                )
        }))
    }

    /// Ends a sandbox that is of no use any more. If a tenant held it, another one takes its place first, with the same
    /// department, configuration and list of tools; what a run held is ended by the run.
    pub(super) async fn replace(&self, id: SandboxId, why: &str) -> Result<()> {
        let lost = retry_on_conflict!({
            let Some(mut sandbox) = self.parts.store.get::<Sandbox, _>(id).await? else {
                return Ok(None);
            };
            if matches!(
                sandbox.status,
                SandboxStatus::Destroying | SandboxStatus::Destroyed
            ) {
                return Ok(None);
            }
            if sandbox.status == SandboxStatus::Unhealthy && sandbox.for_run {
                // Who executes its run knows.
                return Ok(None);
            }
            if sandbox.status != SandboxStatus::Unhealthy {
                sandbox.transition(SandboxStatus::Unhealthy)?;
            }
            sandbox.reason = Some(why.to_owned());
            self.commit(self.sandbox_changes(&mut sandbox, "agent.unhealthy"))
                .await?;
            Ok::<_, ControlError>(Some(sandbox))
        })?;
        let Some(sandbox) = lost else { return Ok(()) };
        tracing::warn!(sandbox.id = %id, why, "a sandbox is replaced");
        if let Some(host) = self
            .parts
            .drivers
            .hosts(sandbox.driver)
            .iter()
            .find(|h| h.name == sandbox.host)
            // What a kernel does that was asked for says nothing about the host.
            .filter(|_| sandbox.template.kernel.is_none())
        {
            self.note_host(host, Some(why)).await?;
        }
        if sandbox.for_run {
            // Its run is ended or put back by who executes it, and the sandbox after that.
            return Ok(());
        }
        let mut reason = why.to_owned();
        if let Some(tenant) = sandbox.tenant_id {
            let holder = Holder {
                department_id: sandbox.department_id,
                config: sandbox.config.clone(),
                tool_allowlist: sandbox.tool_allowlist.clone(),
                ..Holder::default()
            };
            let replaced = match self.pool(&sandbox.pool).await {
                Ok(pool) => self.acquire(&pool, tenant, holder).await,
                Err(error) => Err(error),
            };
            match replaced {
                Ok(claimed) => {
                    reason = format!("{why}; {} took its place", claimed.sandbox.id);
                    let view = ostler_contracts::SandboxView::from(claimed.sandbox);
                    self.commit(vec![self.event(tenant, "agent.replaced", id, view)])
                        .await?;
                }
                Err(error) => reason = format!("{why}; none could take its place: {error}"),
            }
        }
        self.destroy(id, &reason).await
    }

    /// Listens to the drivers until `stop`, also to those that are added: a sandbox that ends unasked is noticed at once.
    pub async fn watch_drivers(&self, stop: CancellationToken) {
        let mut listeners = JoinSet::new();
        let mut changes = self.parts.drivers.changes();
        loop {
            // Hosts are added behind those that are there, and stay.
            for host in changes.borrow_and_update().usable.iter().skip(listeners.len()) {
                listeners.spawn(self.clone().listen(host.driver.events()));
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = stop.cancelled() => break,
            }
        }
        listeners.shutdown().await;
    }

    async fn listen(self, mut events: Receiver<DriverEvent>) {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Err(error) = self.sandbox_ended(event).await {
                        tracing::warn!(%error, "the end of a sandbox could not be dealt with; the next health check does it");
                    }
                }
                // Health checks catch up.
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events of a driver were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Deals with the end of a sandbox that nobody asked for.
    async fn sandbox_ended(&self, event: DriverEvent) -> Result<()> {
        let Some(sandbox) = self.parts.store.get::<Sandbox, _>(event.id).await? else {
            return Ok(());
        };
        if matches!(
            sandbox.status,
            SandboxStatus::Destroying | SandboxStatus::Destroyed
        ) {
            return Ok(());
        }
        // An engine that goes away takes its sandboxes along: that is no fault of what ran in them.
        let exit = match self.driver_of(&sandbox)?.status(event.id).await {
            Ok(DriverStatus::Running) => return Ok(()),
            Ok(_) => event.exit,
            Err(error) => {
                let _ = self.losses.send(Loss::Unhealthy(event.id, error.to_string()));
                return Ok(());
            }
        };
        let why = crash(&exit);
        let _ = self.losses.send(Loss::Crashed(event.id, exit));
        if sandbox.status == SandboxStatus::Provisioning {
            // Whoever starts it finds out.
            return Ok(());
        }
        self.replace(event.id, &why).await
    }
}
