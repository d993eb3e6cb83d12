//! `ostler token revoke`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which token.
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// Id, name, the beginning of the secret as `token list` shows it, or the end of the id.
    #[arg(value_name = "TOKEN")]
    which: String,
}

impl Revoke {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.token_id(&self.which).await?;
        session.client.revoke_token(id).await?;
        session.out.done(&id, "revoked")
    }
}
