//! Tenants with their departments, users and roles; API tokens; stored credentials; the audit log.

use crate::state::text_enum;
use crate::{
    AuditId, CredentialId, DepartmentId, Permission, Permissions, RoleId, TenantId, Timestamp, TokenId,
    UserId,
};
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
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// A part of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Department {
    /// Id.
    pub id: DepartmentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// A person of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    /// E-mail address.
    pub email: Option<String>,
    /// Department.
    pub department_id: Option<DepartmentId>,
    /// Since when the user's tokens are refused.
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// A named set of permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Id.
    pub id: RoleId,
    /// Whose it is; none for those that Ostler brings along, which all tenants share.
    pub tenant_id: Option<TenantId>,
    /// Unique within the tenant and among the built-in ones.
    pub name: String,
    /// What it allows.
    pub permissions: Permissions,
    /// When it was made.
    pub created_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl Role {
    /// The roles that Ostler brings along.
    pub fn built_in(now: Timestamp) -> Vec<Self> {
        use Permission as P;
        let reads = [P::AgentsRead, P::ProjectsRead, P::RunsRead];
        let writes = [P::AgentsWrite, P::ProjectsWrite, P::RunsWrite, P::TestsWrite];
        let roles: [(&str, Vec<Permission>); 6] = [
            ("admin", vec![P::TenantAdmin]),
            ("developer", reads.into_iter().chain(writes).collect()),
            ("viewer", reads.to_vec()),
            ("auditor", vec![P::AuditRead]),
            ("operator", vec![P::FleetRead, P::FleetWrite]),
            ("platform-admin", vec![P::Admin]),
        ];
        let roles = roles
            .into_iter()
            .zip(1..)
            .map(|((name, permissions), number)| Self {
                id: RoleId::from_u128(TenantId::DEFAULT_VALUE + number),
                tenant_id: None,
                name: name.to_owned(),
                permissions: permissions.into_iter().collect(),
                created_at: now,
                version: 0,
            });
        roles.collect()
    }
}

/// That a user has a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleAssignment {
    /// The user.
    pub user_id: UserId,
    /// The role.
    pub role_id: RoleId,
    /// The user's tenant.
    pub tenant_id: TenantId,
}

/// An API token. Its secret is shown once, at creation; only a hash of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Id.
    pub id: TokenId,
    /// The tenant in whose name it acts.
    pub tenant_id: TenantId,
    /// The user in whose name it acts, and whose roles bound it; none for a service token of the tenant.
    pub user_id: Option<UserId>,
    /// What the owner calls it.
    pub name: String,
    /// The first characters of the secret, to recognise it by.
    pub prefix: String,
    /// SHA-256 of the secret in hexadecimal. The secret has 256 random bits, so a slow hash would add nothing.
    pub hash: String,
    /// What it may do at most.
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

text_enum! {
    /// What a stored credential is for.
    CredentialKind {
        /// A token of GitHub.
        GithubToken = "github_token",
        /// A key of a model API.
        ModelApiKey = "model_api_key",
        /// A private key of SSH.
        SshKey = "ssh_key",
        /// Anything else.
        Generic = "generic",
    }
}

/// A secret of a tenant, sealed: its plain form is never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Id.
    pub id: CredentialId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What it is for.
    pub kind: CredentialKind,
    /// Unique within the tenant.
    pub name: String,
    /// Ciphertext with its tag, in base 64.
    pub ciphertext: String,
    /// The nonce it was sealed with, in base 64; never used twice with one key.
    pub nonce: String,
    /// Which key it was sealed with.
    pub key_id: String,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When its value was last changed.
    pub updated_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("id", &self.id)
            .field("tenant_id", &self.tenant_id)
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// An entry of the audit log: who did what to which object. Entries are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Id, in order of time.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// The tenant in which it was done.
    pub tenant_id: TenantId,
    /// Who: the id of a user, of a service token or of a run, or `development`.
    pub actor: String,
    /// The token that was used.
    pub token_id: Option<TokenId>,
    /// What was done, such as `project.create`.
    pub action: String,
    /// To what kind of object.
    pub kind: String,
    /// The object's id or name.
    pub object: String,
    /// The HTTP request.
    pub request_id: Option<String>,
    /// What else there is to say; never a secret.
    pub details: serde_json::Value,
}
