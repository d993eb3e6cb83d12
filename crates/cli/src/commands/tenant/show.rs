//! `ostler tenant show`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::Fields;
use crate::when::ago;

/// Which tenant.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, name, or the end of the id.
    #[arg(value_name = "TENANT")]
    tenant: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.tenant_id(&self.tenant).await?;
        let tenant = session.client.tenant(id).await?;
        session.out.show(&tenant, || {
            Fields::new(session.out.colour)
                .add("Tenant", tenant.id)
                .add("Name", &tenant.name)
                .add("Created", ago(tenant.created_at))
                .render()
        })
    }
}
