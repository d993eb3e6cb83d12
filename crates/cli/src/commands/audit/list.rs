//! `ostler audit list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;
use ostler_client::AuditQuery;
use ostler_domain::AuditId;

/// Which entries.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only what this user (id or name), service token or run did.
    #[arg(long)]
    actor: Option<String>,
    /// Only this, such as project.create.
    #[arg(long)]
    action: Option<String>,
    /// Only to this kind of object, such as project.
    #[arg(long)]
    kind: Option<String>,
    /// Only to this object, by id or name.
    #[arg(long)]
    object: Option<String>,
    /// Only later ones than this entry, oldest first.
    #[arg(long, value_name = "ENTRY")]
    after: Option<AuditId>,
    /// Only earlier ones than this entry.
    #[arg(long, value_name = "ENTRY")]
    before: Option<AuditId>,
    /// At most this many, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let query = AuditQuery {
            actor: self.actor,
            action: self.action,
            kind: self.kind,
            object: self.object,
            after: self.after,
            before: self.before,
            limit: Some(self.limit),
        };
        let entries = session.client.audit_log(&query).await?;
        let columns = ["ID", "WHEN", "ACTOR", "ACTION", "OBJECT", "DETAILS"];
        session.out.list(&entries, columns, "no entries", |entry| {
            let details = match &entry.details {
                serde_json::Value::Null => String::new(),
                details => details.to_string(),
            };
            [
                entry.id.to_string(),
                ago(entry.at),
                entry.actor.clone(),
                entry.action.clone(),
                entry.object.clone(),
                details,
            ]
        })
    }
}
