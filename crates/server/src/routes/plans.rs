//! Plans of tests.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::{InBody, InPath, InQuery, InText};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use ostler_contracts::{
    ErrorCode, FlakyTest, PlanExplanation, PlanStatus, PlanView, RerunPlan, TestHistory, TestView,
};
use ostler_control::{Caller, ControlError, PlanFormat, PlanQuery, TestIdentity, TestQuery};
use ostler_domain::{PlanId, ProjectId, RunId, RunStatus};
use ostler_store::{Hint, Store};
use serde::Deserialize;
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// How often a follower of a plan is told which tests are being executed.
const LIVE: Duration = Duration::from_millis(500);
/// How long more events are waited for after one.
const ALONG: Duration = Duration::from_millis(20);
const PAGE: u32 = 500;

/// Which plans are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanParameters {
    /// Only of this name.
    name: Option<String>,
    /// Only of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only those that stand like this.
    status: Option<PlanStatus>,
    /// Only those submitted before this one, to page on.
    #[param(value_type = Option<String>)]
    before: Option<PlanId>,
    /// At most this many; 50 when absent, at most 1000.
    limit: Option<u32>,
}

/// Which tests of a plan are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TestParameters {
    /// Only in this state.
    #[param(value_type = Option<String>)]
    status: Option<RunStatus>,
    /// Earlier runs of tests that were tried again, too.
    superseded: Option<bool>,
    /// Only those whose run was submitted before the one with this number (`seq`), to page on.
    before_seq: Option<i64>,
    /// At most this many; 100 when absent, at most 1000.
    limit: Option<u32>,
}

/// Of which test the history is wanted: by its `key`, or by `plan` and `test`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParameters {
    /// Identity of the test, as tests of plans have it.
    key: Option<String>,
    /// Name of the plan.
    plan: Option<String>,
    /// Name of the test.
    test: Option<String>,
    /// At most this many runs; 100 when absent, at most 1000.
    limit: Option<u32>,
}

/// Over what time flaky tests are looked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FlakyParameters {
    /// Days up to now; 30 when absent.
    days: Option<u32>,
}

/// Submits a plan: its text as TOML, YAML or JSON, as the content type says. A plan that is refused for its text has a
/// `PlanMistakes` as `details`.
#[utoipa::path(post, path = "/plans", tag = "plans",
    request_body(description = "The text of a plan", content(
        (Object = "application/json"), (String = "application/toml"), (String = "application/yaml"),
    )),
    responses((status = 201, description = "Done", body = PlanView), Denied, BadRequest, NotFound, Unprocessable)
)]
pub(super) async fn submit(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    headers: HeaderMap,
    InText(text): InText,
) -> ApiResult<(StatusCode, Json<PlanView>)> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let format = kind.and_then(PlanFormat::from_content_type).ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            "the content type must say what the plan is written in: application/toml, application/yaml or application/json",
        )
    })?;
    let plan = state.control.submit_plan(&caller, text, format).await?;
    Ok((StatusCode::CREATED, Json(plan)))
}

/// Plans, newest first.
#[utoipa::path(get, path = "/plans", tag = "plans", params(PlanParameters),
    responses((status = 200, description = "Done", body = Vec<PlanView>), Denied, BadRequest)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<PlanParameters>,
) -> ApiResult<Json<Vec<PlanView>>> {
    let query = PlanQuery {
        name: query.name,
        project_id: query.project,
        status: query.status,
        before: query.before,
        limit: query.limit,
    };
    Ok(Json(state.control.plans(&caller, query).await?))
}

/// One plan, with how many of its tests are in which state.
#[utoipa::path(get, path = "/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanView>> {
    Ok(Json(state.control.plan(&caller, id).await?))
}

/// Tests of a plan by their latest runs, the last one that was submitted first.
#[utoipa::path(get, path = "/plans/{id}/tests", tag = "plans",
    params(("id" = String, Path, description = "Id"), TestParameters),
    responses((status = 200, description = "Done", body = Vec<TestView>), Denied, BadRequest, NotFound)
)]
pub(super) async fn tests(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
    InQuery(query): InQuery<TestParameters>,
) -> ApiResult<Json<Vec<TestView>>> {
    let query = TestQuery {
        status: query.status,
        superseded: query.superseded.unwrap_or_default(),
        before_seq: query.before_seq,
        limit: query.limit,
    };
    Ok(Json(state.control.plan_tests(&caller, id, query).await?))
}

/// Cancels what of a plan has not ended. The plan and its tests stay to be read.
#[utoipa::path(delete, path = "/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanView), Denied, NotFound)
)]
pub(super) async fn cancel(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanView>> {
    Ok(Json(state.control.cancel_plan(&caller, id).await?))
}

/// Executes tests of a plan again, as a new plan of the same name.
#[utoipa::path(post, path = "/plans/{id}/rerun", tag = "plans", request_body = RerunPlan,
    params(("id" = String, Path, description = "Id")),
    responses((status = 201, description = "Done", body = PlanView), Denied, BadRequest, NotFound, Conflict, Unprocessable)
)]
pub(super) async fn rerun(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
    InBody(body): InBody<RerunPlan>,
) -> ApiResult<(StatusCode, Json<PlanView>)> {
    let plan = state.control.rerun_plan(&caller, id, body.failed).await?;
    Ok((StatusCode::CREATED, Json(plan)))
}

/// What the tests of a plan wait for.
#[utoipa::path(get, path = "/plans/{id}/explain", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanExplanation), Denied, NotFound)
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanExplanation>> {
    Ok(Json(state.control.explain_plan(&caller, id).await?))
}

/// How runs of a test ended, in plans of the same name, and whether it has become slower.
#[utoipa::path(get, path = "/tests/history", tag = "plans", params(HistoryParameters),
    responses((status = 200, description = "Done", body = TestHistory), Denied, BadRequest)
)]
pub(super) async fn history(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<HistoryParameters>,
) -> ApiResult<Json<TestHistory>> {
    let test = match (query.key, query.plan, query.test) {
        (Some(key), None, None) => TestIdentity::Key(key),
        (None, Some(plan), Some(test)) => TestIdentity::Names { plan, test },
        _ => {
            return Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "name the test by `key`, or by `plan` and `test`",
            ));
        }
    };
    Ok(Json(
        state.control.test_history(&caller, test, query.limit).await?,
    ))
}

/// Tests that passed only when they were tried again, the flakiest first.
#[utoipa::path(get, path = "/tests/flaky", tag = "plans", params(FlakyParameters),
    responses((status = 200, description = "Done", body = Vec<FlakyTest>), Denied, BadRequest)
)]
pub(super) async fn flaky(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<FlakyParameters>,
) -> ApiResult<Json<Vec<FlakyTest>>> {
    Ok(Json(state.control.flaky_tests(&caller, query.days).await?))
}

/// Follows a plan from its beginning to its end as server-sent events. `test.finished` (a `TestView`, for each run that
/// ended) and `plan.finished` (a `PlanView`, the last one) have ids, after which `Last-Event-ID` takes up again; between
/// them, of the moment and without ids, `test.started` (a `TestView`) and `plan.updated` (a `PlanView`).
#[utoipa::path(get, path = "/plans/{id}/events", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "A stream of events", body = TestView, content_type = "text/event-stream"),
        Denied, NotFound,
    )
)]
pub(super) async fn follow(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
    headers: HeaderMap,
) -> ApiResult<Sse<impl futures::Stream<Item = Result<Event, Infallible>>>> {
    let first = state.control.plan_events_from(&caller, id).await?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse().ok());
    let store = Arc::clone(state.control.store());
    // Subscribed before looking, so that nothing falls between the two.
    let hints = store.hints();
    let follower = Follower {
        state,
        caller,
        id,
        store,
        hints,
        after: last.unwrap_or(first).max(first),
        started: HashSet::new(),
        shown: None,
        live: Instant::now(),
    };
    Ok(Sse::new(follower.events()).keep_alive(KeepAlive::default()))
}

/// Somebody who follows a plan.
struct Follower {
    state: ServerState,
    caller: Caller,
    id: PlanId,
    store: Arc<dyn Store>,
    hints: Receiver<Hint>,
    /// The last event that was told.
    after: i64,
    /// Attempts that were told as started, and still run.
    started: HashSet<(RunId, u32)>,
    shown: Option<PlanView>,
    /// When to look next at what is being executed.
    live: Instant,
}

impl Follower {
    fn events(mut self) -> impl futures::Stream<Item = Result<Event, Infallible>> {
        async_stream::stream! {
            loop {
                // Before the events are read: those of a plan that has ended by then are all there.
                let over = match self.state.control.plan_has_ended(&self.caller, self.id).await {
                    Ok(over) => over,
                    Err(error) if matches!(error, ControlError::NotFound { .. }) => return,
                    Err(error) => {
                        tracing::warn!(%error, "a plan cannot be read at present");
                        tokio::time::sleep(LIVE).await;
                        continue;
                    }
                };
                loop {
                    let found = self.store.events(Some(self.caller.tenant_id), self.after, PAGE).await;
                    let found = match found {
                        Ok(found) => found,
                        Err(error) => {
                            tracing::warn!(%error, "events cannot be read at present");
                            break;
                        }
                    };
                    let full = found.len() == PAGE as usize;
                    let subject = self.id.to_string();
                    for event in found {
                        self.after = event.seq;
                        let inner = event.event;
                        if inner.subject != subject {
                            continue;
                        }
                        let last = inner.kind == "plan.finished";
                        if last || inner.kind == "test.finished" {
                            let told = Event::default().id(event.seq.to_string()).event(inner.kind);
                            if let Ok(told) = told.json_data(inner.data) {
                                yield Ok(told);
                            }
                        }
                        if last {
                            return;
                        }
                    }
                    if !full {
                        break;
                    }
                }
                if over {
                    // Its last event was seen before, or is kept no more.
                    let plan = self.state.control.plan(&self.caller, self.id).await;
                    let told = plan.map(|plan| Event::default().event("plan.finished").json_data(plan));
                    if let Ok(Ok(told)) = told {
                        yield Ok(told);
                    }
                    return;
                }
                if self.live <= Instant::now() {
                    for event in self.look().await {
                        yield Ok(event);
                    }
                    self.live = Instant::now() + LIVE;
                }
                if !self.wait().await {
                    return;
                }
            }
        }
    }

    /// What has changed of the plan and of what is being executed.
    async fn look(&mut self) -> Vec<Event> {
        let mut told = Vec::new();
        match self.state.control.plan_running(&self.caller, self.id).await {
            Err(error) => tracing::warn!(%error, "the tests of a plan cannot be read at present"),
            Ok(running) => {
                let now: HashSet<(RunId, u32)> =
                    running.iter().map(|test| (test.run_id, test.attempt)).collect();
                for test in running {
                    if !self.started.contains(&(test.run_id, test.attempt)) {
                        told.extend(Event::default().event("test.started").json_data(test).ok());
                    }
                }
                self.started = now;
            }
        }
        match self.state.control.plan(&self.caller, self.id).await {
            Err(error) => tracing::warn!(%error, "a plan cannot be read at present"),
            Ok(plan) if self.shown.as_ref() == Some(&plan) => {}
            Ok(plan) => {
                told.extend(Event::default().event("plan.updated").json_data(&plan).ok());
                self.shown = Some(plan);
            }
        }
        told
    }

    /// Waits for an event, or until it is time to look. False when there will be none any more.
    async fn wait(&mut self) -> bool {
        let live = tokio::time::Instant::from_std(self.live);
        let hints = &mut self.hints;
        let hint = async {
            loop {
                match hints.recv().await {
                    Ok(Hint::Events) | Err(RecvError::Lagged(_)) => return true,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        let more = tokio::time::timeout_at(live, hint).await;
        // Ends often come close together, and one look answers all of them.
        tokio::time::sleep(ALONG).await;
        while !self.hints.is_empty() {
            let _ = self.hints.recv().await;
        }
        more.unwrap_or(true)
    }
}
