//! `ostler test watch`.

use super::follow::{CtrlC, FollowArguments, follow};
use crate::commands::Outcome;
use crate::context::Session;

/// Which plan.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
    #[command(flatten)]
    follow: FollowArguments,
}

impl Watch {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.plan_id(&self.plan).await?;
        let files = self.follow.reports.open()?;
        let plan = session.client.plan(id).await?;
        follow(session, plan, &self.follow, files, CtrlC::Leaves).await
    }
}
