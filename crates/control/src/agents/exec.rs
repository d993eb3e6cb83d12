//! Programs that the holder of an agent starts.
//!
//! A program lives as long as somebody reads what it writes: a reader that is dropped ends it, and so does its time-out.

use super::{check_env, config_env, guest_error};
use crate::guest::{Guest, GuestError};
use crate::{Caller, Control, ControlError, LogStream, Result};
use bytes::Bytes;
use ostler_contracts::ExecEnd;
use ostler_domain::{CommandSpec, Sandbox, SandboxId, SandboxStatus, Timestamp};
use ostler_guest_protocol::v1::{Exited, StartRequest, exec_event};
use ostler_store::{Filter, Op, StoreExt};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Longest time-out of a program.
pub const MAX_EXEC: Duration = Duration::from_secs(3600);
const DEFAULT: Duration = Duration::from_secs(60);
/// Time that a program has to end by itself when it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// For what a program still writes while it is ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Output that the sandbox keeps for a reader that is slower than the program, bytes.
const KEEP: u64 = 256 << 20;
/// Pieces of output on their way to the reader.
const PIECES: usize = 16;
/// Silence after which the sandbox is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(15);
/// What the ids of these programs begin with; runs use their own ids.
const PREFIX: &str = "agent.";

/// A program that the holder of an agent starts.
#[derive(Debug, Clone, Default)]
pub struct AgentCommand {
    /// Program, environment, directory and input.
    pub command: CommandSpec,
    /// Time until it is ended by force: 60 s when absent, at most [`MAX_EXEC`].
    pub timeout: Option<Duration>,
}

/// What comes from a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentOutput {
    /// A piece of output.
    Piece {
        /// Number from 1, without gaps.
        seq: u64,
        /// When, by the sandbox's clock.
        at: Timestamp,
        /// Where from.
        stream: LogStream,
        /// Exact bytes.
        bytes: Bytes,
    },
    /// It has ended; nothing follows.
    Ended(ExecEnd),
}

impl Control {
    /// Starts a program. Its output is read from the channel, which ends after [`AgentOutput::Ended`]; dropping the
    /// channel ends the program with all of its children.
    pub async fn exec_agent(
        &self,
        caller: &Caller,
        id: SandboxId,
        new: AgentCommand,
    ) -> Result<mpsc::Receiver<AgentOutput>> {
        let sandbox = self.live_agent(caller, id).await?;
        let (limit, request) = checked(new, &sandbox)?;
        let guest = self.guest(&sandbox)?;
        let (output, reader) = mpsc::channel(PIECES);
        let (reply, started) = oneshot::channel();
        // A task of its own, so that a caller who goes away during the start leaves no program behind.
        tokio::spawn(async move {
            let exec = request.exec_id.clone();
            let answer = guest.start(request).await;
            let refused = matches!(answer, Err(GuestError::Refused(_)));
            let gone = reply.send(answer).is_err();
            if gone && !refused {
                end(&guest, &exec).await;
            } else if !refused {
                // After an answer that did not come the reader is gone as well, which ends what may have started.
                relay(&guest, &exec, limit, &output).await;
            }
        });
        match started.await {
            Ok(Ok(())) => Ok(reader),
            Ok(Err(error)) => Err(guest_error(error)),
            Err(_) => Err(ControlError::Unavailable("the server is being stopped".into())),
        }
    }

    /// Ends the programs that an earlier life of this server started for holders of agents: their readers are gone.
    /// To be called at start. Returns how many there were.
    pub async fn end_agent_programs(&self) -> Result<usize> {
        let held = Filter::by("server_id", self.parts.server_id)
            .and("for_run", Op::Eq, false)
            .and("status", Op::Eq, SandboxStatus::Running);
        let mut ended = 0;
        for sandbox in self.parts.store.list::<Sandbox>(held).await? {
            let guest = self.guest(&sandbox)?;
            let programs = guest.programs().await.unwrap_or_default();
            for exec in programs.keys().filter(|exec| exec.starts_with(PREFIX)) {
                end(&guest, exec).await;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

fn checked(new: AgentCommand, sandbox: &Sandbox) -> Result<(Duration, StartRequest)> {
    let AgentCommand { command, timeout } = new;
    let limit = timeout.unwrap_or(DEFAULT);
    if limit.is_zero() || limit > MAX_EXEC {
        return Err(ControlError::Invalid(format!(
            "the time-out must be from 1 to {} seconds; what takes longer is a run",
            MAX_EXEC.as_secs()
        )));
    }
    if command.argv.first().is_none_or(String::is_empty) {
        return Err(ControlError::Invalid(
            "a program is needed; give it after `--`".into(),
        ));
    }
    let cwd = command.cwd.unwrap_or_default();
    if command.argv.iter().any(|word| word.contains('\0')) || cwd.contains('\0') {
        return Err(ControlError::Invalid("a command cannot hold a zero byte".into()));
    }
    let mut env = config_env(&sandbox.config)?;
    check_env(&command.env)?;
    env.extend(command.env);
    let request = StartRequest {
        exec_id: format!("{PREFIX}{:032x}", rand::random::<u128>()),
        argv: command.argv,
        env: env.into_iter().collect(),
        cwd,
        stdin: command.stdin.unwrap_or_default().into_bytes().into(),
        keep_bytes: KEEP,
        ..StartRequest::default()
    };
    Ok((limit, request))
}

/// Passes output on until the program has ended, its time is over or nobody reads.
async fn relay(guest: &Guest, exec: &str, limit: Duration, output: &mpsc::Sender<AgentOutput>) {
    let mut next = 1;
    let ended = tokio::select! {
        biased;
        () = output.closed() => {
            end(guest, exec).await;
            return;
        }
        ended = follow(guest, exec, &mut next, output) => ended.map(|exited| exec_end(&exited, false)),
        () = tokio::time::sleep(limit) => {
            kill(guest, exec).await;
            match tokio::time::timeout(LAST_WORDS, follow(guest, exec, &mut next, output)).await {
                Ok(ended) => ended.map(|exited| exec_end(&exited, true)),
                Err(_) => Ok(ExecEnd { signal: Some(9), timed_out: true, ..ExecEnd::default() }),
            }
        }
    };
    let ended = ended.unwrap_or_else(|error| ExecEnd {
        error: Some(error.to_string()),
        ..ExecEnd::default()
    });
    if ended.error.is_some() {
        kill(guest, exec).await;
    }
    // A reader that stands still has its time, too: its program is over.
    let _ = output.send_timeout(AgentOutput::Ended(ended), limit).await;
    // Best effort: what the guest still keeps of it ends with the agent.
    let _ = guest.release(exec).await;
}

/// A broken connection is taken up again after the last piece; a guest that does not come back within a few tries is the
/// error.
async fn follow(
    guest: &Guest,
    exec: &str,
    next: &mut u64,
    output: &mpsc::Sender<AgentOutput>,
) -> Result<Exited, GuestError> {
    let mut failures = 0;
    loop {
        match guest.attach(exec, *next).await {
            Ok(mut events) => loop {
                // Silence is normal; a guest that does not answer is not.
                let event = match tokio::time::timeout(SILENCE, events.message()).await {
                    Err(_) if guest.healthy().await => continue,
                    Err(_) | Ok(Err(_) | Ok(None)) => break,
                    Ok(Ok(Some(event))) => event,
                };
                failures = 0;
                *next = event.seq.saturating_add(1);
                let (stream, bytes) = match event.event {
                    Some(exec_event::Event::Exited(exited)) => return Ok(exited),
                    Some(exec_event::Event::Stdout(bytes)) => (LogStream::Stdout, bytes),
                    Some(exec_event::Event::Stderr(bytes)) => (LogStream::Stderr, bytes),
                    Some(exec_event::Event::Dropped(up_to)) => (
                        LogStream::Ostler,
                        Bytes::from(format!(
                            "output up to piece {up_to} was not read in time and is gone\n"
                        )),
                    ),
                    None => continue,
                };
                let piece = AgentOutput::Piece {
                    seq: event.seq,
                    at: Timestamp(event.time_us),
                    stream,
                    bytes,
                };
                // Nobody reads any more: whoever waits for this future notices it as well.
                if output.send(piece).await.is_err() {
                    return Err(GuestError::Unreachable("its output is not read".into()));
                }
            },
            Err(error @ GuestError::Refused(_)) => return Err(error),
            Err(error) if failures >= 5 => return Err(error),
            Err(_) => {}
        }
        failures += 1;
        if failures > 5 {
            return Err(GuestError::Unreachable(
                "the connection broke again and again".into(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50 << failures)).await;
    }
}

async fn kill(guest: &Guest, exec: &str) {
    if let Err(error) = guest.kill(exec, GRACE).await {
        tracing::warn!(%error, exec, "a program of an agent could not be ended; it ends with the agent");
    }
}

/// Ends a program of which nobody hears any more.
async fn end(guest: &Guest, exec: &str) {
    kill(guest, exec).await;
    // Until its end is known the guest does not forget it.
    let over = Instant::now() + LAST_WORDS;
    while guest.release(exec).await.is_err() && Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn exec_end(exited: &Exited, timed_out: bool) -> ExecEnd {
    let signalled = exited.signal != 0;
    let failed = !exited.start_error.is_empty();
    ExecEnd {
        exit_code: (!signalled).then_some(exited.code),
        signal: signalled.then_some(exited.signal),
        timed_out,
        error: failed.then(|| format!("the program could not be started: {}", exited.start_error)),
    }
}
