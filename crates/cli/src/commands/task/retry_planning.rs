//! `ostler task retry-planning`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which task.
#[derive(Debug, clap::Args)]
pub struct RetryPlanning {
    /// Id, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,
}

impl RetryPlanning {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.task_id(&self.task).await?;
        let task = session.client.retry_planning(id).await?;
        session.out.show(&task, || super::fields(&task, session.out.colour))
    }
}
