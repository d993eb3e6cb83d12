//! `ostler agent events`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::one_line;
use ostler_client::Followed;
use ostler_contracts::EventView;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    /// Wait for what is to come.
    #[arg(short, long)]
    follow: bool,
}

impl Events {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?.to_string();
        if !self.follow {
            for event in session.client.past_events_of(&id).await? {
                show(session, &event)?;
            }
            return Ok(Exit::OK);
        }
        let mut events = session.client.follow_events_of(&id, 0);
        loop {
            let next = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(Exit::CANCELLED),
                next = events.next() => next?,
            };
            match next {
                Followed::Item(event) => show(session, &event)?,
                Followed::Connected => {}
                Followed::Lost(_) => session
                    .out
                    .note("ostler: the connection to the server is lost; trying again"),
            }
        }
    }
}

fn show(session: &Session, event: &EventView) -> Result<()> {
    if session.out.json {
        return session.out.line(event);
    }
    let text = |name: &str| event.data.get(name).and_then(serde_json::Value::as_str);
    // Of what was denied, the place is what matters.
    let status = text("status").or_else(|| text("target")).unwrap_or_default();
    let reason = text("reason").map_or(String::new(), |reason| format!(": {}", one_line(reason)));
    let line = format!("{}  {}  {status}{reason}\n", event.at, event.kind);
    session.out.bytes(line.as_bytes())
}
