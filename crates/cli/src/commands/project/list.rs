//! `ostler project list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::Table;
use crate::when::ago;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let projects = session.client.projects().await?;
        session.out.show(&projects, || {
            let mut table = Table::new(["ID", "NAME", "BRANCH", "ADDED", "SOURCE"], session.out.colour);
            for p in &projects {
                table.row([
                    p.id.to_string(),
                    p.name.clone(),
                    p.default_branch.clone(),
                    ago(p.created_at),
                    p.source.clone(),
                ]);
            }
            table.or_empty("no projects; add one with `ostler project add`")
        })?;
        Ok(Exit::OK)
    }
}
