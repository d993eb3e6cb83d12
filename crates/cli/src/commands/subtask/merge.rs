//! `ostler subtask merge`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::progress::with_progress;
use crate::table::one_line;
use ostler_domain::SubtaskStatus;

/// Which subtask.
#[derive(Debug, clap::Args)]
pub struct Merge {
    /// Id, branch, issue, or the end of the id.
    #[arg(value_name = "SUBTASK")]
    subtask: String,
    /// Only note that it was merged outside Ostler.
    #[arg(long)]
    mark: bool,
}

impl Merge {
    /// Ends with 1 when it was not merged: a conflict has gone back to an agent, or it has to be checked again.
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.subtask_id(&self.subtask).await?;
        let subtask = if self.mark {
            session.client.mark_merged(id).await?
        } else {
            with_progress("merging", session.client.merge_subtask(id)).await?
        };
        session.out.show(&subtask, || super::fields(&subtask, session.out.colour))?;
        if subtask.status == SubtaskStatus::Merged {
            return Ok(Exit::OK);
        }
        let why = subtask.error.as_deref().map_or_else(
            || "its branch is not what was checked, and is checked again".to_owned(),
            one_line,
        );
        session
            .out
            .note(&format!("it was not merged and is {}: {}", subtask.status, why.trim()));
        Ok(Exit::FAILED)
    }
}
