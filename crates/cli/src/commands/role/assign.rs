//! `ostler role assign`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which role, and to whom.
#[derive(Debug, clap::Args)]
pub struct Assign {
    /// Id, name, or the end of the id.
    #[arg(value_name = "ROLE")]
    role: String,
    /// Id or name of the user, or the end of the id.
    #[arg(value_name = "USER")]
    user: String,
}

impl Assign {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let role = session.role_id(&self.role).await?;
        let user = session.user_id(&self.user).await?;
        session.client.assign_role(user, role).await?;
        session.out.done(&role, "assigned")
    }
}
