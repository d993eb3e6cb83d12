//! The audit log.

use crate::Time;
use ostler_domain::{AuditEntry, AuditId, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who did what to which object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Id, in order of time.
    #[schema(value_type = String)]
    pub id: AuditId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Who: the id of a user, of a service token or of a run, or `administrator` for the local one.
    pub actor: String,
    /// The token that was used.
    #[schema(value_type = Option<String>)]
    pub token_id: Option<TokenId>,
    /// What was done, such as `project.create`.
    pub action: String,
    /// To what kind of object.
    pub kind: String,
    /// The object's id or name.
    pub object: String,
    /// The HTTP request.
    pub request_id: Option<String>,
    /// What else there is to say.
    pub details: serde_json::Value,
}

impl From<AuditEntry> for AuditView {
    fn from(e: AuditEntry) -> Self {
        Self {
            id: e.id,
            at: e.at.into(),
            actor: e.actor,
            token_id: e.token_id,
            action: e.action,
            kind: e.kind,
            object: e.object,
            request_id: e.request_id,
            details: e.details,
        }
    }
}
