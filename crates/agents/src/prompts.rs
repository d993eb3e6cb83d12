//! Prompts from templates.
//!
//! A template that names something that is not there is an error, never an empty text: an agent that is told half of its
//! task does the wrong thing.

use crate::AgentError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

/// File name and text of each prompt.
const EMBEDDED: [(&str, &str); 3] = [
    ("planner.md", include_str!("../prompts/planner.md")),
    ("worker.md", include_str!("../prompts/worker.md")),
    ("feedback.md", include_str!("../prompts/feedback.md")),
];

/// What the planner is told: template `planner.md`.
#[derive(Debug, Clone, Serialize)]
pub struct PlannerPrompt<'a> {
    /// The task's title.
    pub title: &'a str,
    /// The task's description; may be empty.
    pub description: &'a str,
    /// The project's name.
    pub project: &'a str,
    /// The branch that work is merged into.
    pub default_branch: &'a str,
    /// The epic that exists already, to be filled and closed.
    pub epic: &'a str,
    /// The file of standing instructions that this kind of agent reads, if it reads one.
    pub instruction_file: Option<&'a str>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// What went wrong in the attempt before, if there was one.
    pub feedback: Option<&'a str>,
}

/// What a worker is told at its first attempt or in a new session: template `worker.md`.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerPrompt<'a> {
    /// The title of the task that this is part of.
    pub task_title: &'a str,
    /// The subtask's title.
    pub title: &'a str,
    /// What is to be done; may be empty.
    pub spec: &'a str,
    /// How; may be empty.
    pub plan: &'a str,
    /// The project's name.
    pub project: &'a str,
    /// The branch that work is merged into.
    pub default_branch: &'a str,
    /// The branch that is checked out.
    pub branch: &'a str,
    /// The issue to be closed at the end.
    pub issue: &'a str,
    /// The commands that decide whether the work is accepted, as one would type them.
    pub checks: &'a [String],
    /// The file of standing instructions that this kind of agent reads, if it reads one.
    pub instruction_file: Option<&'a str>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// What went wrong in the attempt before, if there was one.
    pub feedback: Option<&'a str>,
}

/// What a worker is told when its session goes on: template `feedback.md`.
#[derive(Debug, Clone, Serialize)]
pub struct FeedbackPrompt<'a> {
    /// The subtask's title.
    pub title: &'a str,
    /// The issue to be closed at the end.
    pub issue: &'a str,
    /// The branch that is checked out.
    pub branch: &'a str,
    /// The commands that decide whether the work is accepted, as one would type them.
    pub checks: &'a [String],
    /// What went wrong; none when the attempt before only ended too early.
    pub feedback: Option<&'a str>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
}

/// The prompts, ready to be filled.
#[derive(Debug)]
pub struct Prompts(Environment<'static>);

impl Prompts {
    /// The texts that come with Ostler.
    pub fn embedded() -> Result<Self, AgentError> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_syntax(syntax()?);
        // Prompts are plain text: nothing in a task's words is to be escaped.
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        for (name, text) in EMBEDDED {
            env.add_template(name, text)
                .map_err(|source| AgentError::Template {
                    name: name.to_owned(),
                    source,
                })?;
        }
        Ok(Self(env))
    }

    /// The planner's prompt.
    pub fn planner(&self, prompt: &PlannerPrompt<'_>) -> Result<String, AgentError> {
        self.render("planner.md", prompt)
    }

    /// The worker's prompt.
    pub fn worker(&self, prompt: &WorkerPrompt<'_>) -> Result<String, AgentError> {
        self.render("worker.md", prompt)
    }

    /// The prompt with which a worker's session goes on.
    pub fn feedback(&self, prompt: &FeedbackPrompt<'_>) -> Result<String, AgentError> {
        self.render("feedback.md", prompt)
    }

    fn render(&self, name: &str, context: impl Serialize) -> Result<String, AgentError> {
        let rendered = self
            .0
            .get_template(name)
            .and_then(|template| template.render(Serde(context)));
        rendered.map_err(|source| AgentError::Template {
            name: name.to_owned(),
            source,
        })
    }
}

/// Lines that hold nothing but a block leave no empty line behind, so that templates can be laid out readably.
fn syntax() -> Result<SyntaxConfig, AgentError> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|source| AgentError::Template {
            name: "*.md".to_owned(),
            source,
        })
}
