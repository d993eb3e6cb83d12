//! Merge requests.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::InPath;
use crate::refusals::{Conflict, Denied, NotFound};
use axum::Json;
use axum::extract::State;
use ostler_contracts::{CommitView, DiffView, MergeRequestView};
use ostler_control::BranchDiff;
use ostler_domain::{MergeRequestId, ProjectId};

/// A diff as it is shown.
pub(super) fn diff_view(diff: BranchDiff) -> DiffView {
    let commits = diff.commits.into_iter().map(|commit| CommitView {
        id: commit.id,
        author: commit.author,
        subject: commit.subject,
        at: commit.time.into(),
    });
    DiffView {
        commits: commits.collect(),
        diff: diff.diff.text,
        truncated: diff.diff.truncated,
    }
}

/// The merge requests of a project, newest first.
#[utoipa::path(get, path = "/projects/{id}/merge-requests", tag = "merge requests", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = Vec<MergeRequestView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(project): InPath<ProjectId>,
) -> ApiResult<Json<Vec<MergeRequestView>>> {
    let requests = state.control.merge_requests(&caller, project).await?;
    Ok(Json(requests.into_iter().map(Into::into).collect()))
}

/// One merge request.
#[utoipa::path(get, path = "/merge-requests/{id}", tag = "merge requests", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = MergeRequestView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<MergeRequestId>,
) -> ApiResult<Json<MergeRequestView>> {
    Ok(Json(state.control.merge_request(&caller, id).await?.into()))
}

/// What a merge request changes.
#[utoipa::path(get, path = "/merge-requests/{id}/diff", tag = "merge requests", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = DiffView), Denied, NotFound)
)]
pub(super) async fn diff(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<MergeRequestId>,
) -> ApiResult<Json<DiffView>> {
    Ok(Json(diff_view(
        state.control.merge_request_diff(&caller, id).await?,
    )))
}

/// Closes a merge request without merging; its subtask is then blocked.
#[utoipa::path(post, path = "/merge-requests/{id}/close", tag = "merge requests", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = MergeRequestView), Denied, NotFound, Conflict)
)]
pub(super) async fn close(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<MergeRequestId>,
) -> ApiResult<Json<MergeRequestView>> {
    Ok(Json(state.control.close_merge_request(&caller, id).await?.into()))
}
