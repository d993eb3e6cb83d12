//! `ostler agent resume`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
}

impl Resume {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        session.client.resume_agent(id).await?;
        session.out.done(&id, "resumed")
    }
}
