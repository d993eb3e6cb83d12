//! `ostler run list`.

use crate::commands::Outcome;
use crate::context::Session;
use ostler_client::RunQuery;
use ostler_domain::{RunKind, RunStatus};

/// Which runs.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only of this project.
    #[arg(short, long)]
    project: Option<String>,
    /// Only of this task.
    #[arg(short, long)]
    task: Option<String>,
    /// Only of this kind: command, planner, worker, check or test.
    #[arg(long)]
    kind: Option<RunKind>,
    /// Only in this state: queued, running, succeeded, failed, timed_out, cancelled, lost or skipped.
    #[arg(long)]
    status: Option<RunStatus>,
    /// At most this many, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let project = match &self.project {
            Some(text) => Some(session.project_id(text).await?),
            None => None,
        };
        let task = match &self.task {
            Some(text) => Some(session.task_id(text).await?),
            None => None,
        };
        let query = RunQuery {
            project,
            task,
            kind: self.kind,
            status: self.status,
            limit: Some(self.limit),
        };
        let runs = session.client.runs(query).await?;
        session.out.show(&runs, || super::table(&runs, session.out.colour))
    }
}
