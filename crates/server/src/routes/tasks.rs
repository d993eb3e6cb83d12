//! Tasks.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use ostler_contracts::{CreateTask, ErrorBody, SubtaskView, TaskView};
use ostler_control::NewTask;
use ostler_domain::{ProjectId, TaskId};

/// Creates a task and puts its planner on the queue.
#[utoipa::path(post, path = "/projects/{id}/tasks", tag = "tasks", request_body = CreateTask, params(("id" = String, Path, description = "Id")),
    responses(
        (status = 201, description = "Done", body = TaskView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 400, description = "The request is not understood", body = ErrorBody),
        (status = 422, description = "It cannot be done as asked", body = ErrorBody),
        (status = 503, description = "Something that is needed is not available", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
    body: Result<Json<CreateTask>, JsonRejection>,
) -> ApiResult<(StatusCode, Json<TaskView>)> {
    let (Path(project), Json(body)) = (path?, body?);
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
    responses(
        (status = 200, description = "Done", body = Vec<TaskView>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<ProjectId>, PathRejection>,
) -> ApiResult<Json<Vec<TaskView>>> {
    let Path(project) = path?;
    let tasks = state.control.tasks(&caller, project).await?;
    Ok(Json(tasks.into_iter().map(Into::into).collect()))
}

/// One task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = TaskView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<TaskId>, PathRejection>,
) -> ApiResult<Json<TaskView>> {
    let Path(id) = path?;
    Ok(Json(state.control.task(&caller, id).await?.into()))
}

/// Ends the runs of a task and removes it with everything that belongs to it.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<TaskId>, PathRejection>,
) -> ApiResult<StatusCode> {
    let Path(id) = path?;
    state.control.delete_task(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends what runs for a task; nothing of it starts by itself any more. What was in progress can be tried again.
#[utoipa::path(post, path = "/tasks/{id}/kill", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = TaskView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn kill(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<TaskId>, PathRejection>,
) -> ApiResult<Json<TaskView>> {
    let Path(id) = path?;
    Ok(Json(state.control.kill_task(&caller, id).await?.into()))
}

/// Plans a task again whose planning has failed.
#[utoipa::path(post, path = "/tasks/{id}/retry-planning", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = TaskView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 409, description = "It does not fit the present state", body = ErrorBody),
        (status = 503, description = "Something that is needed is not available", body = ErrorBody),
    )
)]
pub(super) async fn retry_planning(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<TaskId>, PathRejection>,
) -> ApiResult<Json<TaskView>> {
    let Path(id) = path?;
    Ok(Json(state.control.retry_planning(&caller, id).await?.into()))
}

/// The subtasks of a task, in the order of the board.
#[utoipa::path(get, path = "/tasks/{id}/subtasks", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = Vec<SubtaskView>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn subtasks(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<TaskId>, PathRejection>,
) -> ApiResult<Json<Vec<SubtaskView>>> {
    let Path(id) = path?;
    let subtasks = state.control.subtasks(&caller, id).await?;
    Ok(Json(subtasks.into_iter().map(Into::into).collect()))
}
