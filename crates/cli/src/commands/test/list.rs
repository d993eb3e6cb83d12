//! `ostler test list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::{ago, between};
use ostler_client::PlanQuery;
use ostler_contracts::PlanStatus;

/// Which plans.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only of this name.
    #[arg(long)]
    name: Option<String>,
    /// Only of this project.
    #[arg(short, long)]
    project: Option<String>,
    /// Only those that stand like this: running, passed, failed or cancelled.
    #[arg(long, value_parser = status)]
    status: Option<PlanStatus>,
    /// At most this many, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

fn status(text: &str) -> Result<PlanStatus, String> {
    use PlanStatus::{Cancelled, Failed, Passed, Running};
    let found = [Running, Passed, Failed, Cancelled]
        .into_iter()
        .find(|status| status.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is not running, passed, failed or cancelled"))
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let project = match &self.project {
            Some(text) => Some(session.project_id(text).await?),
            None => None,
        };
        let query = PlanQuery {
            name: self.name,
            project,
            status: self.status,
            before: None,
            limit: Some(self.limit),
        };
        let plans = session.client.plans(&query).await?;
        let columns = ["ID", "NAME", "STATUS", "TESTS", "CREATED", "TOOK"];
        session.out.list(&plans, columns, "no plans", |plan| {
            [
                plan.id.to_string(),
                plan.name.clone(),
                plan.status.as_str().to_owned(),
                super::counters(plan),
                ago(plan.created_at),
                between(plan.created_at, plan.finished_at),
            ]
        })
    }
}
