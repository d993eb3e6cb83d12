//! Servers that share a database: the runs of one that is gone for good are taken up by the others.
//!
//! A server says every few seconds that it lives. One that has not done so for the time of the lease is taken for dead:
//! its runs go back on the queue, each once, since that is fenced on (run, attempt) like every other end. A server that
//! was only held up finds out that runs are no longer its own, and ends what it still executes of them.

use super::{Executor, HEARTBEAT};
use crate::Result;
use ostler_domain::{RunId, RunStatus, Sandbox, SandboxStatus, ServerId, Timestamp};
use ostler_store::{Filter, Op, StoreExt};
use std::collections::BTreeSet;
use std::time::Duration;

/// Shortest lease: some signs of life may come late.
const SHORTEST: u64 = 15;

impl Executor {
    /// Says that this server lives, and looks whether the others do. `last` is when it last said so; returns when it
    /// did now.
    pub(super) async fn look_after_leases(&self, last: Timestamp) -> Result<Timestamp> {
        let (store, now) = (self.control.store(), self.control.now());
        let lease = Duration::from_secs(self.settings.lease_seconds.max(SHORTEST));
        self.heartbeat().await?;
        if now.since(last) > lease {
            tracing::warn!("this server was held up so long that others may have taken it for dead");
            self.end_what_was_lost().await?;
            self.control.remove_unrecorded().await?;
        }
        for server in store.silent_servers(now.minus(lease)).await? {
            if server != self.control.parts.server_id {
                self.take_over(server, lease).await?;
            }
        }
        Ok(now)
    }

    /// Until it is dropped: a server that still waits for its runs must not be taken for dead.
    pub(super) async fn stay_alive(&self) {
        loop {
            tokio::time::sleep(HEARTBEAT / 2).await;
            if let Err(error) = self.heartbeat().await {
                tracing::warn!(%error, "it cannot be said that this server lives; it is tried again");
            }
        }
    }

    async fn take_over(&self, server: ServerId, lease: Duration) -> Result<()> {
        // First: a server without runs is not looked at again.
        self.forget_sandboxes(server).await?;
        let runs = self.control.store().running(server).await?;
        let requeue = runs.iter().map(|run| {
            let reason = format!(
                "its server {server} has not been heard of for {} s",
                lease.as_secs()
            );
            self.requeued(run, reason, run.sandbox_id.is_some())
        });
        let states = self.control.store().requeue(requeue.collect()).await?;
        for (run, state) in runs.iter().zip(states) {
            if state.is_some_and(RunStatus::is_terminal) {
                self.control.settle_run(run).await;
            }
        }
        Ok(())
    }

    pub(super) async fn heartbeat(&self) -> Result<()> {
        let server = self.control.parts.server_id;
        Ok(self.control.store().heartbeat(server, self.control.now()).await?)
    }

    /// Ends what is executed here of runs that another server has put back meanwhile.
    async fn end_what_was_lost(&self) -> Result<()> {
        // In this order: a run that is claimed in between is not in the first.
        let mut active: Vec<(RunId, u32)> = self.lock().keys().copied().collect();
        if active.is_empty() {
            return Ok(());
        }
        let store = self.control.store();
        let own = store.running(self.control.parts.server_id).await?;
        let own: BTreeSet<(RunId, u32)> = own.iter().map(|run| (run.submitted.id, run.attempt)).collect();
        active.retain(|key| !own.contains(key));
        for key in active {
            // One that has just ended by itself is not hurt by this.
            if let Some(token) = self.lock().get(&key) {
                token.cancel();
            }
        }
        Ok(())
    }

    /// Takes the sandboxes of a dead server off the books, so that they do not fill the pools: all but those that a
    /// person holds. If the server comes back, it removes what has no record.
    async fn forget_sandboxes(&self, server: ServerId) -> Result<()> {
        let live = Filter::<Sandbox>::by("server_id", server).and("status", Op::Ne, SandboxStatus::Destroyed);
        for sandbox in self.control.store().list(live).await? {
            let held = sandbox.tenant_id.is_some() && !sandbox.for_run;
            if !held {
                self.control.forget(sandbox.id, "its server is gone").await?;
            }
        }
        Ok(())
    }
}
