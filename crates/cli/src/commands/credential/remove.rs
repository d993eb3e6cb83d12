//! `ostler credential remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which credential.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        session.client.remove_credential(&self.name).await?;
        session.out.done(&self.name, "removed")
    }
}
