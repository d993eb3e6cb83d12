//! `ostler test rerun`.

use super::follow::{CtrlC, FollowArguments, follow};
use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use ostler_contracts::RerunPlan;

/// Which tests.
#[derive(Debug, clap::Args)]
pub struct Rerun {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
    /// Only those that did not pass.
    #[arg(long)]
    failed: bool,
    /// Only submit the new plan, and print its id.
    #[arg(short, long, visible_alias = "no-wait", conflicts_with_all = ["junit", "tap", "jsonl"])]
    detach: bool,
    #[command(flatten)]
    follow: FollowArguments,
}

impl Rerun {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.plan_id(&self.plan).await?;
        let files = self.follow.reports.open()?;
        let plan = session
            .client
            .rerun_plan(id, RerunPlan { failed: self.failed })
            .await?;
        if self.detach {
            session.out.show(&plan, || format!("{}\n", plan.id))?;
            session.out.note(&format!(
                "submitted; `ostler test watch {}` shows how it goes",
                plan.id
            ));
            return Ok(Exit::OK);
        }
        follow(session, plan, &self.follow, files, CtrlC::Cancels).await
    }
}
