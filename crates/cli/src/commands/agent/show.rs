//! `ostler agent show`.

use crate::commands::{Outcome, sandbox};
use crate::context::Session;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        let agent = session.client.agent(id).await?;
        session.out.show(&agent, || sandbox::fields(&agent, session.out.colour))
    }
}
