//! `ostler credential rotate-key`.

use crate::commands::Outcome;
use crate::context::Session;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct RotateKey {}

impl RotateKey {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let done = session.client.rotate_credential_key().await?;
        session.out.show(&done, || {
            format!("{} credentials are sealed with the key {}\n", done.credentials, done.key_id)
        })
    }
}
