//! `ostler task kill`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which task.
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// Id, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,
}

impl Kill {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.task_id(&self.task).await?;
        let task = session.client.kill_task(id).await?;
        session.out.show(&task, || super::fields(&task, session.out.colour))
    }
}
