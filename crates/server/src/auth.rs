//! Who asks.

use crate::error::{ApiError, REQUEST_ID};
use crate::{ServerState, origin};
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ostler_contracts::ErrorCode;
use ostler_control::Caller;
use std::time::Instant;

/// The header by which an administrator of the platform acts in another tenant.
pub(crate) const TENANT: &str = "ostler-tenant";

/// The caller of a handler that needs one.
pub(crate) struct Auth(pub(crate) Caller);

impl FromRequestParts<ServerState> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ServerState) -> Result<Self, ApiError> {
        let mut caller = match parts.headers.get(AUTHORIZATION) {
            None if state.development => {
                origin::check_development(parts, &state.settings.cors_origins)?;
                Ok(Caller::administrator())
            }
            None => Err(ApiError::new(
                ErrorCode::Unauthorized,
                "a token is needed: send `Authorization: Bearer <token>`; `ostler token create` makes one",
            )),
            Some(value) => {
                let secret = value
                    .to_str()
                    .ok()
                    .and_then(|value| value.strip_prefix("Bearer "));
                let secret = secret.ok_or_else(|| {
                    ApiError::new(
                        ErrorCode::Unauthorized,
                        "the Authorization header must be `Bearer <token>`",
                    )
                })?;
                Ok(state.control.authenticate(secret.trim()).await?)
            }
        }?;
        state
            .rate
            .take(caller.token_id, Instant::now())
            .map_err(ApiError::rate_limited)?;
        caller.request_id = REQUEST_ID.try_with(Clone::clone).ok();
        if let Some(tenant) = parts.headers.get(TENANT) {
            let tenant = tenant.to_str().unwrap_or_default();
            caller = state.control.enter_tenant(caller, tenant).await?;
        }
        Ok(Self(caller))
    }
}

impl OptionalFromRequestParts<ServerState> for Auth {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ServerState,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(
            <Self as FromRequestParts<ServerState>>::from_request_parts(parts, state)
                .await
                .ok(),
        )
    }
}
