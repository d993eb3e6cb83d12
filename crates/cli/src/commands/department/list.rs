//! `ostler department list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.departments().await?;
        session.out.list(&all, ["ID", "NAME", "CREATED"], "no departments", |one| {
            [one.id.to_string(), one.name.clone(), ago(one.created_at)]
        })
    }
}
