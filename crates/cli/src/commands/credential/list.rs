//! `ostler credential list`.

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
        let all = session.client.credentials().await?;
        session.out.show(&all, || {
            let mut table = Table::new(["ID", "NAME", "KIND", "KEY", "UPDATED"], session.out.colour);
            for one in &all {
                table.row([
                    one.id.to_string(),
                    one.name.clone(),
                    one.kind.to_string(),
                    one.key_id.clone(),
                    ago(one.updated_at),
                ]);
            }
            table.or_empty("no credentials; store one with `ostler credential set NAME --kind KIND`")
        })?;
        Ok(Exit::OK)
    }
}
