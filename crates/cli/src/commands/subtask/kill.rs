//! `ostler subtask kill`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which subtask.
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// Id, branch, issue, or the end of the id.
    #[arg(value_name = "SUBTASK")]
    subtask: String,
}

impl Kill {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.subtask_id(&self.subtask).await?;
        session.client.kill_subtask(id).await?;
        session.out.done(&id, "killed")
    }
}
