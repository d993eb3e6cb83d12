//! `ostler agent pause`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
}

impl Pause {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        session.client.pause_agent(id).await?;
        session.out.done(&id, "paused")
    }
}
