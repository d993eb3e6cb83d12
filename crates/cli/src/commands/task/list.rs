//! `ostler task list`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::Table;
use crate::when::ago;

/// Which tasks.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only of this project; of all when absent.
    #[arg(short, long)]
    project: Option<String>,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let projects = match self.project {
            Some(text) => vec![session.client.project(session.project_id(&text).await?).await?],
            None => session.client.projects().await?,
        };
        let mut tasks = Vec::new();
        for project in &projects {
            let of_project = session.client.tasks(project.id).await?;
            tasks.extend(of_project.into_iter().map(|task| (project.name.clone(), task)));
        }
        tasks.sort_by_key(|(_, task)| std::cmp::Reverse(task.created_at));
        let views: Vec<_> = tasks.iter().map(|(_, task)| task).collect();
        session.out.show(&views, || {
            let mut table = Table::new(["ID", "PROJECT", "STATUS", "CHANGED", "TITLE"], session.out.colour);
            for (project, task) in &tasks {
                table.row([
                    task.id.to_string(),
                    project.clone(),
                    task.status.to_string(),
                    ago(task.updated_at),
                    task.title.clone(),
                ]);
            }
            table.or_empty("no tasks; create one with `ostler task create`")
        })
    }
}
