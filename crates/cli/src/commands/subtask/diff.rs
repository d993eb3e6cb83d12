//! `ostler subtask diff`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::plain;
use std::io::IsTerminal;

/// Which subtask.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// Id, branch, issue, or the end of the id.
    #[arg(value_name = "SUBTASK")]
    subtask: String,
}

impl Diff {
    /// The diff goes to standard output so that it can be applied; the commits are beside it.
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.subtask_id(&self.subtask).await?;
        let diff = session.client.subtask_diff(id).await?;
        if !session.out.json {
            for commit in &diff.commits {
                let short = commit.id.get(..10).unwrap_or(&commit.id);
                let line = format!("{short} {} ({})", commit.subject, commit.author);
                session.out.note(&crate::table::one_line(&line));
            }
        }
        if diff.truncated {
            session.out.note("the diff is longer than what the server shows and has been cut");
        }
        let terminal = std::io::stdout().is_terminal();
        session.out.show(&diff, || if terminal { plain(&diff.diff) } else { diff.diff.clone() })
    }
}
