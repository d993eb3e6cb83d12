//! Pools and sandboxes: the operator's view.

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{
    DrainHost, DrainSandbox, HostView, PoolExplanation, PoolView, SandboxUsage, SandboxView, SetPool,
    SnapshotView,
};
use ostler_domain::{DriverKind, SandboxId};
use reqwest::Method;

impl Client {
    /// The pools, by name.
    pub async fn pools(&self) -> Result<Vec<PoolView>, ClientError> {
        self.get(self.path(&["pools"])).await
    }

    /// Makes a pool or changes it.
    pub async fn set_pool(&self, name: &str, change: &SetPool) -> Result<PoolView, ClientError> {
        self.call(Method::PUT, &["pools", name], Some(change), Usual)
            .await
    }

    /// The snapshots that the server's drivers keep.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotView>, ClientError> {
        self.get(self.path(&["snapshots"])).await
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(&self, driver: DriverKind, name: &str) -> Result<(), ClientError> {
        let path = ["snapshots", driver.as_str(), name];
        self.act(Method::DELETE, &path, Usual).await
    }

    /// All sandboxes that are not gone.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxView>, ClientError> {
        self.get(self.path(&["sandboxes"])).await
    }

    /// One sandbox, also one that is gone.
    pub async fn sandbox(&self, id: SandboxId) -> Result<SandboxView, ClientError> {
        self.get(self.path(&["sandboxes", &id.to_string()])).await
    }

    /// How a pool is doing and what stands in its way.
    pub async fn explain_pool(&self, name: &str) -> Result<PoolExplanation, ClientError> {
        self.get(self.path(&["pools", name, "explain"])).await
    }

    /// The hosts of the server's drivers.
    pub async fn hosts(&self) -> Result<Vec<HostView>, ClientError> {
        self.get(self.path(&["hosts"])).await
    }

    /// Drains a host, or undoes that.
    pub async fn drain_host(
        &self,
        driver: DriverKind,
        name: &str,
        draining: bool,
    ) -> Result<HostView, ClientError> {
        let path = ["hosts", driver.as_str(), name, "drain"];
        self.call(Method::POST, &path, Some(&DrainHost { draining }), Usual)
            .await
    }

    /// Ends a sandbox as the operator; one that somebody holds only with `force`.
    pub async fn drain_sandbox(&self, id: SandboxId, force: bool) -> Result<SandboxView, ClientError> {
        let path = ["sandboxes", &id.to_string(), "drain"];
        self.call(Method::POST, &path, Some(&DrainSandbox { force }), Usual)
            .await
    }

    /// What a sandbox has used, newest first.
    pub async fn sandbox_usage(&self, id: SandboxId) -> Result<Vec<SandboxUsage>, ClientError> {
        self.get(self.path(&["sandboxes", &id.to_string(), "usage"]))
            .await
    }
}
