//! Who asks, and the server itself.

mod credentials;
mod tenants;
mod users;

pub use credentials::AuditQuery;

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{CreateToken, CreatedToken, Health, KindView, TokenView};
use ostler_domain::TokenId;
use reqwest::Method;

impl Client {
    /// Whether the server can do its work; needs no token.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get(self.path(&["health"])).await
    }

    /// The agent kinds.
    pub async fn kinds(&self) -> Result<Vec<KindView>, ClientError> {
        self.get(self.path(&["kinds"])).await
    }

    /// The API tokens, newest first.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        self.get(self.path(&["tokens"])).await
    }

    /// Creates an API token; the only time that its secret is shown.
    pub async fn create_token(&self, new: &CreateToken) -> Result<CreatedToken, ClientError> {
        self.call(Method::POST, &["tokens"], Some(new), Usual).await
    }

    /// Revokes an API token.
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["tokens", &id.to_string()], Usual)
            .await
    }
}
