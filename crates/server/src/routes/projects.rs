//! Projects.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use ostler_contracts::{CleanupReport, CreateProject, ErrorBody, ProjectView};
use ostler_domain::ProjectId;

/// Adds a project by cloning its source.
#[utoipa::path(post, path = "/projects", tag = "projects", request_body = CreateProject,
    responses(
        (status = 201, description = "Done", body = ProjectView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 400, description = "The request is not understood", body = ErrorBody),
        (status = 409, description = "It does not fit the present state", body = ErrorBody),
        (status = 422, description = "It cannot be done as asked", body = ErrorBody),
        (status = 503, description = "Something that is needed is not available", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    body: Result<Json<CreateProject>, JsonRejection>,
) -> ApiResult<(StatusCode, Json<ProjectView>)> {
    let Json(body) = body?;
    let project = state
        .control
        .add_project(&caller, &body.source, body.name.as_deref())
        .await?;
    Ok((StatusCode::CREATED, Json(project.into())))
}

/// The projects, by name.
#[utoipa::path(get, path = "/projects", tag = "projects",
    responses(
        (status = 200, description = "Done", body = Vec<ProjectView>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<ProjectView>>> {
    let projects = state.control.projects(&caller).await?;
    Ok(Json(projects.into_iter().map(Into::into).collect()))
}

/// One project.
#[utoipa::path(get, path = "/projects/{id}", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = ProjectView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
) -> ApiResult<Json<ProjectView>> {
    let Path(id) = path?;
    Ok(Json(state.control.project(&caller, id).await?.into()))
}

/// Removes a project with its tasks, clone and worktrees; its source is not touched.
#[utoipa::path(delete, path = "/projects/{id}", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 409, description = "It does not fit the present state", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
) -> ApiResult<StatusCode> {
    let Path(id) = path?;
    state.control.remove_project(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes worktrees and branches that no subtask needs any more.
#[utoipa::path(post, path = "/projects/{id}/cleanup", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = CleanupReport),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn cleanup(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
) -> ApiResult<Json<CleanupReport>> {
    let Path(id) = path?;
    let done = state.control.cleanup_project(&caller, id).await?;
    Ok(Json(CleanupReport {
        worktrees: done.worktrees,
        branches: done.branches,
        failures: done.failures,
    }))
}

/// The issue graph, in the form that `bd export` writes, as JSON.
#[utoipa::path(get, path = "/projects/{id}/issues", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = Vec<Object>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn issues(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
) -> ApiResult<Json<serde_json::Value>> {
    let Path(id) = path?;
    let issues = state.control.issues(&caller, id).await?;
    Ok(Json(serde_json::to_value(issues).unwrap_or_default()))
}
