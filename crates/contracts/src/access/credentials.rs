//! Stored credentials. Their values go in and never come out.

use crate::Time;
use ostler_domain::{Credential, CredentialId, CredentialKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stores a credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetCredential {
    /// What it is for: `github_token`, `model_api_key`, `ssh_key` or `generic`.
    #[schema(value_type = String)]
    pub kind: CredentialKind,
    /// The secret itself, 1 to 8192 bytes.
    pub value: String,
}

impl std::fmt::Debug for SetCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetCredential")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A stored credential without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialView {
    /// Id.
    #[schema(value_type = String)]
    pub id: CredentialId,
    /// Name.
    pub name: String,
    /// What it is for.
    #[schema(value_type = String)]
    pub kind: CredentialKind,
    /// The key that it is sealed with.
    pub key_id: String,
    /// When it was first stored.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When its value was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Time,
}

impl From<Credential> for CredentialView {
    fn from(c: Credential) -> Self {
        Self {
            id: c.id,
            name: c.name,
            kind: c.kind,
            key_id: c.key_id,
            created_at: c.created_at.into(),
            updated_at: c.updated_at.into(),
        }
    }
}

/// What came of a rotation of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotationView {
    /// The id of the key that is used from now on.
    pub key_id: String,
    /// How many credentials were sealed again, over all tenants.
    pub credentials: usize,
}
