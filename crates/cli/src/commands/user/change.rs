//! `ostler user change`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_contracts::ChangeUser;

/// Which user, and what is different from now on.
#[derive(Debug, clap::Args)]
pub struct Change {
    /// Id, name, or the end of the id.
    #[arg(value_name = "USER")]
    user: String,
    /// New name.
    #[arg(long)]
    name: Option<String>,
    /// E-mail address; nothing (`--email ""`) takes it away.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Department, by id, name, or the end of the id; nothing (`--department ""`) takes it away.
    #[arg(long)]
    department: Option<String>,
}

impl Change {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.user_id(&self.user).await?;
        let mut change = ChangeUser {
            name: self.name,
            email: self.email.map(|email| Some(email).filter(|email| !email.is_empty())),
            ..ChangeUser::default()
        };
        change.department_id = match self.department.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(department) => Some(Some(session.department_id(department).await?)),
        };
        session.client.change_user(id, &change).await?;
        session.out.done(&id, "changed")
    }
}
