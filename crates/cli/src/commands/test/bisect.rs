//! `ostler test bisect`: which commit broke a test.
//!
//! The commits come from a clone on this machine; each is tried by a plan of its own on the server, so that it is run as
//! it always is. What cannot be tried (it is skipped, lost or cancelled) is neither good nor bad: its neighbours are tried.

use super::run::{Format, plan_text, refused};
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use ostler_client::{ClientError, PlanChoices};
use ostler_contracts::PlanStatus;
use ostler_domain::{PlanId, RunStatus};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Between two looks at a plan.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server that is away is waited for.
const PATIENCE: u32 = 120;

/// Which test, and between which commits.
#[derive(Debug, clap::Args)]
pub struct Bisect {
    /// The plan; it has a project.
    #[arg(value_name = "FILE")]
    file: String,
    /// What it is written in; by the ending of its name when absent.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// A commit on which the test passes.
    #[arg(long, value_name = "COMMIT")]
    good: String,
    /// A later one on which it fails.
    #[arg(long, value_name = "COMMIT")]
    bad: String,
    /// The test by its name, or by a part of it that no other has.
    #[arg(short, long, value_name = "TEST")]
    test: String,
    /// A clone of the project's repository.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repository: PathBuf,
}

/// How a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Good,
    Bad,
    /// It says nothing.
    Unknown,
}

impl Is {
    const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a row of commits of which the first is good and the last is bad.
#[derive(Debug)]
struct Search(Vec<Option<Is>>);

impl Search {
    fn of(commits: usize) -> Self {
        let mut known = vec![None; commits];
        if let Some(first) = known.first_mut() {
            *first = Some(Is::Good);
        }
        if let Some(last) = known.last_mut() {
            *last = Some(Is::Bad);
        }
        Self(known)
    }

    /// The last good one and the first bad one after it.
    fn ends(&self) -> (usize, usize) {
        let bad = self.0.iter().position(|is| *is == Some(Is::Bad));
        let bad = bad.unwrap_or(self.0.len());
        let good = self.0[..bad].iter().rposition(|is| *is == Some(Is::Good));
        (good.unwrap_or(0), bad)
    }

    /// The one to try next: of those between the ends of which nothing is known, the one nearest to the middle.
    fn next(&self) -> Option<usize> {
        let (good, bad) = self.ends();
        let middle = usize::midpoint(good, bad);
        (good + 1..bad)
            .filter(|at| self.0[*at].is_none())
            .min_by_key(|at| at.abs_diff(middle))
    }
}

impl Bisect {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let (text, content_type) = plan_text(&self.file, self.format)?;
        let commits = self.commits().await?;
        let mut search = Search::of(commits.len());
        let mut tried = Vec::new();
        while let Some(at) = search.next() {
            let commit = &commits[at];
            let choices = PlanChoices {
                only: vec![self.test.clone()],
                revision: Some(commit.clone()),
                ..PlanChoices::default()
            };
            let submitted = session
                .client
                .submit_plan(text.clone(), content_type, &choices)
                .await;
            let plan = match submitted {
                Ok(plan) => plan.id,
                Err(error) => return refused(session, &self.file, &text, error),
            };
            let is = self.is(session, plan).await?;
            search.0[at] = Some(is);
            let line = format!("{} {} ({plan})", short(commit), is.word());
            session.out.note(&line);
            tried.push(serde_json::json!({ "commit": commit, "is": is.word(), "plan": plan }));
        }
        let (good, bad) = search.ends();
        let subject = self.git(&["log", "-1", "--format=%s", &commits[bad]]).await?;
        let unknown = &commits[good + 1..bad];
        let found = serde_json::json!({
            "first_bad": commits[bad], "subject": subject, "last_good": commits[good], "unknown": unknown, "tried": tried,
        });
        session.out.show(&found, || match unknown.len() {
            0 => format!("{} is the first bad commit: {subject}\n", commits[bad]),
            many => format!(
                "the first bad commit is {} ({subject}) or one of the {many} before it that could not be tried\n",
                commits[bad]
            ),
        })?;
        Ok(Exit::OK)
    }

    /// The commits from the good one to the bad one, both among them.
    async fn commits(&self) -> Result<Vec<String>> {
        let good = self.commit(&self.good).await?;
        let bad = self.commit(&self.bad).await?;
        let range = format!("{good}..{bad}");
        let between = self
            .git(&[
                "rev-list",
                "--reverse",
                "--first-parent",
                "--ancestry-path",
                &range,
            ])
            .await?;
        let commits: Vec<String> = [good]
            .into_iter()
            .chain(between.lines().map(str::to_owned))
            .collect();
        if commits.len() < 2 {
            return Err(CliError::Usage(format!(
                "{} does not come after {}",
                self.bad, self.good
            )));
        }
        Ok(commits)
    }

    async fn commit(&self, name: &str) -> Result<String> {
        let commit = format!("{name}^{{commit}}");
        self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])
            .await
            .map_err(|_| CliError::Usage(format!("`{name}` is no commit of {}", self.repository.display())))
    }

    async fn git(&self, arguments: &[&str]) -> Result<String> {
        let failed = |why: String| CliError::Failed(format!("git {}: {why}", arguments[0]));
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.repository)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits for the end of a plan, and says how its test came out.
    async fn is(&self, session: &Session, plan: PlanId) -> Result<Is> {
        let mut away = 0;
        loop {
            match session.client.plan(plan).await {
                Ok(plan) if plan.status != PlanStatus::Running => break,
                Ok(_) => away = 0,
                Err(error) => again(error, &mut away)?,
            }
            tokio::time::sleep(LOOK).await;
        }
        let test = session.test_named(plan, &self.test).await?;
        Ok(match test.status {
            RunStatus::Succeeded => Is::Good,
            RunStatus::Failed | RunStatus::TimedOut => Is::Bad,
            _ => Is::Unknown,
        })
    }
}

fn again(error: ClientError, away: &mut u32) -> Result<()> {
    *away += 1;
    if error.is_transient() && *away < PATIENCE {
        Ok(())
    } else {
        Err(error.into())
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where everything from `first_bad` on is bad and these say nothing. Returns what is left and how many were
    /// tried.
    fn searched(commits: usize, first_bad: usize, unknown: &[usize]) -> ((usize, usize), usize) {
        let mut search = Search::of(commits);
        let mut tried = 0;
        while let Some(at) = search.next() {
            tried += 1;
            search.0[at] = Some(match at {
                at if unknown.contains(&at) => Is::Unknown,
                at if at >= first_bad => Is::Bad,
                _ => Is::Good,
            });
        }
        (search.ends(), tried)
    }

    #[test]
    fn the_first_bad_one_is_found_in_a_few_tries() {
        for commits in 2..70 {
            for first_bad in 1..commits {
                let (ends, tried) = searched(commits, first_bad, &[]);
                assert_eq!(ends, (first_bad - 1, first_bad), "{commits}");
                assert!(tried <= commits.ilog2() as usize + 1, "{tried} of {commits}");
            }
        }
    }

    #[test]
    fn what_says_nothing_is_passed_over() {
        assert_eq!(searched(10, 7, &[5]).0, (6, 7));
        assert_eq!(searched(10, 7, &[6, 5]).0, (4, 7));
        assert_eq!(searched(10, 9, &[1, 2, 3, 4, 5, 6, 7, 8]).0, (0, 9));
    }
}
