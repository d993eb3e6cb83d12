//! `ostler tenant remove`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which tenant.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Id, name, or the end of the id.
    #[arg(value_name = "TENANT")]
    tenant: String,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.tenant_id(&self.tenant).await?;
        session.client.remove_tenant(id).await?;
        session.out.done(&id, "removed")
    }
}
