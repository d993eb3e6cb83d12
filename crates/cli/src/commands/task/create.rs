//! `ostler task create`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::input::text_or_stdin;
use ostler_contracts::CreateTask;

/// What is wanted.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Project: id, name, or the end of the id.
    #[arg(short, long)]
    project: String,
    /// Title.
    #[arg(short, long)]
    title: String,
    /// What is wanted, in words; `-` reads standard input.
    #[arg(short, long, value_name = "TEXT|-", default_value = "", hide_default_value = true)]
    description: String,
    /// Start ready subtasks and merge checked merge requests without being asked.
    #[arg(long)]
    auto: bool,
    /// Agent kind (see `ostler kinds`); the server's default when absent.
    #[arg(long, value_name = "KIND")]
    agent: Option<String>,
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let new = CreateTask {
            title: self.title,
            description: text_or_stdin(self.description)?,
            agent_kind: self.agent,
            auto: self.auto,
        };
        let project = session.project_id(&self.project).await?;
        let task = session.client.create_task(project, &new).await?;
        session.out.show(&task, || format!("{}\n", task.id))?;
        session.out.note(&format!("the task is being planned; `ostler task watch {}` shows how it goes", task.id));
        Ok(Exit::OK)
    }
}
