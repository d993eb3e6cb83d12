//! `ostler role list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::Table;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let all = session.client.roles().await?;
        session.out.show(&all, || {
            let mut table = Table::new(["ID", "NAME", "BUILT IN", "PERMISSIONS"], session.out.colour);
            for one in &all {
                table.row([
                    one.id.to_string(),
                    one.name.clone(),
                    if one.built_in { "yes" } else { "-" }.to_owned(),
                    one.permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                ]);
            }
            table.or_empty("no roles")
        })?;
        Ok(Exit::OK)
    }
}
