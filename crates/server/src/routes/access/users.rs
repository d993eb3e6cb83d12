//! Users of a tenant.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{ChangeUser, CreateUser, UserView};
use ostler_control::{NewUser, UserChange};
use ostler_domain::{Role, RoleId, User, UserId};

fn view((user, roles): (User, Vec<Role>)) -> UserView {
    UserView::new(user, &roles)
}

/// Makes a user, who can do what the roles allow once there is a token.
#[utoipa::path(post, path = "/users", tag = "access", request_body = CreateUser,
    responses(
        (status = 201, description = "Done", body = UserView),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<CreateUser>,
) -> ApiResult<(StatusCode, Json<UserView>)> {
    let new = NewUser {
        name: body.name,
        email: body.email,
        department_id: body.department_id,
        roles: body.roles,
    };
    let user = state.control.create_user(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(view(user))))
}

/// The tenant's users, by name.
#[utoipa::path(get, path = "/users", tag = "access",
    responses((status = 200, description = "Done", body = Vec<UserView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<UserView>>> {
    let users = state.control.users(&caller).await?;
    Ok(Json(users.into_iter().map(view).collect()))
}

/// One user: any with `tenant:admin`, otherwise oneself.
#[utoipa::path(get, path = "/users/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = UserView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<UserId>,
) -> ApiResult<Json<UserView>> {
    Ok(Json(view(state.control.user(&caller, id).await?)))
}

/// Changes a user. Disabling refuses the user's tokens from the next request on.
#[utoipa::path(patch, path = "/users/{id}", tag = "access", request_body = ChangeUser,
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = UserView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn change(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<UserId>,
    InBody(body): InBody<ChangeUser>,
) -> ApiResult<Json<UserView>> {
    let change = UserChange {
        name: body.name,
        email: body.email,
        department_id: body.department_id,
        disabled: body.disabled,
    };
    Ok(Json(view(state.control.change_user(&caller, id, change).await?)))
}

/// Removes a user with all tokens.
#[utoipa::path(delete, path = "/users/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<UserId>,
) -> ApiResult<StatusCode> {
    state.control.remove_user(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a user a role.
#[utoipa::path(put, path = "/users/{id}/roles/{role}", tag = "access",
    params(("id" = String, Path, description = "Id"), ("role" = String, Path, description = "Id of the role")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict, Unprocessable)
)]
pub(super) async fn assign(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((id, role)): InPath<(UserId, RoleId)>,
) -> ApiResult<StatusCode> {
    state.control.assign_role(&caller, id, role).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a role from a user, which holds for the user's tokens from the next request on.
#[utoipa::path(delete, path = "/users/{id}/roles/{role}", tag = "access",
    params(("id" = String, Path, description = "Id"), ("role" = String, Path, description = "Id of the role")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn unassign(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((id, role)): InPath<(UserId, RoleId)>,
) -> ApiResult<StatusCode> {
    state.control.unassign_role(&caller, id, role).await?;
    Ok(StatusCode::NO_CONTENT)
}
