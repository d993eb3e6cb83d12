//! `ostler user list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::{ago, ago_or_dash};

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.users().await?;
        session.out.list(&all, ["ID", "NAME", "EMAIL", "ROLES", "DISABLED", "CREATED"], "no users", |one| {
            [
                one.id.to_string(),
                one.name.clone(),
                one.email.clone().unwrap_or_else(|| "-".to_owned()),
                one.roles.join(" "),
                ago_or_dash(one.disabled_at),
                ago(one.created_at),
            ]
        })
    }
}
