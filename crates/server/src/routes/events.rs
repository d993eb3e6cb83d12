//! State changes.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::InQuery;
use crate::refusals::Denied;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use ostler_contracts::EventView;
use ostler_control::ControlError;
use ostler_domain::{Permission, SandboxId};
use ostler_store::Hint;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// How often a follower looks again, in case a hint was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Only events after this number; those from now on when absent.
    after: Option<i64>,
    /// Only those of the object with this id.
    subject: Option<String>,
    /// Wait for those that are to come; true when absent. Otherwise the stream ends after the present last one.
    follow: Option<bool>,
}

/// Follows state changes as server-sent events, whose ids are their numbers: `Last-Event-ID` takes up again after one.
#[utoipa::path(get, path = "/events", tag = "events", params(EventQuery),
    responses(
        (status = 200, description = "A stream of events", body = EventView, content_type = "text/event-stream"),
        Denied,
    )
)]
pub(super) async fn follow(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<EventQuery>,
    headers: HeaderMap,
) -> ApiResult<Sse<impl futures::Stream<Item = Result<Event, Infallible>>>> {
    let of_agent = query
        .subject
        .as_deref()
        .is_some_and(|subject| subject.parse::<SandboxId>().is_ok());
    caller.require(if of_agent {
        Permission::AgentsRead
    } else {
        Permission::ProjectsRead
    })?;
    let follow = query.follow.unwrap_or(true);
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse().ok());
    let store = state.control.store().clone();
    // Subscribed before looking, so that nothing falls between the two.
    let mut hints = store.hints();
    let mut after = match last.or(query.after) {
        Some(after) => after,
        None => store
            .last_event()
            .await
            .map_err(|error| ApiError::from(ControlError::from(error)))?,
    };
    let events = async_stream::stream! {
        loop {
            match store.events(Some(caller.tenant_id), after, PAGE).await {
                Err(error) => tracing::warn!(%error, "events cannot be read at present"),
                Ok(events) => {
                    let full = events.len() == PAGE as usize;
                    for event in events {
                        after = event.seq;
                        let inner = event.event;
                        if query.subject.as_ref().is_some_and(|subject| *subject != inner.subject) {
                            continue;
                        }
                        let view = EventView {
                            seq: event.seq,
                            kind: inner.kind,
                            subject: inner.subject,
                            data: inner.data,
                            at: inner.at.into(),
                        };
                        if let Ok(event) = Event::default().id(view.seq.to_string()).event(view.kind.clone()).json_data(view) {
                            yield Ok(event);
                        }
                    }
                    if full {
                        continue;
                    }
                    if !follow {
                        return;
                    }
                }
            }
            let wait = async {
                loop {
                    match hints.recv().await {
                        Ok(Hint::Events) | Err(RecvError::Lagged(_)) => return true,
                        Ok(_) => {}
                        Err(RecvError::Closed) => return false,
                    }
                }
            };
            if let Ok(false) = tokio::time::timeout(LOOK_AGAIN, wait).await {
                return;
            }
        }
    };
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
