//! `ostler image rm`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which image.
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Name, or hash, or the beginning of the hash.
    #[arg(value_name = "IMAGE")]
    image: String,
}

impl Rm {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let image = session.client.image(super::hash(&self.image)).await?;
        session.client.remove_image(&image.hash).await?;
        session.out.done(&image.tag, "removed")
    }
}
