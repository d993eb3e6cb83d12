//! The engine's events: containers of this instance that end.

use crate::container;
use crate::driver::Inner;
use crate::engine::{CALL_LIMIT, CallError, call, chain};
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures::StreamExt;
use ostler_domain::SandboxId;
use ostler_sandbox::{DriverEvent, DriverStatus};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// First wait before the stream is asked for again; doubles to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Follows the events until the driver is gone, beginning with those since the given second by the engine's clock.
///
/// An engine that was restarted has forgotten its events, also those of the containers that it ended itself. So after a
/// break all containers are looked at, and only then the events are followed from the second before that look. What is
/// seen twice is told once.
pub(crate) async fn follow(weak: Weak<Inner>, mut since: i64) {
    let mut wait = FIRST_WAIT;
    let mut broken = false;
    while let Some(inner) = weak.upgrade() {
        if broken {
            match catch_up(&inner).await {
                Ok(seconds) => {
                    since = seconds;
                    tracing::info!(engine = inner.engine.url, "the engine's events are back");
                }
                Err(error) => {
                    tracing::debug!(?error, "the engine is not back");
                    drop(inner);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LAST_WAIT);
                    continue;
                }
            }
        }
        let options = EventsOptionsBuilder::default()
            .since(&since.to_string())
            .filters(&HashMap::from([
                ("type".to_owned(), vec!["container".to_owned()]),
                ("event".to_owned(), vec!["die".to_owned()]),
                (
                    "label".to_owned(),
                    vec![format!("{}={}", container::INSTANCE, inner.options.instance)],
                ),
            ]))
            .build();
        let mut events = Box::pin(inner.engine.api.events(Some(options)));
        drop(inner);
        let error = loop {
            match events.next().await {
                Some(Ok(event)) => {
                    wait = FIRST_WAIT;
                    if let Some(inner) = weak.upgrade() {
                        told(&inner, &event).await;
                    }
                }
                Some(Err(error)) => break chain(&error),
                None => break "the stream ended".to_owned(),
            }
        };
        tracing::warn!(error, "the engine's events broke off");
        broken = true;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// The engine's clock, seconds; 0, which is long ago, if it does not tell.
pub(crate) fn clock(info: &bollard::models::SystemInfo) -> i64 {
    info.system_time
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map_or(0, jiff::Timestamp::as_second)
}

/// Tells of the containers that have ended meanwhile. Returns the engine's time from before the look.
async fn catch_up(inner: &Arc<Inner>) -> Result<i64, CallError> {
    let info = call(CALL_LIMIT, inner.engine.api.info()).await?;
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&HashMap::from([
            (
                "label".to_owned(),
                vec![format!("{}={}", container::INSTANCE, inner.options.instance)],
            ),
            ("status".to_owned(), vec!["exited".to_owned(), "dead".to_owned()]),
        ]))
        .build();
    let ended = call(CALL_LIMIT, inner.engine.api.list_containers(Some(options))).await?;
    let ids = ended
        .into_iter()
        .filter_map(|c| c.labels?.remove(container::SANDBOX)?.parse::<SandboxId>().ok());
    for id in ids {
        if let Some(found) = inner.inspect(id).await?
            && let DriverStatus::Exited(exit) = container::status(found.state.as_ref())
        {
            announce(inner, DriverEvent { id, exit });
        }
    }
    Ok(clock(&info))
}

async fn told(inner: &Arc<Inner>, event: &EventMessage) {
    let attributes = event.actor.as_ref().and_then(|a| a.attributes.as_ref());
    let attribute = |name: &str| attributes.and_then(|a| a.get(name));
    let Some(id) = attribute(container::SANDBOX).and_then(|t| t.parse::<SandboxId>().ok()) else {
        return;
    };
    let code = attribute("exitCode").and_then(|c| c.parse().ok());
    // The event does not tell of memory; the container, if it is still there, does.
    let out_of_memory = match inner.inspect(id).await {
        Ok(Some(found)) => found.state.and_then(|s| s.oom_killed).unwrap_or(false),
        // An old event of a sandbox that has been removed since.
        Ok(None) if !inner.dir(id).exists() => return,
        Ok(None) | Err(_) => false,
    };
    let exit = container::exit(code, out_of_memory);
    announce(inner, DriverEvent { id, exit });
}

fn announce(inner: &Inner, event: DriverEvent) {
    if inner.announce(event.id) {
        tracing::info!(sandbox = %event.id, exit = ?event.exit, "ended unasked");
        // Nobody listening is fine: health checks ask.
        let _nobody = inner.events.send(event);
    }
}
