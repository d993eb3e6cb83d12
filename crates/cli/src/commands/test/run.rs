//! `ostler test run`.

use super::follow::{CtrlC, FollowArguments, follow};
use super::problems::Problems;
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::input::file_text;
use crate::table::Colour;
use ostler_client::{ClientError, PlanChoices};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest plan that the server takes, bytes.
const MAX_PLAN: u64 = 16 << 20;

/// Which plan.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The plan, or `-` for standard input.
    #[arg(value_name = "FILE")]
    file: String,
    /// What it is written in; by the ending of its name when absent.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Only submit the plan, and print its id.
    #[arg(short, long, visible_alias = "no-wait", conflicts_with_all = ["junit", "tap", "jsonl"])]
    detach: bool,
    #[command(flatten)]
    choices: ChoiceArguments,
    #[command(flatten)]
    follow: FollowArguments,
}

/// What is chosen besides the text of the plan.
#[derive(Debug, clap::Args)]
pub(super) struct ChoiceArguments {
    /// Only the tests whose name contains this, and what they need; can be repeated.
    #[arg(short = 't', long = "test", value_name = "TEXT")]
    only: Vec<String>,
    /// Cancel what did not begin once a test failed, whatever the plan says.
    #[arg(long)]
    fail_fast: bool,
    /// Go on after failures, whatever the plan says.
    #[arg(long, conflicts_with = "fail_fast")]
    no_fail_fast: bool,
    /// An environment variable of all tests; without a value, the one that it has here. Can be repeated.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The commit of the plan's branch that the tests get.
    #[arg(long, value_name = "COMMIT")]
    revision: Option<String>,
}

impl ChoiceArguments {
    fn choices(self) -> Result<PlanChoices> {
        let mut env = BTreeMap::new();
        for variable in self.env {
            let (name, value) = match variable.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => match std::env::var(&variable) {
                    Ok(value) => (variable, value),
                    Err(_) => {
                        return Err(CliError::Usage(format!(
                            "`{variable}` is not set here, or is no text; say --env {variable}=VALUE"
                        )));
                    }
                },
            };
            env.insert(name, value);
        }
        let fail_fast = match (self.fail_fast, self.no_fail_fast) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        Ok(PlanChoices {
            fail_fast,
            only: self.only,
            env,
            revision: self.revision,
        })
    }
}

/// The text of a plan, and its content type.
pub(super) fn plan_text(file: &str, format: Option<Format>) -> Result<(String, &'static str)> {
    let format = match format {
        Some(format) => format,
        None => Format::of(file)?,
    };
    Ok((file_text(file, MAX_PLAN)?, format.content_type()))
}

/// What plans are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Toml,
    Yaml,
    Json,
}

impl Format {
    fn of(file: &str) -> Result<Self> {
        let ending = Path::new(file).extension().and_then(|ending| ending.to_str());
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => {
                let what = if file == "-" {
                    "of standard input"
                } else {
                    "of a file of this name"
                };
                Err(CliError::Usage(format!(
                    "the format {what} is not known; say --format toml, yaml or json"
                )))
            }
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Toml => "application/toml",
            Self::Yaml => "application/yaml",
            Self::Json => "application/json",
        }
    }
}

impl Run {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let (text, content_type) = plan_text(&self.file, self.format)?;
        let choices = self.choices.choices()?;
        let files = self.follow.reports.open()?;
        let submitted = session
            .client
            .submit_plan(text.clone(), content_type, &choices)
            .await;
        let plan = match submitted {
            Ok(plan) => plan,
            Err(error) => return refused(session, &self.file, &text, error),
        };
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

/// A plan with mistakes is a mistake of whoever wrote it, whatever else the server could have called it.
pub(super) fn refused(session: &Session, file: &str, text: &str, error: ClientError) -> Outcome {
    let ClientError::Refused(detail) = &error else {
        return Err(error.into());
    };
    let Some(problems) = Problems::of(detail.details.as_ref()) else {
        return Err(error.into());
    };
    let file = if file == "-" { "<stdin>" } else { file };
    let colour = if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        session.out.colour
    } else {
        Colour::Off
    };
    let said = if session.out.json {
        CliError::Client(error).as_json().to_string()
    } else {
        problems.render(file, text, colour)
    };
    session.out.note(said.trim_end());
    Ok(Exit::USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_the_ending() {
        for (file, wanted) in [
            ("a.toml", Some("application/toml")),
            ("dir.json/a.YML", Some("application/yaml")),
            ("a.yaml", Some("application/yaml")),
            ("a.tests.json", Some("application/json")),
            ("-", None),
            ("toml", None),
            ("a.txt", None),
        ] {
            let found = Format::of(file).ok().map(Format::content_type);
            assert_eq!(found, wanted, "{file}");
        }
    }
}
