//! `ostler project cleanup`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::progress::with_progress;
use crate::table::one_line;

/// Which project.
#[derive(Debug, clap::Args)]
pub struct Cleanup {
    /// Id, name, or the end of the id.
    #[arg(value_name = "PROJECT")]
    project: String,
}

impl Cleanup {
    /// Ends with 1 when something could not be removed.
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.project_id(&self.project).await?;
        let report = with_progress("cleaning up", session.client.cleanup_project(id)).await?;
        session.out.show(&report, || {
            let parts = [
                ("removed worktree", &report.worktrees),
                ("removed branch", &report.branches),
                ("could not be removed:", &report.failures),
            ];
            let lines: String = parts
                .iter()
                .flat_map(|(what, names)| names.iter().map(move |name| format!("{what} {}\n", one_line(name))))
                .collect();
            if lines.is_empty() { "nothing to remove\n".to_owned() } else { lines }
        })?;
        Ok(if report.failures.is_empty() { Exit::OK } else { Exit::FAILED })
    }
}
