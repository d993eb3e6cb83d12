//! `ostler run submit`.

use super::requirements::RequirementArguments;
use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::input::{duration, pair, stdin_text};
use ostler_contracts::{RunView, SubmitRun};
use ostler_domain::{RunId, RunStatus};
use std::convert::Infallible;
use std::time::Duration;

/// After this time in the queue, a run that is followed is said to wait, and why.
const QUEUED_LONG: Duration = Duration::from_secs(3);

/// What is executed, and where.
#[derive(Debug, clap::Args)]
pub struct Submit {
    /// Higher goes first; -1000 to 1000.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Ended by force after this time, such as 30s or 5m; the server's default when absent.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Environment; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Give the program what this command reads on its standard input, up to 1 MiB.
    #[arg(long)]
    stdin: bool,
    /// Follow the log, and end with the program's own code.
    #[arg(short, long)]
    follow: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    requirements: RequirementArguments,
}

impl Submit {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let new = SubmitRun {
            command: self.command,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            stdin: if self.stdin { Some(stdin_text()?) } else { None },
            requirements: self.requirements.into(),
            priority: self.priority,
            timeout_seconds: self.timeout.map(|timeout| timeout.as_secs()),
        };
        let run = session.client.submit_run(&new).await?;
        if self.follow {
            return follow(session, &run).await;
        }
        session.out.show(&run, || format!("{}\n", run.id))?;
        session.out.note(&format!("queued; `ostler run logs -f {}` follows its log", run.id));
        Ok(Exit::OK)
    }
}

async fn follow(session: &Session, run: &RunView) -> Outcome {
    let (out, id) = (session.out, run.id);
    out.note(&format!("ostler: {id} is {}", run.status));
    if out.json {
        out.line(&serde_json::json!({ "run": run }))?;
    }
    let to_the_end = async {
        session
            .follow_log(id, 0, !out.json, |line| {
                if out.json { out.line(&serde_json::json!({ "log": line })) } else { session.write_log(line) }
            })
            .await
    };
    let why_not_yet = async {
        tokio::time::sleep(QUEUED_LONG).await;
        if let Some(why) = session.why_waiting(id).await {
            out.note(&format!("ostler: {id} waits: {why}"));
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        never = why_not_yet => match never {},
        ended = to_the_end => ended?,
        _ = tokio::signal::ctrl_c() => {
            out.note(&format!("ostler: {id} goes on; `ostler run cancel {id}` ends it"));
            return Ok(Exit::CANCELLED);
        }
    };
    report(session, id).await
}

/// Says how the run ended, unless its program just succeeded or failed by its own code and there is no more to say.
async fn report(session: &Session, id: RunId) -> Outcome {
    let run = session.client.run(id).await?;
    if session.out.json {
        session.out.line(&serde_json::json!({ "run": run }))?;
    }
    let own = matches!(run.status, RunStatus::Succeeded | RunStatus::Failed) && run.exit_code.is_some();
    match &run.error {
        Some(error) => {
            session.out.note(&format!("ostler: {id} {}: {error}", run.status));
        }
        _ if own => {}
        _ => session.out.note(&format!("ostler: {id} {}", run.status)),
    }
    Ok(Exit::of_run(&run))
}
