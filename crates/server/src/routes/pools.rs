//! Pools and sandboxes: the operator's view.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Denied};
use axum::Json;
use axum::extract::State;
use ostler_contracts::{ErrorBody, PoolView, SandboxView, SetPool};
use ostler_control::Control;
use ostler_domain::{Pool, Sandbox, SandboxId, SandboxStatus};

fn view(control: &Control, pool: Pool, sandboxes: &[Sandbox]) -> PoolView {
    let count =
        |wanted: &[SandboxStatus]| sandboxes.iter().filter(|s| wanted.contains(&s.status)).count() as u32;
    PoolView {
        unavailable: control.unavailable(pool.template.driver),
        ..PoolView::new(
            pool,
            count(&[SandboxStatus::Warm]),
            count(&[SandboxStatus::Provisioning]),
            count(&[SandboxStatus::Running, SandboxStatus::Unhealthy]),
        )
    }
}

/// The pools, by name.
#[utoipa::path(get, path = "/pools", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<PoolView>), Denied)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<PoolView>>> {
    let pools = state.control.pools(&caller).await?;
    Ok(Json(
        pools
            .into_iter()
            .map(|(pool, sandboxes)| view(&state.control, pool, &sandboxes))
            .collect(),
    ))
}

/// Makes a pool or changes it.
#[utoipa::path(put, path = "/pools/{name}", tag = "fleet", request_body = SetPool,
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 200, description = "Done", body = PoolView),
        (status = 422, description = "The driver cannot do what the template asks", body = ErrorBody),
        Denied, BadRequest,
    )
)]
pub(super) async fn set(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(name): InPath<String>,
    InBody(body): InBody<SetPool>,
) -> ApiResult<Json<PoolView>> {
    let pool = state
        .control
        .set_pool(&caller, &name, body.template, body.target, body.max)
        .await?;
    let live = state.control.live_sandboxes(&pool.name).await?;
    Ok(Json(view(&state.control, pool, &live)))
}

/// All sandboxes that are not gone.
#[utoipa::path(get, path = "/sandboxes", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<SandboxView>), Denied)
)]
pub(super) async fn sandboxes(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<SandboxView>>> {
    let sandboxes = state.control.sandboxes(&caller).await?;
    Ok(Json(sandboxes.into_iter().map(Into::into).collect()))
}

/// One sandbox, also one that is gone.
#[utoipa::path(get, path = "/sandboxes/{id}", tag = "fleet",
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = SandboxView),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        Denied,
    )
)]
pub(super) async fn sandbox(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<Json<SandboxView>> {
    Ok(Json(state.control.sandbox(&caller, id).await?.into()))
}
