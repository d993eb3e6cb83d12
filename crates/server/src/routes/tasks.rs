//! Tasks.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{CreateTask, SubtaskView, TaskView};
use ostler_control::NewTask;
use ostler_domain::{ProjectId, TaskId};

/// Creates a task and puts its planner on the queue.
#[utoipa::path(post, path = "/projects/{id}/tasks", tag = "tasks", request_body = CreateTask, params(("id" = String, Path, description = "Id")),
    responses(
        (status = 201, description = "Done", body = TaskView),
        Denied, BadRequest, NotFound, Unprocessable, Unavailable,
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(project): InPath<ProjectId>,
    InBody(body): InBody<CreateTask>,
) -> ApiResult<(StatusCode, Json<TaskView>)> {
    let new = NewTask {
        title: body.title,
        description: body.description,
        agent_kind: body.agent_kind,
        auto: body.auto,
    };
    Ok((
        StatusCode::CREATED,
        Json(state.control.create_task(&caller, project, new).await?.into()),
    ))
}

/// The tasks of a project, newest first.
#[utoipa::path(get, path = "/projects/{id}/tasks", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = Vec<TaskView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(project): InPath<ProjectId>,
) -> ApiResult<Json<Vec<TaskView>>> {
    let tasks = state.control.tasks(&caller, project).await?;
    Ok(Json(tasks.into_iter().map(Into::into).collect()))
}

/// One task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = TaskView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TaskId>,
) -> ApiResult<Json<TaskView>> {
    Ok(Json(state.control.task(&caller, id).await?.into()))
}

/// Ends the runs of a task and removes it with everything that belongs to it.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TaskId>,
) -> ApiResult<StatusCode> {
    state.control.delete_task(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends what runs for a task; nothing of it starts by itself any more. What was in progress can be tried again.
#[utoipa::path(post, path = "/tasks/{id}/kill", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = TaskView), Denied, NotFound)
)]
pub(super) async fn kill(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TaskId>,
) -> ApiResult<Json<TaskView>> {
    Ok(Json(state.control.kill_task(&caller, id).await?.into()))
}

/// Plans a task again whose planning has failed.
#[utoipa::path(post, path = "/tasks/{id}/retry-planning", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = TaskView), Denied, NotFound, Conflict, Unavailable)
)]
pub(super) async fn retry_planning(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TaskId>,
) -> ApiResult<Json<TaskView>> {
    Ok(Json(state.control.retry_planning(&caller, id).await?.into()))
}

/// The subtasks of a task, in the order of the board.
#[utoipa::path(get, path = "/tasks/{id}/subtasks", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = Vec<SubtaskView>), Denied, NotFound)
)]
pub(super) async fn subtasks(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TaskId>,
) -> ApiResult<Json<Vec<SubtaskView>>> {
    let subtasks = state.control.subtasks(&caller, id).await?;
    Ok(Json(subtasks.into_iter().map(Into::into).collect()))
}
