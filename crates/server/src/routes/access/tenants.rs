//! Tenants.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{Named, TenantView};
use ostler_domain::TenantId;

/// Makes a tenant. Only for administrators of the platform.
#[utoipa::path(post, path = "/tenants", tag = "access", request_body = Named,
    responses((status = 201, description = "Done", body = TenantView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<Named>,
) -> ApiResult<(StatusCode, Json<TenantView>)> {
    let tenant = state.control.create_tenant(&caller, &body.name).await?;
    Ok((StatusCode::CREATED, Json(tenant.into())))
}

/// All tenants, by name. Only for administrators of the platform.
#[utoipa::path(get, path = "/tenants", tag = "access",
    responses((status = 200, description = "Done", body = Vec<TenantView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<TenantView>>> {
    let tenants = state.control.tenants(&caller).await?;
    Ok(Json(tenants.into_iter().map(Into::into).collect()))
}

/// One tenant: one's own, or for administrators of the platform any.
#[utoipa::path(get, path = "/tenants/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = TenantView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TenantId>,
) -> ApiResult<Json<TenantView>> {
    Ok(Json(state.control.tenant(&caller, id).await?.into()))
}

/// Gives a tenant another name. Only for administrators of the platform.
#[utoipa::path(patch, path = "/tenants/{id}", tag = "access", request_body = Named,
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = TenantView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn rename(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TenantId>,
    InBody(body): InBody<Named>,
) -> ApiResult<Json<TenantView>> {
    Ok(Json(
        state.control.rename_tenant(&caller, id, &body.name).await?.into(),
    ))
}

/// Removes a tenant with its users, roles, tokens and credentials; refused while it has projects, agents or runs. Only for
/// administrators of the platform.
#[utoipa::path(delete, path = "/tenants/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound, Conflict)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TenantId>,
) -> ApiResult<StatusCode> {
    state.control.remove_tenant(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
