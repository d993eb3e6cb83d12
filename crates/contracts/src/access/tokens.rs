//! Who asks, and API tokens.

use crate::Time;
use ostler_domain::{ApiToken, Permission, TenantId, TokenId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Creates an API token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What to call it.
    pub name: String,
    /// What it may do at most; all that the creator may when absent. The token of a user may never do more than the user's
    /// roles allow at the time.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub permissions: Option<Vec<Permission>>,
    /// Days until it expires; never when absent.
    #[serde(default)]
    pub expires_in_days: Option<u32>,
    /// The user in whose name it acts; the creator's own when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub user_id: Option<UserId>,
    /// Whether it is a service token of the tenant, which belongs to no user.
    #[serde(default)]
    pub service: bool,
}

/// An API token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Id.
    #[schema(value_type = String)]
    pub id: TokenId,
    /// The user in whose name it acts; none for a service token.
    #[schema(value_type = Option<String>)]
    pub user_id: Option<UserId>,
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
            user_id: t.user_id,
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
    /// The tenant that is acted in.
    #[schema(value_type = String)]
    pub tenant_id: TenantId,
    /// User; none for a service token and in development mode.
    #[schema(value_type = Option<String>)]
    pub user_id: Option<UserId>,
    /// Token; none in development mode.
    #[schema(value_type = Option<String>)]
    pub token_id: Option<TokenId>,
    /// What is allowed.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
    /// Whether the server runs in development mode.
    pub development: bool,
}
