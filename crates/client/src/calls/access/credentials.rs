//! Stored credentials, and the audit log.

use crate::http::Patience::{Long, Usual};
use crate::{Client, ClientError};
use ostler_contracts::{AuditView, CredentialView, RotationView, SetCredential};
use ostler_domain::AuditId;
use reqwest::Method;

/// Which entries of the audit log are wanted; the newest when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Done by this user (id or name), service token or run.
    pub actor: Option<String>,
    /// Such as `project.create`.
    pub action: Option<String>,
    /// Kind of object.
    pub kind: Option<String>,
    /// Id or name of the object.
    pub object: Option<String>,
    /// Only later ones than this entry, oldest first.
    pub after: Option<AuditId>,
    /// Only earlier ones than this entry.
    pub before: Option<AuditId>,
    /// At most this many.
    pub limit: Option<u32>,
}

impl Client {
    /// The stored credentials, without their values, by name.
    pub async fn credentials(&self) -> Result<Vec<CredentialView>, ClientError> {
        self.get(self.path(&["credentials"])).await
    }

    /// Stores a credential.
    pub async fn set_credential(
        &self,
        name: &str,
        new: &SetCredential,
    ) -> Result<CredentialView, ClientError> {
        self.call(Method::PUT, &["credentials", name], Some(new), Usual)
            .await
    }

    /// Removes a credential.
    pub async fn remove_credential(&self, name: &str) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["credentials", name], Usual).await
    }

    /// Seals all credentials with a new key.
    pub async fn rotate_credential_key(&self) -> Result<RotationView, ClientError> {
        self.call(Method::POST, &["credential-key", "rotate"], None::<&()>, Long)
            .await
    }

    /// Entries of the audit log.
    pub async fn audit_log(&self, query: &AuditQuery) -> Result<Vec<AuditView>, ClientError> {
        let mut url = self.path(&["audit"]);
        let pairs = [
            ("actor", query.actor.clone()),
            ("action", query.action.clone()),
            ("kind", query.kind.clone()),
            ("object", query.object.clone()),
            ("after", query.after.map(|id| id.to_string())),
            ("before", query.before.map(|id| id.to_string())),
            ("limit", query.limit.map(|n| n.to_string())),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        self.get(url).await
    }
}
