//! `ostler agent exec`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::{duration, pair, stdin_text};
use ostler_client::ExecItem;
use ostler_contracts::{ExecAgent, ExecEnd};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Seconds for which the program waits for a connection that broke to be taken up again.
const GRACE: u64 = 60;

/// What is executed, and where.
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    /// Ended by force after this time, such as 30s or 5m, at most 1h; 60s when absent.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Environment, over that of the configuration; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Give the program what this command reads on its standard input, up to 1 MiB.
    #[arg(long)]
    stdin: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        let out = session.out;
        let command = ExecAgent {
            command: self.command,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            stdin: if self.stdin { Some(stdin_text()?) } else { None },
            timeout_seconds: self.timeout.map(|timeout| timeout.as_secs()),
            base64: !out.json,
            grace_seconds: GRACE,
        };
        let mut exec = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::CANCELLED),
            exec = session.client.exec_agent(id, &command) => exec?,
        };
        let to_the_end = async {
            loop {
                match exec.next().await? {
                    ExecItem::Output(line) if out.json => out.line(&serde_json::json!({ "log": line }))?,
                    ExecItem::Output(line) => session.write_log(&line)?,
                    ExecItem::End(end) => return Ok::<_, CliError>(end.unwrap_or_default()),
                }
            }
        };
        let ended = tokio::select! {
            () = stopped() => None,
            end = to_the_end => Some(end),
        };
        match ended {
            Some(Ok(end)) => return report(session, &end),
            Some(Err(CliError::Client(error))) => return Err(error.into()),
            // It must not go on for those who do not read it.
            Some(Err(_)) | None => {}
        }
        if let Some(exec_id) = exec.exec_id() {
            session.client.end_agent_program(id, exec_id).await?;
        }
        match ended {
            Some(Err(error)) => Err(error),
            _ => Ok(Exit::CANCELLED),
        }
    }
}

/// Returns when this command is told to end.
async fn stopped() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn report(session: &Session, end: &ExecEnd) -> Outcome {
    if session.out.json {
        session.out.line(&serde_json::json!({ "exit": end }))?;
    }
    if let Some(error) = &end.error {
        session.out.note(&format!("ostler: {error}"));
        return Ok(Exit::FAILED);
    }
    if end.timed_out {
        session
            .out
            .note("ostler: the program was ended by its time-out; --timeout gives it longer");
        return Ok(Exit::TIMED_OUT);
    }
    Ok(Exit::of_program(end.exit_code, end.signal))
}
