//! `ostler image list`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let images = session.client.images().await?;
        session.out.show(&images, || super::table(&images, session.out.colour))
    }
}
