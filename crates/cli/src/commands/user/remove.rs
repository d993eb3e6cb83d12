//! `ostler user remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which user.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Id, name, or the end of the id.
    #[arg(value_name = "USER")]
    user: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.user_id(&self.user).await?;
        session.client.remove_user(id).await?;
        session.out.done(&id, "removed")
    }
}
