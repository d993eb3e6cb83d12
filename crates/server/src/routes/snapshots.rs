//! Kept states of agents, from which pools start.

use crate::ServerState;
use crate::auth::Fleet;
use crate::error::ApiResult;
use crate::extract::InPath;
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::SnapshotView;
use ostler_domain::DriverKind;

/// The snapshots that this server's drivers keep, by driver and name.
#[utoipa::path(get, path = "/snapshots", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<SnapshotView>), Denied, Unavailable)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
) -> ApiResult<Json<Vec<SnapshotView>>> {
    Ok(Json(state.control.snapshots(&caller).await?))
}

/// Removes a snapshot. One from which a pool starts stays.
#[utoipa::path(delete, path = "/snapshots/{driver}/{name}", tag = "fleet",
    params(("driver" = String, Path, description = "Driver"), ("name" = String, Path, description = "Name")),
    responses((status = 204, description = "Done"), Denied, BadRequest, NotFound, Conflict, Unavailable)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath((driver, name)): InPath<(DriverKind, String)>,
) -> ApiResult<StatusCode> {
    state.control.remove_snapshot(&caller, driver, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
