//! `ostler snapshot list`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let snapshots = session.client.snapshots().await?;
        session.out.show(&snapshots, || super::table(&snapshots, session.out.colour))
    }
}
