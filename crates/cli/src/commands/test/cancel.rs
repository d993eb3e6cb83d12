//! `ostler test cancel`.

use crate::commands::Outcome;
use crate::context::Session;

/// Which plan.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
}

impl Cancel {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.plan_id(&self.plan).await?;
        let plan = session.client.cancel_plan(id).await?;
        session.out.show(&plan, || match plan.counters.live() {
            0 => format!("{id} {}\n", plan.status.as_str()),
            _ => format!("{id} is being cancelled\n"),
        })
    }
}
