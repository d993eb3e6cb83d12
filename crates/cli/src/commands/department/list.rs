//! `ostler department list`.

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
        let all = session.client.departments().await?;
        session.out.show(&all, || {
            let mut table = Table::new(["ID", "NAME", "CREATED"], session.out.colour);
            for one in &all {
                table.row([
                    one.id.to_string(),
                    one.name.clone(),
                    ago(one.created_at),
                ]);
            }
            table.or_empty("no departments")
        })?;
        Ok(Exit::OK)
    }
}
