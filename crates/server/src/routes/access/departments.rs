//! Departments of a tenant.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{DepartmentView, Named};
use ostler_domain::DepartmentId;

/// Makes a department.
#[utoipa::path(post, path = "/departments", tag = "access", request_body = Named,
    responses((status = 201, description = "Done", body = DepartmentView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<Named>,
) -> ApiResult<(StatusCode, Json<DepartmentView>)> {
    let department = state.control.create_department(&caller, &body.name).await?;
    Ok((StatusCode::CREATED, Json(department.into())))
}

/// The tenant's departments, by name.
#[utoipa::path(get, path = "/departments", tag = "access",
    responses((status = 200, description = "Done", body = Vec<DepartmentView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<DepartmentView>>> {
    let departments = state.control.departments(&caller).await?;
    Ok(Json(departments.into_iter().map(Into::into).collect()))
}

/// Gives a department another name.
#[utoipa::path(patch, path = "/departments/{id}", tag = "access", request_body = Named,
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = DepartmentView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn rename(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<DepartmentId>,
    InBody(body): InBody<Named>,
) -> ApiResult<Json<DepartmentView>> {
    let department = state.control.rename_department(&caller, id, &body.name).await?;
    Ok(Json(department.into()))
}

/// Removes a department that no user and no agent is in.
#[utoipa::path(delete, path = "/departments/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<DepartmentId>,
) -> ApiResult<StatusCode> {
    state.control.remove_department(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
