//! A plan as a stream of events.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::InPath;
use crate::refusals::{Denied, NotFound};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use ostler_contracts::{PlanView, TestView};
use ostler_control::{Caller, ControlError};
use ostler_domain::{PlanId, RunId};
use ostler_store::{Hint, Store};
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

/// Follows a plan from its beginning to its end as server-sent events. `test.finished` (a `TestView`, for each run that
/// ended) and `plan.finished` (a `PlanView`, the last one) have ids, after which `Last-Event-ID` takes up again; between
/// them, of the moment and without ids, `test.started` (a `TestView`) and `plan.updated` (a `PlanView`).
#[utoipa::path(get, path = "/plans/{id}/events", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "A stream of events", body = TestView, content_type = "text/event-stream"),
        Denied, NotFound,
    )
)]
pub(in crate::routes) async fn follow(
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
                    Err(ControlError::NotFound { .. }) => return,
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
