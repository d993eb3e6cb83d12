//! `ostler token create`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use ostler_contracts::CreateToken;
use ostler_domain::Permission;

/// What the token is for.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// What to call it.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do at most (such as runs:read); may be repeated; all that you may when absent.
    #[arg(short, long, value_name = "PERMISSION")]
    permission: Vec<Permission>,
    /// Days until it expires; never when absent.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    expires_in: Option<u32>,
    /// The user in whose name it acts, by id or name; yourself when absent.
    #[arg(long, conflicts_with = "service")]
    user: Option<String>,
    /// A service token of the tenant, which belongs to no user.
    #[arg(long)]
    service: bool,
}

impl Create {
    /// Standard output holds the secret alone, so that a script can keep it.
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let user_id = match &self.user {
            Some(user) => Some(session.user_id(user).await?),
            None => None,
        };
        let new = CreateToken {
            name: self.name,
            permissions: (!self.permission.is_empty()).then_some(self.permission),
            expires_in_days: self.expires_in,
            user_id,
            service: self.service,
        };
        let made = session.client.create_token(&new).await?;
        session.out.show(&made, || format!("{}\n", made.secret))?;
        session.out.note(&format!("{} was made; its secret is not shown again", made.token.id));
        Ok(Exit::OK)
    }
}
