//! `ostler role create`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_contracts::CreateRole;
use ostler_domain::Permission;

/// What it is for.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name, unique within the tenant.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it allows (such as runs:read); may be repeated.
    #[arg(short, long, value_name = "PERMISSION", required = true)]
    permission: Vec<Permission>,
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let new = CreateRole {
            name: self.name,
            permissions: self.permission,
        };
        let made = session.client.create_role(&new).await?;
        session.out.show(&made, || format!("{}\n", made.id))
    }
}
