//! Tenants and API tokens.

use crate::{Permissions, TenantId, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

/// The owner of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Id.
    pub id: TenantId,
    /// Unique name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An API token. Its secret is shown once, at creation; only a hash of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Id.
    pub id: TokenId,
    /// The tenant in whose name it acts.
    pub tenant_id: TenantId,
    /// What the owner calls it.
    pub name: String,
    /// The first characters of the secret, to recognise it by.
    pub prefix: String,
    /// SHA-256 of the secret in hexadecimal. The secret has 256 random bits, so a slow hash would add nothing.
    pub hash: String,
    /// What it may do.
    pub permissions: Permissions,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to within a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl ApiToken {
    /// Whether it is accepted at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}
