//! `ostler token list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::{ago, ago_or_dash};

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct List {}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let tokens = session.client.tokens().await?;
        let columns = ["ID", "NAME", "USER", "SECRET", "CREATED", "LAST USED", "EXPIRES", "REVOKED", "PERMISSIONS"];
        session.out.list(&tokens, columns, "no tokens", |token| {
            let permissions: Vec<String> = token.permissions.iter().map(ToString::to_string).collect();
            [
                token.id.to_string(),
                token.name.clone(),
                token.user_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                format!("{}…", token.prefix),
                ago(token.created_at),
                ago_or_dash(token.last_used_at),
                token.expires_at.map_or_else(|| "never".to_owned(), ago),
                ago_or_dash(token.revoked_at),
                permissions.join(" "),
            ]
        })
    }
}
