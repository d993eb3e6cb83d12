//! `ostler subtask retry`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which subtask.
#[derive(Debug, clap::Args)]
pub struct Retry {
    /// Id, branch, issue, or the end of the id.
    #[arg(value_name = "SUBTASK")]
    subtask: String,
}

impl Retry {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.subtask_id(&self.subtask).await?;
        let subtask = session.client.retry_subtask(id).await?;
        session.out.show(&subtask, || super::fields(&subtask, session.out.colour))
    }
}
