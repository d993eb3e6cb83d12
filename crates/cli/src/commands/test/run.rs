//! `ostler test run`.

use super::follow::{CtrlC, FollowArguments, follow};
use super::problems::Problems;
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::input::file_text;
use crate::table::Colour;
use ostler_client::ClientError;
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
    follow: FollowArguments,
}

/// What plans are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
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
        let format = match self.format {
            Some(format) => format,
            None => Format::of(&self.file)?,
        };
        let text = file_text(&self.file, MAX_PLAN)?;
        let files = self.follow.reports.open()?;
        let submitted = session
            .client
            .submit_plan(text.clone(), format.content_type())
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
fn refused(session: &Session, file: &str, text: &str, error: ClientError) -> Outcome {
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
