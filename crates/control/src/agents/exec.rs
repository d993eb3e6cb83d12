//! Programs that the holder of an agent starts, and their output.
//!
//! Output is numbered and kept by the guest: a reader that was cut off reads on after the last piece that it has, also
//! after a restart of the server. How long a program goes on without a reader is said when it is started.

use super::programs::{self, Reading, Terms};
use super::{check_env, config_env, guest_error};
use crate::guest::{Guest, GuestError};
use crate::{Caller, Control, ControlError, LogStream, Result};
use bytes::Bytes;
use ostler_contracts::{ExecEnd, ExecView};
use ostler_domain::{CommandSpec, Sandbox, SandboxId, Timestamp};
use ostler_guest_protocol::v1::{ExecInfo, Exited, StartRequest, exec_event};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Longest time-out of a program.
pub const MAX_EXEC: Duration = Duration::from_secs(3600);
const DEFAULT: Duration = Duration::from_secs(60);
/// Output that the sandbox keeps for readers, bytes.
const KEEP: u64 = 256 << 20;
/// Pieces of output on their way to the reader.
const PIECES: usize = 16;
/// A reader that takes nothing for so long is gone.
const STANDSTILL: Duration = MAX_EXEC;
/// Silence after which the sandbox is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(15);

/// A program that the holder of an agent starts.
#[derive(Debug, Clone, Default)]
pub struct AgentCommand {
    /// Program, environment, directory and input.
    pub command: CommandSpec,
    /// Time until it is ended by force: 60 s when absent, at most [`MAX_EXEC`].
    pub timeout: Option<Duration>,
    /// Time for which it goes on when nobody reads its output, at most [`MAX_EXEC`].
    pub grace: Duration,
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

/// A program and its output. The channel ends after [`AgentOutput::Ended`]; one that is dropped counts as nobody reading.
#[derive(Debug)]
pub struct AgentProgram {
    /// Id, to read on after a lost connection.
    pub exec_id: String,
    /// What it writes.
    pub output: mpsc::Receiver<AgentOutput>,
}

impl Control {
    /// Starts a program. Without a grace period, a reader that goes away ends it with all of its children.
    pub async fn exec_agent(
        &self,
        caller: &Caller,
        id: SandboxId,
        new: AgentCommand,
    ) -> Result<AgentProgram> {
        let (terms, request) = checked(new)?;
        let sandbox = self.agent_in_use(caller, id).await?;
        // Arguments may hold what is secret.
        let details = serde_json::json!({ "program": request.argv.first() });
        self.note_act(caller, "agent.exec", id, details).await?;
        let (program, _) = self.start_program(&sandbox, terms, request).await?;
        Ok(program)
    }

    /// Reads a program of an agent from a piece on, also one that has ended. Whoever does counts as a reader.
    pub async fn read_agent_program(
        &self,
        caller: &Caller,
        id: SandboxId,
        exec_id: &str,
        from_seq: u64,
    ) -> Result<AgentProgram> {
        let sandbox = self.agent_in_use(caller, id).await?;
        let known = self.known_program(&sandbox, exec_id).await?;
        Ok(self.attach_program(&sandbox, known, from_seq)?.0)
    }

    /// The programs that run in an agent, and the last ones that ended; the newest first.
    pub async fn agent_programs(&self, caller: &Caller, id: SandboxId) -> Result<Vec<ExecView>> {
        let sandbox = self.agent_in_use(caller, id).await?;
        let known = programs::programs(&self.guest(&sandbox)?).await;
        let mut views: Vec<ExecView> = known
            .map_err(guest_error)?
            .into_iter()
            .map(programs::view)
            .collect();
        views.sort_by_key(|program| std::cmp::Reverse(program.started_at));
        Ok(views)
    }

    /// Ends a program of an agent with all of its children. One that has ended stays as it is.
    pub async fn end_agent_program(&self, caller: &Caller, id: SandboxId, exec_id: &str) -> Result<()> {
        let sandbox = self.agent_in_use(caller, id).await?;
        self.known_program(&sandbox, exec_id).await?;
        let details = serde_json::json!({ "exec_id": exec_id });
        self.note_act(caller, "agent.end_program", id, details).await?;
        programs::end(&self.guest(&sandbox)?, exec_id)
            .await
            .map_err(guest_error)
    }

    /// A program of the agent's holder; fails with `NotFound` for any other.
    pub(super) async fn known_program(&self, sandbox: &Sandbox, exec_id: &str) -> Result<ExecInfo> {
        let known = programs::programs(&self.guest(sandbox)?)
            .await
            .map_err(guest_error)?;
        known
            .into_iter()
            .find(|program| program.exec_id == exec_id)
            .ok_or_else(|| ControlError::NotFound {
                what: "program",
                id: exec_id.to_owned(),
            })
    }

    /// Starts a program under the name that its request has, and follows it.
    pub(super) async fn start_program(
        &self,
        sandbox: &Sandbox,
        terms: Terms,
        mut request: StartRequest,
    ) -> Result<(AgentProgram, Guest)> {
        let guest = self.guest(sandbox)?;
        if !request.env.is_empty() {
            self.note_secrets(sandbox.id).await?;
        }
        let mut env = config_env(&sandbox.config)?;
        env.extend(self.way_out_env(sandbox, &guest).await.map_err(guest_error)?);
        for (name, value) in env {
            request.env.entry(name).or_insert(value);
        }
        request.keep_bytes = KEEP;
        let (exec, id) = (request.exec_id.clone(), sandbox.id);
        let reading = self.enter_program(id, &exec, request.terminal.is_some())?;
        let (output, reader) = mpsc::channel(PIECES);
        let (reply, started) = oneshot::channel();
        let (control, starting) = (self.clone(), guest.clone());
        let name = exec.clone();
        // A task of its own, so that a caller who goes away during the start leaves no program behind.
        tokio::spawn(async move {
            let answer = starting.start(request).await;
            if let Err(GuestError::Refused(_)) = &answer {
                control.leave_program(id, &name);
                let _ = reply.send(answer);
                return;
            }
            // After an answer that did not come it may run all the same: the reader is gone, which ends it.
            control.keep(starting.clone(), id, name.clone(), terms.limit, terms.grace);
            let failed = answer.is_err();
            if reply.send(answer).is_ok() && !failed {
                relay(&starting, &name, 1, Some(reading), &output).await;
            }
        });
        match started.await {
            Ok(Ok(())) => Ok((
                AgentProgram {
                    exec_id: exec,
                    output: reader,
                },
                guest,
            )),
            Ok(Err(error)) => Err(guest_error(error)),
            Err(_) => Err(ControlError::Unavailable("the server is being stopped".into())),
        }
    }

    /// Follows a program that is there.
    pub(super) fn attach_program(
        &self,
        sandbox: &Sandbox,
        known: ExecInfo,
        from_seq: u64,
    ) -> Result<(AgentProgram, Guest)> {
        let guest = self.guest(sandbox)?;
        let reading = self.read_program(sandbox, &guest, &known);
        let (output, reader) = mpsc::channel(PIECES);
        let (following, name) = (guest.clone(), known.exec_id.clone());
        tokio::spawn(async move { relay(&following, &name, from_seq.max(1), reading, &output).await });
        let program = AgentProgram {
            exec_id: known.exec_id,
            output: reader,
        };
        Ok((program, guest))
    }
}

fn checked(new: AgentCommand) -> Result<(Terms, StartRequest)> {
    let AgentCommand {
        command,
        timeout,
        grace,
    } = new;
    let limit = timeout.unwrap_or(DEFAULT);
    if limit < Duration::from_secs(1) || limit > MAX_EXEC {
        return Err(ControlError::Invalid(format!(
            "the time-out must be from 1 to {} seconds; what takes longer is a run",
            MAX_EXEC.as_secs()
        )));
    }
    if grace > MAX_EXEC {
        return Err(ControlError::Invalid(format!(
            "a program goes on without a reader for at most {} seconds; what has to go on by itself is a run",
            MAX_EXEC.as_secs()
        )));
    }
    let terms = Terms {
        limit: Some(limit),
        grace,
    };
    Ok((terms, request(terms, command)?))
}

/// What the guest is asked for, without the environment of the agent.
pub(super) fn request(terms: Terms, command: CommandSpec) -> Result<StartRequest> {
    if command.argv.first().is_none_or(String::is_empty) {
        return Err(ControlError::Invalid(
            "a program is needed; give it after `--`".into(),
        ));
    }
    let cwd = command.cwd.unwrap_or_default();
    if command.argv.iter().any(|word| word.contains('\0')) || cwd.contains('\0') {
        return Err(ControlError::Invalid("a command cannot hold a zero byte".into()));
    }
    check_env(&command.env)?;
    Ok(StartRequest {
        exec_id: terms.name(),
        argv: command.argv,
        env: command.env.into_iter().collect(),
        cwd,
        stdin: command.stdin.unwrap_or_default().into_bytes().into(),
        ..StartRequest::default()
    })
}

/// Passes output on until the program has ended or nobody reads.
async fn relay(
    guest: &Guest,
    exec: &str,
    from_seq: u64,
    reading: Option<Reading>,
    output: &mpsc::Sender<AgentOutput>,
) {
    let mut next = from_seq;
    let ended = tokio::select! {
        biased;
        () = output.closed() => return,
        ended = follow(guest, exec, &mut next, output) => ended,
    };
    let ended = match ended {
        Ok(exited) => exec_end(&exited, reading.is_some_and(|reading| reading.0.timed_out())),
        Err(error) => ExecEnd {
            error: Some(error.to_string()),
            ..ExecEnd::default()
        },
    };
    let _ = output.send_timeout(AgentOutput::Ended(ended), STANDSTILL).await;
}

/// A broken connection is taken up again after the last piece; a guest that does not come back within a few tries is the
/// error.
async fn follow(
    guest: &Guest,
    exec: &str,
    next: &mut u64,
    output: &mpsc::Sender<AgentOutput>,
) -> std::result::Result<Exited, GuestError> {
    let mut failures = 0;
    loop {
        match guest.attach(exec, *next).await {
            Ok(mut events) => loop {
                // Silence is normal; a guest that does not answer is not.
                let event = match tokio::time::timeout(SILENCE, events.message()).await {
                    Err(_) if guest.healthy().await => continue,
                    // All of it was read before, but not its end.
                    Ok(Ok(None)) => match ended(guest, exec).await {
                        Some(exited) => return Ok(exited),
                        None => break,
                    },
                    Err(_) | Ok(Err(_)) => break,
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
                if output.send_timeout(piece, STANDSTILL).await.is_err() {
                    return Err(GuestError::Unreachable("its output is not read".into()));
                }
            },
            Err(error @ (GuestError::Refused(_) | GuestError::Missing(_))) => return Err(error),
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

/// How a program ended, if it has.
async fn ended(guest: &Guest, exec: &str) -> Option<Exited> {
    let known = guest.execs().await.ok()?;
    known.into_iter().find(|program| program.exec_id == exec)?.exited
}

pub(super) fn exec_end(exited: &Exited, timed_out: bool) -> ExecEnd {
    let signalled = exited.signal != 0;
    let failed = !exited.start_error.is_empty();
    ExecEnd {
        exit_code: (!signalled).then_some(exited.code),
        signal: signalled.then_some(exited.signal),
        timed_out,
        error: failed.then(|| format!("the program could not be started: {}", exited.start_error)),
    }
}
