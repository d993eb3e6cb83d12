//! Subtasks.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{DiffView, RunView, SetPosition, SubtaskView};
use ostler_domain::SubtaskId;

/// One subtask.
#[utoipa::path(get, path = "/subtasks/{id}", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = SubtaskView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(state.control.subtask(&caller, id).await?.into()))
}

/// Starts a ready subtask.
#[utoipa::path(post, path = "/subtasks/{id}/start", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = SubtaskView),
        Denied, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn start(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(state.control.start_subtask(&caller, id).await?.into()))
}

/// Starts a subtask again that its failures have blocked.
#[utoipa::path(post, path = "/subtasks/{id}/retry", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = SubtaskView),
        Denied, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn retry(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(state.control.retry_subtask(&caller, id).await?.into()))
}

/// Merges the merge request of a completed subtask; a conflict goes back to a worker.
#[utoipa::path(post, path = "/subtasks/{id}/merge", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = SubtaskView),
        Denied, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn merge(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(state.control.merge_subtask(&caller, id).await?.into()))
}

/// Notes that a completed subtask was merged outside Ostler.
#[utoipa::path(post, path = "/subtasks/{id}/mark-merged", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = SubtaskView),
        Denied, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn mark_merged(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(state.control.mark_merged(&caller, id).await?.into()))
}

/// Ends the run of a subtask, which is then blocked.
#[utoipa::path(post, path = "/subtasks/{id}/kill", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound)
)]
pub(super) async fn kill(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<StatusCode> {
    state.control.kill_subtask(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves a subtask on the board.
#[utoipa::path(patch, path = "/subtasks/{id}/position", tag = "subtasks", request_body = SetPosition, params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = SubtaskView), Denied, BadRequest, NotFound)
)]
pub(super) async fn position(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
    InBody(body): InBody<SetPosition>,
) -> ApiResult<Json<SubtaskView>> {
    Ok(Json(
        state
            .control
            .position_subtask(&caller, id, body.position)
            .await?
            .into(),
    ))
}

/// What the branch of a subtask changes.
#[utoipa::path(get, path = "/subtasks/{id}/diff", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = DiffView), Denied, NotFound, Unprocessable)
)]
pub(super) async fn diff(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<DiffView>> {
    Ok(Json(super::merge_requests::diff_view(
        state.control.subtask_diff(&caller, id).await?,
    )))
}

/// The runs of a subtask, newest first.
#[utoipa::path(get, path = "/subtasks/{id}/runs", tag = "subtasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = Vec<RunView>), Denied, NotFound)
)]
pub(super) async fn runs(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SubtaskId>,
) -> ApiResult<Json<Vec<RunView>>> {
    let runs = state.control.subtask_runs(&caller, id).await?;
    Ok(Json(runs.into_iter().map(Into::into).collect()))
}
