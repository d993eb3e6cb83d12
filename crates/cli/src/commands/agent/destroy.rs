//! `ostler agent destroy`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::progress::with_progress;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
}

impl Destroy {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        with_progress("destroying", session.client.destroy_agent(id)).await?;
        session.out.done(&id, "destroyed")
    }
}
