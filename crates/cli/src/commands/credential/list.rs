//! `ostler credential list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.credentials().await?;
        let columns = ["ID", "NAME", "KIND", "KEY", "UPDATED"];
        let none = "no credentials; store one with `ostler credential set NAME --kind KIND`";
        session.out.list(&all, columns, none, |one| {
            [
                one.id.to_string(),
                one.name.clone(),
                one.kind.to_string(),
                one.key_id.clone(),
                ago(one.updated_at),
            ]
        })
    }
}
