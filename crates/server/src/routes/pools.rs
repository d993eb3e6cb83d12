//! Pools and sandboxes: the operator's view.

use crate::ServerState;
use crate::auth::Fleet;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath};
use crate::refusals::{BadRequest, Denied};
use axum::Json;
use axum::extract::State;
use ostler_contracts::{
    DrainHost, DrainSandbox, ErrorBody, HostView, PoolExplanation, PoolView, SandboxUsage, SandboxView,
    SetPool,
};
use ostler_control::{Control, Counts, PoolChange};
use ostler_domain::{DriverKind, Pool, SandboxId};

fn view(control: &Control, pool: Pool, counts: Counts) -> PoolView {
    PoolView {
        unavailable: control.unavailable(pool.template.driver),
        ..PoolView::new(pool, counts.warm, counts.starting, counts.held)
    }
}

/// The pools, by name.
#[utoipa::path(get, path = "/pools", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<PoolView>), Denied)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
) -> ApiResult<Json<Vec<PoolView>>> {
    let pools = state.control.pools(&caller).await?;
    Ok(Json(
        pools
            .into_iter()
            .map(|(pool, counts)| view(&state.control, pool, counts))
            .collect(),
    ))
}

/// Makes a pool or changes it.
#[utoipa::path(put, path = "/pools/{name}", tag = "fleet", request_body = SetPool,
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 200, description = "Done", body = PoolView),
        (status = 422, description = "The driver cannot do what the template asks, or the settings do not allow it", body = ErrorBody),
        Denied, BadRequest,
    )
)]
pub(super) async fn set(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(name): InPath<String>,
    InBody(body): InBody<SetPool>,
) -> ApiResult<Json<PoolView>> {
    let template = match body.worker {
        None => body.template,
        Some(worker) => {
            let with = state
                .control
                .worker_template(&caller, &name, body.template, worker);
            Some(with.await?)
        }
    };
    let change = PoolChange {
        template,
        target: body.target,
        max: body.max,
        start_concurrency: body.start_concurrency,
        refill_per_minute: body.refill_per_minute,
        refill_burst: body.refill_burst,
    };
    let (pool, counts) = state.control.set_pool_counted(&caller, &name, change).await?;
    Ok(Json(view(&state.control, pool, counts)))
}

/// How a pool is doing and what stands in its way, on this server.
#[utoipa::path(get, path = "/pools/{name}/explain", tag = "fleet",
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 200, description = "Done", body = PoolExplanation),
        (status = 404, description = "There is no such pool", body = ErrorBody),
        Denied,
    )
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(name): InPath<String>,
) -> ApiResult<Json<PoolExplanation>> {
    Ok(Json(state.control.explain_pool(&caller, &name).await?))
}

/// The hosts of this server's drivers.
#[utoipa::path(get, path = "/hosts", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<HostView>), Denied)
)]
pub(super) async fn hosts(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
) -> ApiResult<Json<Vec<HostView>>> {
    Ok(Json(state.control.hosts(&caller).await?))
}

/// Drains a host: nothing is started there any more and its warm sandboxes end; or undoes that, and ends a quarantine.
#[utoipa::path(post, path = "/hosts/{driver}/{name}/drain", tag = "fleet", request_body = DrainHost,
    params(("driver" = String, Path, description = "Driver"), ("name" = String, Path, description = "Host")),
    responses(
        (status = 200, description = "Done", body = HostView),
        (status = 404, description = "There is no such host", body = ErrorBody),
        Denied, BadRequest,
    )
)]
pub(super) async fn drain_host(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath((driver, name)): InPath<(DriverKind, String)>,
    InBody(body): InBody<DrainHost>,
) -> ApiResult<Json<HostView>> {
    let host = state
        .control
        .drain_host(&caller, driver, &name, body.draining)
        .await?;
    Ok(Json(host))
}

/// Ends a sandbox as the operator; one that somebody holds only with `force`.
#[utoipa::path(post, path = "/sandboxes/{id}/drain", tag = "fleet", request_body = DrainSandbox,
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "It is gone", body = SandboxView),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "Somebody holds it", body = ErrorBody),
        Denied, BadRequest,
    )
)]
pub(super) async fn drain_sandbox(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(id): InPath<SandboxId>,
    InBody(body): InBody<DrainSandbox>,
) -> ApiResult<Json<SandboxView>> {
    state.control.drain_sandbox(&caller, id, body.force).await?;
    Ok(Json(state.control.sandbox(&caller, id).await?.into()))
}

/// What a sandbox has used, newest first.
#[utoipa::path(get, path = "/sandboxes/{id}/usage", tag = "fleet",
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = Vec<SandboxUsage>),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        Denied,
    )
)]
pub(super) async fn usage(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<Json<Vec<SandboxUsage>>> {
    let samples = state.control.sandbox_usage(&caller, id).await?;
    Ok(Json(samples.into_iter().map(Into::into).collect()))
}

/// All sandboxes that are not gone.
#[utoipa::path(get, path = "/sandboxes", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<SandboxView>), Denied)
)]
pub(super) async fn sandboxes(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
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
    Fleet(caller): Fleet,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<Json<SandboxView>> {
    Ok(Json(state.control.sandbox(&caller, id).await?.into()))
}
