//! The engine's events: containers of this instance that end.

use crate::container;
use crate::driver::Inner;
use crate::engine::chain;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use ostler_domain::SandboxId;
use ostler_sandbox::DriverEvent;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// First wait before the stream is asked for again; doubles to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Follows the events until the driver is gone. After a break they are asked for from the last one seen, so that none is
/// missed; those that come twice are told once.
pub(crate) async fn follow(weak: Weak<Inner>) {
    let mut since = now();
    let mut wait = FIRST_WAIT;
    let mut told_of_break = false;
    while let Some(inner) = weak.upgrade() {
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
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    wait = FIRST_WAIT;
                    since = event.time.unwrap_or(since);
                    told_of_break = false;
                    if let Some(inner) = weak.upgrade() {
                        told(&inner, &event).await;
                    }
                }
                // Once: it is asked again until the engine is back.
                Err(error) if told_of_break => {
                    tracing::debug!(error = chain(&error), "the engine's events are not back");
                    break;
                }
                Err(error) => {
                    told_of_break = true;
                    tracing::warn!(error = chain(&error), "the engine's events broke off");
                    break;
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
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
    if inner.announce(id) {
        let exit = container::exit(code, out_of_memory);
        tracing::info!(sandbox = %id, ?exit, "ended unasked");
        // Nobody listening is fine: health checks ask.
        let _nobody = inner.events.send(DriverEvent { id, exit });
    }
}
