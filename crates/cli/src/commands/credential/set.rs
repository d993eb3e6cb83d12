//! `ostler credential set`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::input::stdin_text;
use ostler_contracts::SetCredential;
use ostler_domain::CredentialKind;

/// What is stored. The value itself comes from standard input: arguments can be seen by others on this machine.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Name; a credential of that name is replaced.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is for: github_token, model_api_key, ssh_key or generic.
    #[arg(short, long)]
    kind: CredentialKind,
}

impl Set {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let mut value = stdin_text()?;
        // The end of the line is the terminal's or the editor's; only a key file ends with one of its own.
        if self.kind != CredentialKind::SshKey {
            value.truncate(value.trim_end_matches(['\r', '\n']).len());
        }
        let new = SetCredential {
            kind: self.kind,
            value,
        };
        let stored = session.client.set_credential(&self.name, &new).await?;
        session.out.show(&stored, || format!("{}\n", stored.id))
    }
}
