//! `ostler kinds`.

use super::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::Table;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct Kinds {}

impl Kinds {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let kinds = session.client.kinds().await?;
        session.out.show(&kinds, || {
            let mut table = Table::new(
                ["NAME", "DEFAULT", "TITLE", "INSTRUCTIONS", "INSTALL"],
                session.out.colour,
            );
            for kind in &kinds {
                let default = if kind.default { "yes" } else { "" };
                table.row([
                    kind.name.clone(),
                    default.to_owned(),
                    kind.title.clone(),
                    kind.instruction_file.clone(),
                    kind.install.clone(),
                ]);
            }
            table.or_empty("no agent kinds")
        })?;
        Ok(Exit::OK)
    }
}
