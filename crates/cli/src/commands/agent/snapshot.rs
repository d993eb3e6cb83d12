//! `ostler agent snapshot`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::progress::with_progress;

/// Which sandbox, and under which name.
#[derive(Debug, clap::Args)]
pub struct Snapshot {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    /// Name: lower-case letters, digits and single hyphens.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Snapshot {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        with_progress("keeping its state", session.client.snapshot_agent(id, &self.name)).await?;
        session.out.done(
            &id,
            &format!(
                "kept as {}, with all that was typed in it, copied to it and written there",
                self.name
            ),
        )
    }
}
