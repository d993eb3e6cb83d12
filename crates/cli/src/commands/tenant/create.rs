//! `ostler tenant create`.

use crate::commands::Outcome;
use crate::context::Session;

/// What to call it.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let made = session.client.create_tenant(&self.name).await?;
        session.out.show(&made, || format!("{}\n", made.id))
    }
}
