//! Hosts: how they are doing, and draining them.

use super::place::HostCounts;
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::HostView;
use ostler_domain::{DriverKind, Host, Permission, SandboxId, SandboxStatus};
use ostler_store::{Change, Op, StoreExt};

impl Control {
    /// The hosts of this server's drivers, also those that were away at its start and are not back, with what is known of
    /// each and how many sandboxes it has.
    pub async fn hosts(&self, caller: &Caller) -> Result<Vec<HostView>> {
        caller.require(Permission::FleetRead)?;
        let usable = self.parts.drivers.all();
        let away = self.parts.drivers.away();
        let mut hosts = Vec::new();
        let counts = self.counts_by_host().await?;
        for host in &usable {
            let record = self.host_record(host.kind, &host.name).await?;
            hosts.push(self.host_view(record, &counts));
        }
        for (driver, name) in away.keys() {
            // It may have been added meanwhile.
            if !usable
                .iter()
                .any(|host| host.kind == *driver && host.name == *name)
            {
                let record = self.host_record(*driver, name).await?;
                hosts.push(self.host_view(record, &counts));
            }
        }
        Ok(hosts)
    }

    fn host_view(&self, host: Host, counts: &HostCounts) -> HostView {
        let key = (host.driver, host.name.clone());
        let there = counts.get(&key).copied().unwrap_or_default();
        let why = self.parts.drivers.away().remove(&key);
        HostView::new(host, there, why)
    }

    /// Starts nothing on a host any more and ends its warm sandboxes, until it is undone; what is held there goes on to its
    /// end.
    pub async fn drain_host(
        &self,
        caller: &Caller,
        driver: DriverKind,
        name: &str,
        draining: bool,
    ) -> Result<HostView> {
        caller.require(Permission::FleetWrite)?;
        let away = self.parts.drivers.away();
        let known = self.parts.drivers.get(driver, name).is_some();
        if !known && !away.contains_key(&(driver, name.to_owned())) {
            return Err(ControlError::NotFound {
                what: "host",
                id: format!("{driver}/{name}"),
            });
        }
        let host = retry_on_conflict!({
            let mut host = self.host_record(driver, name).await?;
            host.draining = draining;
            if !draining {
                (host.failures, host.last_error, host.quarantined_until) = (0, None, None);
            }
            let details = serde_json::json!({ "draining": draining });
            let by = self.acting(caller, "host.drain", format!("{driver}/{name}"), details);
            by.commit(vec![host_change(&mut host)]).await?;
            Ok::<_, ControlError>(host)
        })?;
        if draining {
            let warm = self
                .own_sandboxes()
                .and("driver", Op::Eq, driver)
                .and("host", Op::Eq, name.to_owned())
                .and("status", Op::Eq, SandboxStatus::Warm);
            for sandbox in self.parts.store.list(warm).await? {
                self.destroyed(&sandbox, "its host is being drained").await;
            }
        }
        Ok(self.host_view(host, &self.counts_by_host().await?))
    }

    /// Ends a sandbox as the operator: a warm one, or with `force` one that somebody holds.
    pub async fn drain_sandbox(&self, caller: &Caller, id: SandboxId, force: bool) -> Result<()> {
        caller.require(Permission::FleetWrite)?;
        let sandbox = self.sandbox(caller, id).await?;
        let held = matches!(
            sandbox.status,
            SandboxStatus::Running | SandboxStatus::Provisioning | SandboxStatus::Unhealthy
        );
        if held && sandbox.tenant_id.is_some() && !force {
            return Err(ControlError::Conflict(format!(
                "{id} is held by {}; it ends when that is done with it, or at once with --force",
                if sandbox.for_run { "a run" } else { "a tenant" }
            )));
        }
        let by = self.acting(caller, "sandbox.drain", id, serde_json::json!({ "force": force }));
        by.destroy(id, "the operator ended it").await
    }

    /// What is known of a host; version 0 when nothing was written down yet.
    pub(super) async fn host_record(&self, driver: DriverKind, name: &str) -> Result<Host> {
        let server_id = self.parts.server_id;
        let id = Host::id_of(server_id, driver, name);
        let known: Option<Host> = self.parts.store.get(id.clone()).await?;
        Ok(known.unwrap_or(Host {
            id,
            server_id,
            driver,
            name: name.to_owned(),
            failures: 0,
            last_error: None,
            quarantined_until: None,
            draining: false,
            version: 0,
        }))
    }
}

/// Writes down what is known of a host: for the first time where its version is 0.
pub(super) fn host_change(host: &mut Host) -> Change {
    if host.version > 0 {
        return Change::update(host);
    }
    host.version = 1;
    Change::insert(host)
}
