//! `ostler test show`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_domain::RunStatus;

/// Which plan.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
    /// Only tests in this state: queued, running, succeeded, failed, timed_out, cancelled, lost or skipped; may be
    /// repeated.
    #[arg(long)]
    status: Vec<RunStatus>,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.plan_id(&self.plan).await?;
        let plan = session.client.plan(id).await?;
        let mut tests = session.client.all_plan_tests(id).await?;
        tests.retain(|test| self.status.is_empty() || self.status.contains(&test.status));
        let all = serde_json::json!({ "plan": plan, "tests": tests });
        session.out.show(&all, || {
            let colour = session.out.colour;
            format!(
                "{}\n{}",
                super::fields(&plan, colour),
                super::table(&tests, colour)
            )
        })
    }
}
