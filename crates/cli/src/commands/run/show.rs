//! `ostler run show`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which run.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, or the end of it.
    #[arg(value_name = "RUN")]
    run: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.run_id(&self.run).await?;
        let run = session.client.run(id).await?;
        session.out.show(&run, || super::fields(&run, session.out.colour))
    }
}
