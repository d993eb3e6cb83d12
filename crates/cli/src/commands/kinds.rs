//! `ostler kinds`.

use super::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct Kinds {}

impl Kinds {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let kinds = session.client.kinds().await?;
        let columns = ["NAME", "DEFAULT", "TITLE", "INSTRUCTIONS", "INSTALL"];
        session.out.list(&kinds, columns, "no agent kinds", |kind| {
            let default = if kind.default { "yes" } else { "" };
            [
                kind.name.clone(),
                default.to_owned(),
                kind.title.clone(),
                kind.instruction_file.clone(),
                kind.install.clone(),
            ]
        })
    }
}
