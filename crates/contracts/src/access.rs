//! Who asks.

use crate::Time;
use ostler_domain::{ApiToken, Permission, TenantId, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Creates an API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What to call it.
    pub name: String,
    /// What it may do; all that the creator may when absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub permissions: Option<Vec<Permission>>,
    /// Days until it expires; never when absent.
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// An API token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Id.
    #[schema(value_type = String)]
    pub id: TokenId,
    /// Name.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// From when on it is refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Time>,
    /// When it was last used.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Time>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Time>,
}

impl From<ApiToken> for TokenView {
    fn from(t: ApiToken) -> Self {
        Self {
            id: t.id,
            name: t.name,
            prefix: t.prefix,
            permissions: t.permissions.iter().collect(),
            created_at: t.created_at.into(),
            expires_at: t.expires_at.map(Into::into),
            last_used_at: t.last_used_at.map(Into::into),
            revoked_at: t.revoked_at.map(Into::into),
        }
    }
}

/// A new token; the only time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token.
    #[serde(flatten)]
    pub token: TokenView,
    /// What to send as `Authorization: Bearer`.
    pub secret: String,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// Tenant.
    #[schema(value_type = String)]
    pub tenant_id: TenantId,
    /// Token; none in development mode.
    #[schema(value_type = Option<String>)]
    pub token_id: Option<TokenId>,
    /// What is allowed.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
    /// Whether the server runs in development mode.
    pub development: bool,
}
