//! Roles: named sets of permissions.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{CreateRole, RoleView, SetRole};
use ostler_domain::RoleId;

/// Makes a role.
#[utoipa::path(post, path = "/roles", tag = "access", request_body = CreateRole,
    responses(
        (status = 201, description = "Done", body = RoleView),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<CreateRole>,
) -> ApiResult<(StatusCode, Json<RoleView>)> {
    let permissions = body.permissions.into_iter().collect();
    let role = state
        .control
        .create_role(&caller, &body.name, permissions)
        .await?;
    Ok((StatusCode::CREATED, Json(role.into())))
}

/// The roles that the tenant can give, built-in ones included, by name.
#[utoipa::path(get, path = "/roles", tag = "access",
    responses((status = 200, description = "Done", body = Vec<RoleView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<RoleView>>> {
    let roles = state.control.roles(&caller).await?;
    Ok(Json(roles.into_iter().map(Into::into).collect()))
}

/// Changes what a role allows, which holds for whoever has it from the next request on.
#[utoipa::path(put, path = "/roles/{id}", tag = "access", request_body = SetRole,
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = RoleView),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(super) async fn set(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RoleId>,
    InBody(body): InBody<SetRole>,
) -> ApiResult<Json<RoleView>> {
    let permissions = body.permissions.into_iter().collect();
    Ok(Json(
        state.control.set_role(&caller, id, permissions).await?.into(),
    ))
}

/// Removes a role that nobody has.
#[utoipa::path(delete, path = "/roles/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RoleId>,
) -> ApiResult<StatusCode> {
    state.control.remove_role(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
