//! Who asks.

use crate::error::{ApiError, REQUEST_ID};
use crate::{ServerState, origin};
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ostler_contracts::ErrorCode;
use ostler_control::Caller;
use ostler_domain::Permission;
use ostler_store::{RequestScope, Scope, as_owner};
use std::time::Instant;

/// The header by which an administrator of the platform acts in another tenant.
pub(crate) const TENANT: &str = "ostler-tenant";

/// The caller of a handler that needs one. From here on the request sees what is the caller's tenant's; everything, if the
/// caller is an administrator of the platform.
pub(crate) struct Auth(pub(crate) Caller);

/// The caller of a handler about the fleet, which is all tenants' together. Whoever may have nothing to do with the fleet
/// is kept to the own tenant here, too.
pub(crate) struct Fleet(pub(crate) Caller);

impl FromRequestParts<ServerState> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ServerState) -> Result<Self, ApiError> {
        // Whose the token is, is known only once it was found.
        let caller = as_owner(caller(parts, state)).await?;
        identify(&caller, &[Permission::Admin]);
        Ok(Self(caller))
    }
}

impl FromRequestParts<ServerState> for Fleet {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ServerState) -> Result<Self, ApiError> {
        let caller = as_owner(caller(parts, state)).await?;
        identify(&caller, &[Permission::FleetRead, Permission::FleetWrite]);
        Ok(Self(caller))
    }
}

/// Keeps the request to the caller's tenant, unless one of these permissions, all of the platform, leads beyond it.
fn identify(caller: &Caller, beyond: &[Permission]) {
    let all = beyond
        .iter()
        .any(|permission| caller.permissions.allow(*permission));
    RequestScope::identify(if all {
        Scope::Owner
    } else {
        Scope::Tenant(caller.tenant_id)
    });
}

async fn caller(parts: &mut Parts, state: &ServerState) -> Result<Caller, ApiError> {
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
    Ok(caller)
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
