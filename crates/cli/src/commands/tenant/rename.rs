//! `ostler tenant rename`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which tenant, and how it is called from now on.
#[derive(Debug, clap::Args)]
pub struct Rename {
    /// Id, name, or the end of the id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The new name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Rename {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.tenant_id(&self.tenant).await?;
        session.client.rename_tenant(id, &self.name).await?;
        session.out.done(&id, "renamed")
    }
}
