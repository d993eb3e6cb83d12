//! `ostler pool list`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let pools = session.client.pools().await?;
        session.out.show(&pools, || super::table(&pools, session.out.colour))
    }
}
