//! `ostler subtask show`.

use crate::commands::{Outcome, run};
use crate::context::Session;
use ostler_contracts::{RunView, SubtaskView};

/// Which subtask.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, branch, issue, or the end of the id.
    #[arg(value_name = "SUBTASK")]
    subtask: String,
}

/// A subtask with its runs.
#[derive(serde::Serialize)]
struct Whole {
    #[serde(flatten)]
    subtask: SubtaskView,
    runs: Vec<RunView>,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.subtask_id(&self.subtask).await?;
        let whole = Whole {
            subtask: session.client.subtask(id).await?,
            runs: session.client.subtask_runs(id).await?,
        };
        session.out.show(&whole, || {
            let mut text = super::fields(&whole.subtask, session.out.colour);
            if !whole.runs.is_empty() {
                text.push_str("\nRuns\n");
                text.push_str(&run::table(&whole.runs, session.out.colour));
            }
            text
        })
    }
}
