//! `ostler role set`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_contracts::SetRole;
use ostler_domain::Permission;

/// Which role, and what it allows from now on.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Id, name, or the end of the id.
    #[arg(value_name = "ROLE")]
    role: String,
    /// What it allows (such as runs:read); may be repeated.
    #[arg(short, long, value_name = "PERMISSION", required = true)]
    permission: Vec<Permission>,
}

impl Set {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.role_id(&self.role).await?;
        let change = SetRole {
            permissions: self.permission,
        };
        session.client.set_role(id, &change).await?;
        session.out.done(&id, "set")
    }
}
