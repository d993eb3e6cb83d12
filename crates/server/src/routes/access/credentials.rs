//! Stored credentials: values go in and never come out.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{CredentialView, RotationView, SetCredential};
use ostler_gateway::Secret;

/// The tenant's stored credentials, without their values, by name.
#[utoipa::path(get, path = "/credentials", tag = "access",
    responses((status = 200, description = "Done", body = Vec<CredentialView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<CredentialView>>> {
    let credentials = state.control.credentials(&caller).await?;
    Ok(Json(credentials.into_iter().map(Into::into).collect()))
}

/// Stores a credential, sealed; one of that name is replaced.
#[utoipa::path(put, path = "/credentials/{name}", tag = "access", request_body = SetCredential,
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 200, description = "Done", body = CredentialView),
        Denied, BadRequest, NotFound, Conflict, Unavailable,
    )
)]
pub(super) async fn set(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(name): InPath<String>,
    InBody(body): InBody<SetCredential>,
) -> ApiResult<Json<CredentialView>> {
    let value = Secret::new(body.value);
    let credential = state
        .control
        .set_credential(&caller, &name, body.kind, &value)
        .await?;
    Ok(Json(credential.into()))
}

/// Removes a credential.
#[utoipa::path(delete, path = "/credentials/{name}", tag = "access",
    params(("name" = String, Path, description = "Name")),
    responses((status = 204, description = "Done"), Denied, NotFound)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(name): InPath<String>,
) -> ApiResult<StatusCode> {
    state.control.remove_credential(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Seals all credentials of all tenants with a new key. Only for administrators of the platform.
#[utoipa::path(post, path = "/credential-key/rotate", tag = "access",
    responses(
        (status = 200, description = "Done", body = RotationView),
        Denied, NotFound, Conflict, Unprocessable, Unavailable,
    )
)]
pub(super) async fn rotate(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<RotationView>> {
    let done = state.control.rotate_credential_key(&caller).await?;
    Ok(Json(RotationView {
        key_id: done.key_id,
        credentials: done.credentials,
    }))
}
