//! A whole task as the model plays it: the planner's turn and the workers' turns, told apart by Ostler's prompts.
//!
//! Like any script it keeps no position (see [`super::script`]), so any number of agents, attempts and servers may play
//! the same story at once, and one that starts over finds its place.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    Request, Script, Turn,
    script::{is_side_call, shell_quote},
};

/// A task's plan and what is done for each of its subtasks.
///
/// A subtask that no worker is told about is answered with HTTP 400, which ends the agent.
#[derive(Clone)]
pub struct Story {
    parts: Vec<Planned>,
    planners: Vec<Vec<Step>>,
    workers: BTreeMap<String, Vec<Vec<Step>>>,
}

/// A subtask as the planner creates it.
#[derive(Debug, Clone)]
pub struct Planned {
    title: String,
    spec: String,
    after: Vec<String>,
}

/// What an agent was told to do, read from its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The issue to be closed: for a planner the epic.
    pub issue: String,
    /// The issue's title; `None` for a planner.
    pub title: Option<String>,
    /// Number of the attempt, from 1.
    pub attempt: usize,
}

/// One answer of the model, made for an assignment.
#[derive(Clone)]
pub struct Step(Arc<dyn Fn(&Assignment) -> Turn + Send + Sync>);

impl Planned {
    /// With a title, which must be the only one of its kind in the story.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            spec: "As the title says.".to_owned(),
            after: Vec::new(),
        }
    }

    /// Waits for the part of that title.
    #[must_use]
    pub fn after(mut self, title: impl Into<String>) -> Self {
        self.after.push(title.into());
        self
    }

    /// Says what is to be done.
    #[must_use]
    pub fn spec(mut self, spec: impl Into<String>) -> Self {
        self.spec = spec.into();
        self
    }
}

impl<T: Into<String>> From<T> for Planned {
    fn from(title: T) -> Self {
        Self::new(title)
    }
}

impl Story {
    /// The planner's turn: looks at the epic's issues, makes those that are missing with `bd create`, one call each, links
    /// them with `bd dep add`, and closes the epic.
    pub fn plan<P: Into<Planned>>(parts: impl IntoIterator<Item = P>) -> Self {
        Self {
            parts: parts.into_iter().map(Into::into).collect(),
            planners: Vec::new(),
            workers: BTreeMap::new(),
        }
    }

    /// Lets the planner do this at its first attempt, and the plan at the next; called again, at its second, and so on.
    #[must_use]
    pub fn planner(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.planners.push(steps.into_iter().collect());
        self
    }

    /// What the worker on the subtask of that title does at each attempt. Called again for the same title, what it does
    /// from the second attempt on, and so on.
    #[must_use]
    pub fn worker(mut self, title: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Self {
        let attempts = self.workers.entry(title.into()).or_default();
        attempts.push(steps.into_iter().collect());
        self
    }

    fn play(&self, assignment: &Assignment, request: &Request) -> Turn {
        let steps = match &assignment.title {
            None => match self.planners.get(assignment.attempt - 1) {
                Some(steps) => steps,
                None => return self.planning(assignment, request),
            },
            Some(title) => {
                let Some(attempts) = self.workers.get(title) else {
                    return Turn::http_error(400, format!("the story has no worker for: {title}"));
                };
                &attempts[assignment.attempt.min(attempts.len()) - 1]
            }
        };
        match steps.get(request.answers()) {
            Some(step) => (step.0)(assignment),
            None => Turn::text("That is all."),
        }
    }

    /// The plan in as many answers as it takes.
    fn planning(&self, assignment: &Assignment, request: &Request) -> Turn {
        let epic = &assignment.issue;
        let results = request.tool_results();
        let Some(listed) = results.first() else {
            return Turn::bash(format!("bd list --parent {epic} --all --json"));
        };
        let mut ids = titles(listed);
        let missing: Vec<&Planned> = self
            .parts
            .iter()
            .filter(|part| !ids.contains_key(&part.title))
            .collect();
        let created = results.iter().skip(1).take(missing.len());
        for (part, result) in missing.iter().zip(created) {
            ids.insert(part.title.clone(), result.trim().to_owned());
        }
        if let Some(part) = missing.get(results.len() - 1) {
            let body = format!("## Spec\n{}\n\n## Plan\nAt once.", part.spec);
            return Turn::bash(format!(
                "bd create {} --type task --parent {epic} --description {} --silent",
                shell_quote(&part.title),
                shell_quote(&body)
            ));
        }
        match results.len() - 1 - missing.len() {
            0 => Turn::bash(self.links(&ids)),
            1 => Turn::bash(format!("bd close {epic} --reason planned")),
            _ => Turn::text("The plan is complete."),
        }
    }

    fn links(&self, ids: &BTreeMap<String, String>) -> String {
        let id = |title: &str| ids.get(title).map_or_else(|| shell_quote(title), Clone::clone);
        let links = self.parts.iter().flat_map(|part| {
            let after = part.after.iter();
            after.map(|other| format!("bd dep add {} {}", id(&part.title), id(other)))
        });
        let mut lines = vec!["true".to_owned()];
        lines.extend(links);
        lines.join("\n")
    }
}

impl Script for Story {
    fn turn(&self, request: &Request) -> Turn {
        if is_side_call(request) {
            return Turn::side_answer();
        }
        let prompt = request.prompt();
        match Assignment::read(&prompt) {
            Some(assignment) => self.play(&assignment, request),
            None => Turn::http_error(400, format!("this is no prompt of Ostler's: {prompt}")),
        }
    }
}

impl Assignment {
    /// From a prompt as Ostler comes with it: of a planner, of a worker, or with feedback.
    pub fn read(prompt: &str) -> Option<Self> {
        let attempt = prompt.split_once("This is attempt ").and_then(|(_, rest)| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            digits.and_then(|number| number.parse().ok())
        });
        let (issue, title) = if prompt.starts_with("You are the planner of ") {
            (between(prompt, "The epic `", "`")?, None)
        } else if prompt.starts_with("You are working on one issue ") {
            let heading = between(prompt, "\n# Issue ", "\n")?;
            let (issue, title) = heading.split_once(": ")?;
            (issue, Some(title.trim()))
        } else {
            let again = ["Your work on issue ", "You stopped before issue "];
            let rest = again.iter().find_map(|start| prompt.strip_prefix(start))?;
            let (issue, rest) = rest.split_once(" (\"")?;
            (issue, Some(rest.split_once("\")")?.0))
        };
        Some(Self {
            issue: issue.to_owned(),
            title: title.map(str::to_owned),
            attempt: attempt.unwrap_or(1).max(1),
        })
    }
}

impl Step {
    /// A command of the `Bash` tool.
    pub fn run(command: impl Into<String>) -> Self {
        Self::turn(Turn::bash(command))
    }

    /// A command in which `{issue}` stands for the issue's id and `{attempt}` for the number of the attempt.
    pub fn run_on_issue(command: impl Into<String>) -> Self {
        let command = command.into();
        Self::with(move |assignment| {
            let command = command
                .replace("{issue}", &assignment.issue)
                .replace("{attempt}", &assignment.attempt.to_string());
            Turn::bash(command)
        })
    }

    /// Writes a whole file, with its directories. `path` is relative to the work tree.
    pub fn write(path: &str, content: &str) -> Self {
        let (path, content) = (shell_quote(path), shell_quote(content));
        Self::run(format!(
            "mkdir -p \"$(dirname {path})\" && printf %s {content} > {path}"
        ))
    }

    /// Adds a line to a file, unless it is there.
    pub fn add_line(path: &str, line: &str) -> Self {
        let (path, line) = (shell_quote(path), shell_quote(line));
        Self::run(format!("grep -qxF {line} {path} || echo {line} >> {path}"))
    }

    /// Commits everything there is, if that is anything.
    pub fn commit(message: &str) -> Self {
        let message = shell_quote(message);
        Self::run(format!(
            "git add --all && {{ git diff --cached --quiet || git commit -m {message}; }}"
        ))
    }

    /// Closes the issue. Without this an agent's attempt counts for nothing.
    pub fn close() -> Self {
        Self::run_on_issue("bd close {issue} --reason 'It is done.'")
    }

    /// Ends the agent program from within: its shell kills its parent.
    pub fn crash() -> Self {
        Self::run("kill -9 $PPID")
    }

    /// The model API refuses, which the agent program does not try again: it fails.
    pub fn refuse() -> Self {
        Self::turn(Turn::http_error(400, "refused by the story"))
    }

    /// The model never answers.
    pub fn hang() -> Self {
        Self::turn(Turn::hang())
    }

    /// A process in a session of its own, which outlives the shell and the agent. `seconds` may be a number by which the
    /// test finds it.
    pub fn stray(seconds: u32) -> Self {
        Self::run(format!("setsid sleep {seconds} < /dev/null > /dev/null 2>&1 &"))
    }

    /// Any reaction of the model.
    pub fn turn(turn: Turn) -> Self {
        Self::with(move |_| turn.clone())
    }

    /// A reaction that depends on the assignment.
    pub fn with(turn: impl Fn(&Assignment) -> Turn + Send + Sync + 'static) -> Self {
        Self(Arc::new(turn))
    }
}

/// Ids by title, of a list in JSON.
fn titles(listed: &str) -> BTreeMap<String, String> {
    let issues: Vec<Value> = serde_json::from_str(listed.trim()).unwrap_or_default();
    let text = |issue: &Value, name: &str| issue[name].as_str().unwrap_or_default().to_owned();
    issues
        .iter()
        .map(|issue| (text(issue, "title"), text(issue, "id")))
        .collect()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = text.split_once(start)?.1;
    Some(rest.split_once(end)?.0)
}
