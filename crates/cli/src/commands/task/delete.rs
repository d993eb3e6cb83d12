//! `ostler task delete`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which task.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Id, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,
}

impl Delete {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.task_id(&self.task).await?;
        session.client.delete_task(id).await?;
        session.out.done(&id, "deleted")
    }
}
