//! `ostler sandbox list`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let sandboxes = session.client.sandboxes().await?;
        session.out.show(&sandboxes, || super::table(&sandboxes, session.out.colour, "no sandboxes"))
    }
}
