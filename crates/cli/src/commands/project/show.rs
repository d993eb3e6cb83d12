//! `ostler project show`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which project.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, name, or the end of the id.
    #[arg(value_name = "PROJECT")]
    project: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.project_id(&self.project).await?;
        let project = session.client.project(id).await?;
        session.out.show(&project, || super::fields(&project, session.out.colour))
    }
}
