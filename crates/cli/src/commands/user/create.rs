//! `ostler user create`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_contracts::CreateUser;

/// Who it is.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name, unique within the tenant.
    #[arg(value_name = "NAME")]
    name: String,
    /// E-mail address.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Department, by id, name, or the end of the id.
    #[arg(long)]
    department: Option<String>,
    /// Role, by id, name, or the end of the id; may be repeated.
    #[arg(short, long)]
    role: Vec<String>,
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let mut new = CreateUser {
            name: self.name,
            email: self.email,
            ..CreateUser::default()
        };
        if let Some(department) = &self.department {
            new.department_id = Some(session.department_id(department).await?);
        }
        for role in &self.role {
            new.roles.push(session.role_id(role).await?);
        }
        let made = session.client.create_user(&new).await?;
        session.out.show(&made, || format!("{}\n", made.id))
    }
}
