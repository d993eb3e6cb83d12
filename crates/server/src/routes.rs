//! All paths.

mod access;
mod agents;
mod artifacts;
mod common;
mod events;
mod images;
mod merge_requests;
mod plans;
mod pools;
mod projects;
mod runs;
mod snapshots;
mod subtasks;
mod system;
mod tasks;
mod tests;

use crate::{ServerState, limits, origin};
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use ostler_control::MAX_PLAN;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

/// How the path of files ends, whose requests may take as long as they like.
pub(crate) const UPLOAD: &str = "/agents/{id}/files";

#[derive(OpenApi)]
#[openapi(
    info(title = "Ostler", description = "Self-hosted orchestrator for coding agents."),
    security(("token" = [])),
    components(schemas(ostler_contracts::ErrorBody, ostler_contracts::ExecEnd, ostler_contracts::ExecStarted,
        ostler_contracts::PlanMistakes, ostler_contracts::TerminalOrder, ostler_contracts::TerminalNews))
)]
struct Document;

fn api(text_limit: usize) -> OpenApiRouter<ServerState> {
    let large = DefaultBodyLimit::max(text_limit);
    let plan = DefaultBodyLimit::max(MAX_PLAN);
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::get, projects::remove))
        .routes(routes!(projects::cleanup))
        .routes(routes!(projects::issues))
        .routes(routes!(tasks::create, tasks::list).layer(large))
        .routes(routes!(tasks::get, tasks::remove))
        .routes(routes!(tasks::kill))
        .routes(routes!(tasks::retry_planning))
        .routes(routes!(tasks::subtasks))
        .routes(routes!(subtasks::get))
        .routes(routes!(subtasks::start))
        .routes(routes!(subtasks::retry))
        .routes(routes!(subtasks::merge))
        .routes(routes!(subtasks::mark_merged))
        .routes(routes!(subtasks::kill))
        .routes(routes!(subtasks::position))
        .routes(routes!(subtasks::diff))
        .routes(routes!(subtasks::runs))
        .routes(routes!(merge_requests::list))
        .routes(routes!(merge_requests::get))
        .routes(routes!(merge_requests::diff))
        .routes(routes!(merge_requests::close))
        .routes(routes!(runs::submit, runs::list).layer(large))
        .routes(routes!(runs::get))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::explain))
        .routes(routes!(runs::logs))
        .routes(routes!(plans::submit, plans::list).layer(plan))
        .routes(routes!(plans::get, plans::cancel))
        .routes(routes!(plans::tests))
        .routes(routes!(plans::rerun))
        .routes(routes!(plans::explain))
        .routes(routes!(plans::follow::follow))
        .routes(routes!(tests::history))
        .routes(routes!(tests::flaky))
        .routes(routes!(tests::chart))
        .routes(routes!(tests::cases))
        .routes(routes!(tests::quarantined, tests::quarantine))
        .routes(routes!(tests::release))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::read))
        .routes(routes!(artifacts::latest))
        .routes(routes!(agents::provision, agents::list))
        .routes(routes!(agents::get, agents::destroy))
        .routes(routes!(agents::configure))
        .routes(routes!(agents::programs::exec).layer(large))
        .routes(routes!(agents::programs::list))
        .routes(routes!(agents::programs::read, agents::programs::end))
        .routes(routes!(agents::terminal::terminal))
        .routes(routes!(agents::snapshot))
        .routes(routes!(agents::pause))
        .routes(routes!(agents::resume))
        .routes(routes!(agents::upload, agents::download))
        .routes(routes!(pools::list))
        .routes(routes!(pools::set))
        .routes(routes!(pools::explain))
        .routes(routes!(pools::hosts))
        .routes(routes!(pools::drain_host))
        .routes(routes!(pools::sandboxes))
        .routes(routes!(pools::sandbox))
        .routes(routes!(pools::drain_sandbox))
        .routes(routes!(pools::usage))
        .routes(routes!(images::list, images::build))
        .routes(routes!(images::get, images::remove))
        .routes(routes!(images::log))
        .routes(routes!(images::root_drive))
        .routes(routes!(snapshots::list))
        .routes(routes!(snapshots::remove))
        .routes(routes!(events::follow))
        .merge(access::paths())
        .routes(routes!(system::health))
        .routes(routes!(system::metrics))
        .routes(routes!(system::kinds))
        .routes(routes!(system::reconcilers))
}

/// The OpenAPI document of the whole interface; the same for the same program.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = OpenApiRouter::new().nest("/api/v1", api(0)).split_for_parts();
    // `nest` keeps only paths and schemas of the inner document.
    let base = Document::openapi();
    document.info = base.info;
    document.security = base.security;
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    common::describe(&mut document);
    document
}

/// The whole service.
pub fn router(state: ServerState) -> Router {
    let (api, _) = api(state.settings.text_body_limit).split_for_parts();
    let document = openapi();
    let small = DefaultBodyLimit::max(state.settings.body_limit);
    let cors = origin::cors(&state.settings.cors_origins);
    Router::new()
        .nest("/api/v1", api)
        .route("/api/v1/openapi.json", get(move || async move { Json(document) }))
        .route("/health", get(system::health))
        .route("/metrics", get(system::metrics))
        .route("/", get(system::documentation))
        .fallback(limits::no_such_path)
        .method_not_allowed_fallback(limits::no_such_method)
        .layer(small)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            limits::every_request,
        ))
        .layer(cors)
        .with_state(state)
}
