//! `ostler department rename`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which department, and how it is called from now on.
#[derive(Debug, clap::Args)]
pub struct Rename {
    /// Id, name, or the end of the id.
    #[arg(value_name = "DEPARTMENT")]
    department: String,
    /// The new name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Rename {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.department_id(&self.department).await?;
        session.client.rename_department(id, &self.name).await?;
        session.out.done(&id, "renamed")
    }
}
