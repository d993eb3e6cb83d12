//! Projects.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{CleanupReport, CreateProject, ProjectView};
use ostler_domain::ProjectId;

/// Adds a project by cloning its source.
#[utoipa::path(post, path = "/projects", tag = "projects", request_body = CreateProject,
    responses(
        (status = 201, description = "Done", body = ProjectView),
        Denied, BadRequest, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<CreateProject>,
) -> ApiResult<(StatusCode, Json<ProjectView>)> {
    let project = state
        .control
        .add_project(&caller, &body.source, body.name.as_deref())
        .await?;
    Ok((StatusCode::CREATED, Json(project.into())))
}

/// The projects, by name.
#[utoipa::path(get, path = "/projects", tag = "projects",
    responses((status = 200, description = "Done", body = Vec<ProjectView>), Denied, NotFound)
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
    responses((status = 200, description = "Done", body = ProjectView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<ProjectId>,
) -> ApiResult<Json<ProjectView>> {
    Ok(Json(state.control.project(&caller, id).await?.into()))
}

/// Removes a project with its tasks, clone and worktrees; its source is not touched.
#[utoipa::path(delete, path = "/projects/{id}", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<ProjectId>,
) -> ApiResult<StatusCode> {
    state.control.remove_project(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes worktrees and branches that no subtask needs any more.
#[utoipa::path(post, path = "/projects/{id}/cleanup", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = CleanupReport), Denied, NotFound)
)]
pub(super) async fn cleanup(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<ProjectId>,
) -> ApiResult<Json<CleanupReport>> {
    let done = state.control.cleanup_project(&caller, id).await?;
    Ok(Json(CleanupReport {
        worktrees: done.worktrees,
        branches: done.branches,
        failures: done.failures,
    }))
}

/// The issue graph, in the form that `bd export` writes, as JSON.
#[utoipa::path(get, path = "/projects/{id}/issues", tag = "projects", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = Vec<Object>), Denied, NotFound)
)]
pub(super) async fn issues(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<ProjectId>,
) -> ApiResult<Json<serde_json::Value>> {
    let issues = state.control.issues(&caller, id).await?;
    Ok(Json(serde_json::to_value(issues).unwrap_or_default()))
}
