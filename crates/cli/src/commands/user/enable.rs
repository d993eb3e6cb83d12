//! `ostler user enable`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_contracts::ChangeUser;

/// Which user.
#[derive(Debug, clap::Args)]
pub struct Enable {
    /// Id, name, or the end of the id.
    #[arg(value_name = "USER")]
    user: String,
}

impl Enable {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.user_id(&self.user).await?;
        let change = ChangeUser {
            disabled: Some(false),
            ..ChangeUser::default()
        };
        session.client.change_user(id, &change).await?;
        session.out.done(&id, "enabled")
    }
}
