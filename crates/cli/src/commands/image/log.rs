//! `ostler image log`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;

/// Which log.
#[derive(Debug, clap::Args)]
pub struct Log {
    /// Name, or hash, or the beginning of the hash.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Go on until the build has ended.
    #[arg(short, long)]
    follow: bool,
}

impl Log {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        super::print_log(session, super::hash(&self.image), self.follow, false).await?;
        Ok(Exit::OK)
    }
}
