//! `ostler project remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which project.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Id, name, or the end of the id.
    #[arg(value_name = "PROJECT")]
    project: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.project_id(&self.project).await?;
        session.client.remove_project(id).await?;
        session.out.done(&id, "removed")
    }
}
