//! Tokens.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{CreateToken, CreatedToken, Me, TokenView};
use ostler_control::NewToken;
use ostler_domain::TokenId;
use std::time::Duration;

/// Who asks.
#[utoipa::path(get, path = "/auth/me", tag = "access",
    responses((status = 200, description = "Done", body = Me), Denied, NotFound)
)]
pub(super) async fn me(State(state): State<ServerState>, Auth(caller): Auth) -> ApiResult<Json<Me>> {
    Ok(Json(Me {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        token_id: caller.token_id,
        permissions: caller.permissions.iter().collect(),
        development: state.development,
    }))
}

/// Creates an API token; its secret is shown only now.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = CreateToken,
    responses((status = 201, description = "Done", body = CreatedToken), Denied, BadRequest, NotFound, Unprocessable)
)]
pub(super) async fn create(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<CreateToken>,
) -> ApiResult<(StatusCode, Json<CreatedToken>)> {
    let new = NewToken {
        name: body.name,
        permissions: body.permissions.map(|wanted| wanted.into_iter().collect()),
        expires_in: body
            .expires_in_days
            .map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        user_id: body.user_id,
        service: body.service,
    };
    let (token, secret) = state.control.create_token(&caller, new).await?;
    Ok((
        StatusCode::CREATED,
        Json(CreatedToken {
            token: token.into(),
            secret: secret.0,
        }),
    ))
}

/// The API tokens, newest first: all of the tenant with `tenant:admin`, otherwise one's own.
#[utoipa::path(get, path = "/tokens", tag = "access",
    responses((status = 200, description = "Done", body = Vec<TokenView>), Denied, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<TokenView>>> {
    let tokens = state.control.tokens(&caller).await?;
    Ok(Json(tokens.into_iter().map(Into::into).collect()))
}

/// Revokes an API token.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", params(("id" = String, Path, description = "Id")),
    responses((status = 204, description = "Done"), Denied, NotFound)
)]
pub(super) async fn revoke(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<TokenId>,
) -> ApiResult<StatusCode> {
    state.control.revoke_token(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
