//! `ostler user list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::Table;
use crate::when::{ago, ago_or_dash};

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.users().await?;
        session.out.show(&all, || {
            let mut table = Table::new(["ID", "NAME", "EMAIL", "ROLES", "DISABLED", "CREATED"], session.out.colour);
            for one in &all {
                table.row([
                    one.id.to_string(),
                    one.name.clone(),
                    one.email.clone().unwrap_or_else(|| "-".to_owned()),
                    one.roles.join(" "),
                    ago_or_dash(one.disabled_at),
                    ago(one.created_at),
                ]);
            }
            table.or_empty("no users")
        })?;
        Ok(Exit::OK)
    }
}
