//! `ostler user show`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::Fields;
use crate::when::ago;

/// Which user.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, name, or the end of the id.
    #[arg(value_name = "USER")]
    user: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.user_id(&self.user).await?;
        let user = session.client.user(id).await?;
        session.out.show(&user, || {
            Fields::new(session.out.colour)
                .add("User", user.id)
                .add("Name", &user.name)
                .opt("Email", user.email.as_ref())
                .opt("Department", user.department_id)
                .add("Roles", user.roles.join(" "))
                .opt("Disabled", user.disabled_at.map(ago))
                .add("Created", ago(user.created_at))
                .render()
        })
    }
}
