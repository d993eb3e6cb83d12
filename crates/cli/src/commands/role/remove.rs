//! `ostler role remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which role.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Id, name, or the end of the id.
    #[arg(value_name = "ROLE")]
    role: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.role_id(&self.role).await?;
        session.client.remove_role(id).await?;
        session.out.done(&id, "removed")
    }
}
