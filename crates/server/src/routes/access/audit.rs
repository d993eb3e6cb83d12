//! The audit log.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::InQuery;
use crate::refusals::{BadRequest, Denied, NotFound};
use axum::Json;
use axum::extract::State;
use ostler_contracts::AuditView;
use ostler_control::AuditQuery;
use ostler_domain::AuditId;
use serde::Deserialize;

/// Which entries are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Done by this user (id or name), service token or run (id), or `administrator`.
    actor: Option<String>,
    /// Such as `project.create`.
    action: Option<String>,
    /// Kind of object, such as `project`.
    kind: Option<String>,
    /// Id or name of the object.
    object: Option<String>,
    /// Only later ones than this entry, oldest first; newest first when absent.
    #[param(value_type = Option<String>)]
    after: Option<AuditId>,
    /// Only earlier ones than this entry.
    #[param(value_type = Option<String>)]
    before: Option<AuditId>,
    /// At most this many; 100 when absent, 1000 at most.
    limit: Option<u32>,
}

/// Who did what in the tenant.
#[utoipa::path(get, path = "/audit", tag = "access", params(Wanted),
    responses((status = 200, description = "Done", body = Vec<AuditView>), Denied, BadRequest, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(wanted): InQuery<Wanted>,
) -> ApiResult<Json<Vec<AuditView>>> {
    let query = AuditQuery {
        actor: wanted.actor,
        action: wanted.action,
        kind: wanted.kind,
        object: wanted.object,
        after: wanted.after,
        before: wanted.before,
        limit: wanted.limit,
    };
    let entries = state.control.audit_log(&caller, query).await?;
    Ok(Json(entries.into_iter().map(Into::into).collect()))
}
