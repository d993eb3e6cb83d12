//! `ostler test logs`.

use super::story::Verdict;
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::table::one_line;
use ostler_contracts::{LogLine, TestView};

/// Which logs.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
    /// The test by its name, or by a part of it that no other has; all tests when absent.
    #[arg(value_name = "TEST")]
    test: Option<String>,
    /// Only those that did not pass.
    #[arg(long, conflicts_with = "test")]
    failed: bool,
    /// Which run of a test that was tried again, from 1; the last one when absent.
    #[arg(long, value_name = "N", requires = "test")]
    run: Option<u32>,
    /// Go on until the run has ended.
    #[arg(short, long, requires = "test")]
    follow: bool,
}

impl Logs {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let plan = session.plan_id(&self.plan).await?;
        let Some(text) = &self.test else {
            let tests = session.client.all_plan_tests(plan).await?;
            let bad = |test: &TestView| Verdict::of(test).is_some_and(Verdict::is_bad);
            for test in tests.iter().filter(|test| !self.failed || bad(test)) {
                session.out.note(&format!("==> {} <==", one_line(&test.name)));
                print(session, test).await?;
            }
            return Ok(Exit::OK);
        };
        let mut test = session.test_named(plan, text).await?;
        if let Some(ordinal) = self.run {
            let mut runs = session.runs_of_test(plan, &test.name).await?;
            let Some(at) = runs.iter().position(|run| run.ordinal == ordinal) else {
                let runs = runs.len();
                let name = one_line(&test.name);
                return Err(CliError::Usage(format!(
                    "{name} has no run {ordinal}; it has {runs}"
                )));
            };
            test = runs.swap_remove(at);
        }
        if self.follow {
            let out = session.out;
            session
                .follow_log(test.run_id, 0, !out.json, |line| write(session, &test, line))
                .await?;
            return Ok(Exit::OK);
        }
        print(session, &test).await?;
        Ok(Exit::OK)
    }
}

async fn print(session: &Session, test: &TestView) -> Result<()> {
    let mut lines = session.client.run_log(test.run_id, 0, !session.out.json).await?;
    while let Some(line) = lines.next().await? {
        write(session, test, &line)?;
    }
    Ok(())
}

fn write(session: &Session, test: &TestView, line: &LogLine) -> Result<()> {
    if session.out.json {
        return session
            .out
            .line(&serde_json::json!({ "test": test.name, "run_id": test.run_id, "log": line }));
    }
    session.write_log(line)
}
