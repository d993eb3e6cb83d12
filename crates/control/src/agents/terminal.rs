//! Terminals in agents.

use super::exec::{AgentProgram, request};
use super::programs::{self, Terms};
use super::{check_env, guest_error};
use crate::guest::Guest;
use crate::{AgentOutput, Caller, Control, ControlError, Result};
use bytes::Bytes;
use ostler_domain::{CommandSpec, SandboxId};
use ostler_guest_protocol::v1;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time for which a program goes on when its terminal is cut off.
const GRACE: Duration = Duration::from_secs(60);
/// Largest size.
const MOST: u32 = 10_000;
const MAX_TERM: usize = 64;
/// What is typed and waits for the program.
const TYPED: usize = 64;
/// The shell of the sandbox's user. Not a login shell: that would forget the image's PATH.
const SHELL: &str = "if [ -n \"$SHELL\" ] && [ -x \"$SHELL\" ]; then exec \"$SHELL\"; \
                     elif [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi";
/// The signals that a terminal passes on.
const SIGNALS: [(&str, i32); 12] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
];

/// A terminal that is wanted.
#[derive(Debug, Clone, Default)]
pub struct NewTerminal {
    /// Program and arguments; the shell when empty.
    pub command: Vec<String>,
    /// Environment, over that of the configuration.
    pub env: BTreeMap<String, String>,
    /// Working directory; the workspace when absent.
    pub cwd: Option<String>,
    /// Rows; 0 for 24.
    pub rows: u32,
    /// Columns; 0 for 80.
    pub columns: u32,
    /// Value of TERM.
    pub term: Option<String>,
}

/// A terminal with somebody at it. Dropping it leaves the program a minute for somebody to come back.
#[derive(Debug)]
pub struct AgentTerminal {
    /// Id, to come back to it.
    pub exec_id: String,
    /// Number of the first piece that comes.
    pub next_seq: u64,
    /// What it shows.
    pub output: mpsc::Receiver<AgentOutput>,
    keyboard: Keyboard,
}

/// What can be done at a terminal; cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyboard {
    exec_id: String,
    guest: Guest,
    typed: mpsc::Sender<Typed>,
}

#[derive(Debug)]
enum Typed {
    Text(Bytes),
    End,
}

impl AgentTerminal {
    fn new(program: AgentProgram, guest: Guest, next_seq: u64) -> Self {
        let (typed, keys) = mpsc::channel(TYPED);
        tokio::spawn(type_in(guest.clone(), program.exec_id.clone(), keys));
        Self {
            keyboard: Keyboard {
                exec_id: program.exec_id.clone(),
                guest,
                typed,
            },
            exec_id: program.exec_id,
            next_seq,
            output: program.output,
        }
    }

    /// What can be done at it.
    pub fn keyboard(&self) -> Keyboard {
        self.keyboard.clone()
    }
}

impl Keyboard {
    /// Types. Waits while the program does not read; what is typed after its end is lost.
    pub async fn text(&self, text: Bytes) {
        let _ = self.typed.send(Typed::Text(text)).await;
    }

    /// Types the end of file; nothing can be typed afterwards.
    pub async fn end_of_input(&self) {
        let _ = self.typed.send(Typed::End).await;
    }

    /// Changes the size.
    pub async fn resize(&self, rows: u32, columns: u32) -> Result<()> {
        check_size(rows, columns)?;
        self.guest
            .resize(&self.exec_id, rows, columns)
            .await
            .map_err(guest_error)
    }

    /// Signals what runs in the foreground, by the name of the signal without `SIG`.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let known = SIGNALS.iter().find(|(known, _)| *known == name);
        let (_, number) = known.ok_or_else(|| {
            let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
            ControlError::Invalid(format!(
                "`{}` is not a signal; these are: {}",
                name.escape_debug(),
                names.join(", ")
            ))
        })?;
        self.guest
            .signal(&self.exec_id, *number)
            .await
            .map_err(guest_error)
    }

    /// Ends the program with all of its children.
    pub async fn hang_up(&self) -> Result<()> {
        programs::end(&self.guest, &self.exec_id)
            .await
            .map_err(guest_error)
    }
}

/// In the order in which it was typed, until the program has ended or nobody is there any more.
async fn type_in(guest: Guest, exec_id: String, mut keys: mpsc::Receiver<Typed>) {
    while let Some(typed) = keys.recv().await {
        let (data, close) = match typed {
            Typed::Text(text) => (text, false),
            Typed::End => (Bytes::new(), true),
        };
        if let Err(error) = guest.write_stdin(&exec_id, data, close).await {
            tracing::debug!(%error, exec_id, "what was typed is lost");
            return;
        }
    }
}

fn check_size(rows: u32, columns: u32) -> Result<()> {
    if rows > MOST || columns > MOST {
        return Err(ControlError::Invalid(format!(
            "a terminal has at most {MOST} rows and columns"
        )));
    }
    Ok(())
}

impl Control {
    /// Starts a program, or the shell, in a terminal of its own. It goes on until it ends by itself, is hung up, or
    /// nobody has been at it for a minute.
    pub async fn open_terminal(
        &self,
        caller: &Caller,
        id: SandboxId,
        new: NewTerminal,
    ) -> Result<AgentTerminal> {
        check_size(new.rows, new.columns)?;
        check_env(&new.env)?;
        let term = new.term.unwrap_or_default();
        if term.len() > MAX_TERM || !term.chars().all(|c| c.is_ascii_graphic()) {
            return Err(ControlError::Invalid(
                "`term` must be the name of a terminal, like xterm-256color".into(),
            ));
        }
        let argv = if new.command.is_empty() {
            ["/bin/sh", "-c", SHELL].map(str::to_owned).to_vec()
        } else {
            new.command
        };
        let terms = Terms {
            limit: None,
            grace: GRACE,
        };
        let command = CommandSpec {
            argv,
            env: new.env,
            cwd: new.cwd,
            stdin: None,
        };
        let request = v1::StartRequest {
            stdin_open: true,
            terminal: Some(v1::Terminal {
                rows: new.rows,
                columns: new.columns,
                term,
            }),
            ..request(terms, command)?
        };
        let sandbox = self.agent_in_use(caller, id).await?;
        self.note_act(caller, "agent.terminal", id, ()).await?;
        let (program, guest) = self.start_program(&sandbox, terms, request).await?;
        Ok(AgentTerminal::new(program, guest, 1))
    }

    /// Goes back to a terminal, to read on from a piece. Several may be at one at the same time.
    pub async fn attach_terminal(
        &self,
        caller: &Caller,
        id: SandboxId,
        exec_id: &str,
        from_seq: u64,
    ) -> Result<AgentTerminal> {
        let sandbox = self.agent_in_use(caller, id).await?;
        let known = self.known_program(&sandbox, exec_id).await?;
        if !known.terminal {
            return Err(ControlError::Conflict("the program has no terminal".into()));
        }
        let (program, guest) = self.attach_program(&sandbox, known, from_seq)?;
        Ok(AgentTerminal::new(program, guest, from_seq.max(1)))
    }
}
