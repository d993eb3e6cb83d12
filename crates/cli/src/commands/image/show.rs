//! `ostler image show`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which image.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Name, or hash, or the beginning of the hash.
    #[arg(value_name = "IMAGE")]
    image: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let image = session.client.image(super::hash(&self.image)).await?;
        session.out.show(&image, || super::fields(&image, session.out.colour))
    }
}
