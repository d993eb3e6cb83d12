//! `ostler agent list`.

use crate::commands::{Outcome, sandbox};
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let agents = session.client.agents().await?;
        let empty = "no sandboxes of yours; `ostler agent provision` gets one";
        session.out.show(&agents, || sandbox::table(&agents, session.out.colour, empty))
    }
}
