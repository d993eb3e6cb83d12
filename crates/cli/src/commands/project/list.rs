//! `ostler project list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let projects = session.client.projects().await?;
        let columns = ["ID", "NAME", "BRANCH", "ADDED", "SOURCE"];
        let none = "no projects; add one with `ostler project add`";
        session.out.list(&projects, columns, none, |p| {
            [p.id.to_string(), p.name.clone(), p.default_branch.clone(), ago(p.created_at), p.source.clone()]
        })
    }
}
