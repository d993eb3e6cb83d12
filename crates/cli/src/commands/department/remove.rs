//! `ostler department remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which department.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Id, name, or the end of the id.
    #[arg(value_name = "DEPARTMENT")]
    department: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.department_id(&self.department).await?;
        session.client.remove_department(id).await?;
        session.out.done(&id, "removed")
    }
}
