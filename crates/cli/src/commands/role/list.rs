//! `ostler role list`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.roles().await?;
        session.out.list(&all, ["ID", "NAME", "BUILT IN", "PERMISSIONS"], "no roles", |one| {
            [
                one.id.to_string(),
                one.name.clone(),
                if one.built_in { "yes" } else { "-" }.to_owned(),
                one.permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            ]
        })
    }
}
