//! Prompts from templates.
//!
//! The texts are data, so that a person can replace them without a new build. A template that names something that is
//! not there is an error, never an empty text: an agent that is told half of its task does the wrong thing.

use crate::AgentError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use std::path::Path;

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
        let mut prompts = Self(env);
        for (name, text) in EMBEDDED {
            prompts.add(name, text.to_owned())?;
        }
        Ok(prompts)
    }

    /// Those texts, with each replaced for which `dir` has a file: `planner.md`, `worker.md`, `feedback.md`.
    ///
    /// Fails for a file that cannot be read or compiled, and for any other `.md` file there, since its name must be a
    /// mistake. What a template names is checked by rendering it once with every field present and once with as few
    /// as possible, so that a mistake is found at start and not in the middle of a task.
    pub fn with_overrides(dir: &Path) -> Result<Self, AgentError> {
        let unreadable = |path: &Path, source| AgentError::TemplateUnreadable {
            path: path.to_owned(),
            source,
        };
        let mut prompts = Self::embedded()?;
        for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, error))? {
            let path = entry.map_err(|error| unreadable(dir, error))?.path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let Some((name, _)) = EMBEDDED.iter().find(|(name, _)| path.ends_with(name)) else {
                let known = EMBEDDED.map(|(name, _)| name).to_vec();
                return Err(AgentError::TemplateUnknown { path, known });
            };
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            prompts.add(name, text)?;
        }
        prompts.try_all()?;
        Ok(prompts)
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

    fn add(&mut self, name: &'static str, text: String) -> Result<(), AgentError> {
        self.0
            .add_template_owned(name, text)
            .map_err(|source| AgentError::Template {
                name: name.to_owned(),
                source,
            })
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

    fn try_all(&self) -> Result<(), AgentError> {
        let checks = ["make test".to_owned()];
        for full in [true, false] {
            let word = if full { "x" } else { "" };
            let some = full.then_some("x");
            let checks = if full { &checks[..] } else { &[] };
            let attempt = if full { 2 } else { 1 };
            self.planner(&PlannerPrompt {
                title: "x",
                description: word,
                project: "x",
                default_branch: "x",
                epic: "x",
                instruction_file: some,
                attempt,
                feedback: some,
            })?;
            self.worker(&WorkerPrompt {
                task_title: "x",
                title: "x",
                spec: word,
                plan: word,
                project: "x",
                default_branch: "x",
                branch: "x",
                issue: "x",
                checks,
                instruction_file: some,
                attempt,
                feedback: some,
            })?;
            self.feedback(&FeedbackPrompt {
                title: "x",
                issue: "x",
                branch: "x",
                checks,
                feedback: some,
                attempt,
            })?;
        }
        Ok(())
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
