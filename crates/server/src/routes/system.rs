//! The server itself.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::refusals::Denied;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use ostler_contracts::{ErrorBody, Health, KindView, ReconcilerView};
use std::fmt::Write;

/// Whether the server can do its work. Needs no token; counters of runs are shown to those who have one.
#[utoipa::path(get, path = "/health", tag = "system", security(()),
    responses((status = 200, description = "Done", body = Health))
)]
pub(super) async fn health(State(state): State<ServerState>, caller: Option<Auth>) -> Json<Health> {
    let database = state.control.store().last_event().await.is_ok();
    let (runs, orchestrator) = match caller {
        Some(Auth(caller)) => (
            state.control.store().counters(Some(caller.tenant_id)).await.ok(),
            state.control.orchestrator(&caller).await.ok(),
        ),
        None => (None, None),
    };
    Json(Health {
        status: if database { "ok" } else { "degraded" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: state.started.elapsed().as_secs(),
        database,
        accepting_runs: state.accepting(),
        runs: runs.map(|runs| {
            runs.into_iter()
                .map(|(status, count)| (status.to_string(), count))
                .collect()
        }),
        orchestrator,
    })
}

/// Figures for Prometheus, in its text format: runs by state, plans that have not ended and, for operators, sandboxes. Of
/// the caller's tenant; of all tenants for operators. Exact at the moment of the answer. Also at `/metrics`.
#[utoipa::path(get, path = "/metrics", tag = "system",
    responses((status = 200, description = "Done", body = String, content_type = "text/plain"), Denied)
)]
pub(super) async fn metrics(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<([(HeaderName, &'static str); 1], String)> {
    let mut text = state.control.metrics(&caller).await?;
    let uptime = state.started.elapsed().as_secs();
    text.push_str("# HELP ostler_uptime_seconds Seconds since the server was ready.\n# TYPE ostler_uptime_seconds gauge\n");
    // Writing to a text cannot fail.
    let _ = writeln!(text, "ostler_uptime_seconds {uptime}");
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// The agent kinds.
#[utoipa::path(get, path = "/kinds", tag = "system",
    responses(
        (status = 200, description = "Done", body = Vec<KindView>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
    )
)]
pub(super) async fn kinds(
    State(state): State<ServerState>,
    Auth(_caller): Auth,
) -> ApiResult<Json<Vec<KindView>>> {
    let kinds = state.kinds.iter().map(|kind| KindView {
        name: kind.name().to_owned(),
        title: kind.title().to_owned(),
        instruction_file: kind.instruction_file().unwrap_or_default().to_owned(),
        install: kind.install_hint().to_owned(),
        default: kind.name() == state.default_kind,
    });
    Ok(Json(kinds.collect()))
}

/// What this server does again and again by itself, and how the last round went.
#[utoipa::path(get, path = "/reconcilers", tag = "system",
    responses((status = 200, description = "Done", body = Vec<ReconcilerView>), Denied)
)]
pub(super) async fn reconcilers(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<ReconcilerView>>> {
    Ok(Json(state.control.reconcilers(&caller)?))
}

/// The interface for people: made in the browser from the OpenAPI document, with nothing from elsewhere.
pub(super) async fn documentation() -> Html<&'static str> {
    Html(include_str!("../documentation.html"))
}
