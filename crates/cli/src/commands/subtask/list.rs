//! `ostler subtask list`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which subtasks.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Task: id, or the end of it.
    #[arg(short, long)]
    task: String,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let task = session.task_id(&self.task).await?;
        let subtasks = session.client.subtasks(task).await?;
        session.out.show(&subtasks, || super::table(&subtasks, session.out.colour))
    }
}
