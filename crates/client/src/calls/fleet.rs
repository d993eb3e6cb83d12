//! Pools and sandboxes: the operator's view.

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{PoolView, SandboxView, SetPool};
use ostler_domain::SandboxId;
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

    /// All sandboxes that are not gone.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxView>, ClientError> {
        self.get(self.path(&["sandboxes"])).await
    }

    /// One sandbox, also one that is gone.
    pub async fn sandbox(&self, id: SandboxId) -> Result<SandboxView, ClientError> {
        self.get(self.path(&["sandboxes", &id.to_string()])).await
    }
}
