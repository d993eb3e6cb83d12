//! `ostler run cancel`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which run.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// Id, or the end of it.
    #[arg(value_name = "RUN")]
    run: String,
}

impl Cancel {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.run_id(&self.run).await?;
        let reply = session.client.cancel_run(id).await?;
        session.out.show(&reply, || {
            let what = match reply.outcome.as_str() {
                "cancelled" => "cancelled",
                "requested" => "is being ended",
                _ => "had ended already",
            };
            format!("{id} {what}\n")
        })
    }
}
