//! `ostler sandbox show`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, or the end of it.
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.sandbox_id(&self.sandbox).await?;
        let sandbox = session.client.sandbox(id).await?;
        session.out.show(&sandbox, || super::fields(&sandbox, session.out.colour))
    }
}
