//! `ostler task show`.

use crate::commands::{Outcome, subtask};
use crate::context::Session;
use ostler_contracts::{SubtaskView, TaskView};

/// Which task.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,
}

/// A task with its subtasks.
#[derive(serde::Serialize)]
struct Whole {
    #[serde(flatten)]
    task: TaskView,
    subtasks: Vec<SubtaskView>,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.task_id(&self.task).await?;
        let whole = Whole {
            task: session.client.task(id).await?,
            subtasks: session.client.subtasks(id).await?,
        };
        session.out.show(&whole, || {
            let mut text = super::fields(&whole.task, session.out.colour);
            if !whole.subtasks.is_empty() {
                text.push_str("\nSubtasks\n");
                text.push_str(&subtask::table(&whole.subtasks, session.out.colour));
            }
            text
        })
    }
}
