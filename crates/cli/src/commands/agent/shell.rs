//! `ostler agent shell`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use bytes::Bytes;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use ostler_client::{ClientError, Shown, Terminal, TerminalQuery};
use ostler_contracts::{ExecEnd, TerminalNews, TerminalOrder};
use ostler_domain::SandboxId;
use std::io::{self, IsTerminal, Read};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long the program goes on without anybody at its terminal, and so how long is tried to go back.
const PATIENCE: Duration = Duration::from_secs(55);
const AGAIN: Duration = Duration::from_millis(500);
/// Bytes of what is typed in one message.
const PIECE: usize = 16 * 1024;
/// Pieces that wait to be sent.
const PIECES: usize = 16;
/// Control-C, as a keyboard in raw mode sends it.
const INTERRUPT: u8 = 3;

/// Which sandbox, and what runs there.
#[derive(Debug, clap::Args)]
pub struct Shell {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Program and arguments; the shell of the sandbox when absent.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Shell {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        if session.out.json {
            let what = "a terminal shows no JSON; `ostler agent exec --json` executes a program without one";
            return Err(CliError::Usage(what.to_owned()));
        }
        let id = session.agent_id(&self.agent).await?;
        let query = TerminalQuery {
            command: self.command,
            size: size(),
            term: std::env::var("TERM").ok().filter(|term| !term.is_empty()),
            cwd: self.cwd,
            back_to: None,
        };
        let terminal = session.client.terminal(id, &query).await?;
        // Until here, and after it is dropped, the person's terminal is as it was.
        let raw = Raw::enter();
        let mut desk = Desk {
            session,
            id,
            keys: keys(),
            typing: true,
            next: terminal.next_seq,
            signals: Signals::listen()?,
            raw: raw.is_some(),
        };
        let outcome = desk.work(terminal).await;
        drop(raw);
        match outcome? {
            End::Program(end) => {
                if let Some(error) = &end.error {
                    session.out.note(&format!("ostler: {error}"));
                    return Ok(Exit::FAILED);
                }
                Ok(Exit::of_program(end.exit_code, end.signal))
            }
            End::Signal(number) => Ok(Exit::of_program(None, Some(number))),
        }
    }
}

enum End {
    Program(ExecEnd),
    /// This command was told to end.
    Signal(i32),
}

/// The signals that concern a terminal.
struct Signals {
    resized: Signal,
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|source| CliError::Read {
                what: "signals".into(),
                source,
            })
        };
        Ok(Self {
            resized: listen(SignalKind::window_change())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

/// What the person has before them.
struct Desk<'a> {
    session: &'a Session,
    id: SandboxId,
    keys: mpsc::Receiver<Bytes>,
    typing: bool,
    /// Number of the next piece.
    next: u64,
    signals: Signals,
    raw: bool,
}

impl Desk<'_> {
    /// Works at a terminal, and goes back to it when the connection broke.
    async fn work(&mut self, mut terminal: Terminal) -> Result<End> {
        loop {
            let exec_id = terminal.exec_id.clone();
            let error = match self.sit(terminal).await {
                Ok(end) => return Ok(end),
                Err(CliError::Client(error)) if error.is_transient() => error,
                Err(other) => return Err(other),
            };
            self.say("the connection is lost; trying to get back to the terminal (Control-C gives up)");
            terminal = self.back_to(exec_id, error).await?;
            self.say("connected again");
            if !self.typing {
                terminal.keyboard.order(&TerminalOrder::EndOfInput {}).await?;
            }
            if let Some((rows, columns)) = size() {
                let (rows, columns) = (rows.into(), columns.into());
                terminal
                    .keyboard
                    .order(&TerminalOrder::Resize { rows, columns })
                    .await?;
            }
        }
    }

    async fn back_to(&mut self, exec_id: String, mut error: ClientError) -> Result<Terminal> {
        let query = TerminalQuery {
            back_to: Some((exec_id, self.next)),
            ..TerminalQuery::default()
        };
        let over = Instant::now() + PATIENCE;
        while Instant::now() < over {
            tokio::select! {
                terminal = self.session.client.terminal(self.id, &query) => match terminal {
                    Ok(terminal) => return Ok(terminal),
                    Err(again) if again.is_transient() => error = again,
                    Err(other) => return Err(other.into()),
                },
                _ = self.signals.interrupt.recv() => return Err(error.into()),
                _ = self.signals.terminate.recv() => return Err(error.into()),
                () = given_up(&mut self.keys), if self.typing => return Err(error.into()),
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(error.into())
    }

    /// Works at a terminal until the program has ended or the connection breaks.
    async fn sit(&mut self, terminal: Terminal) -> Result<End> {
        let Terminal {
            mut keyboard,
            mut screen,
            ..
        } = terminal;
        loop {
            tokio::select! {
                shown = screen.next() => match shown? {
                    Shown::Piece(bytes) => {
                        self.next += 1;
                        self.session.out.bytes(&bytes)?;
                    }
                    Shown::News(TerminalNews::Exit(end)) => return Ok(End::Program(end)),
                    Shown::News(TerminalNews::Dropped { up_to }) => {
                        self.next = up_to + 1;
                        self.say("some of what was shown came too fast and is gone");
                    }
                    Shown::News(TerminalNews::Closed { reason }) => return Err(CliError::Failed(reason)),
                    Shown::News(TerminalNews::Started { .. }) => {}
                },
                key = self.keys.recv(), if self.typing => if let Some(text) = key {
                    keyboard.text(text).await?;
                } else {
                    self.typing = false;
                    keyboard.order(&TerminalOrder::EndOfInput {}).await?;
                },
                _ = self.signals.resized.recv() => if let Some((rows, columns)) = size() {
                    let (rows, columns) = (rows.into(), columns.into());
                    keyboard.order(&TerminalOrder::Resize { rows, columns }).await?;
                },
                // In raw mode Control-C is a key: this came from elsewhere, or there is no terminal here.
                _ = self.signals.interrupt.recv() => keyboard.order(&TerminalOrder::Signal("INT".into())).await?,
                _ = self.signals.terminate.recv() => {
                    let _ = keyboard.order(&TerminalOrder::HangUp {}).await;
                    return Ok(End::Signal(15));
                }
                _ = self.signals.hang_up.recv() => {
                    let _ = keyboard.order(&TerminalOrder::HangUp {}).await;
                    return Ok(End::Signal(1));
                }
            }
        }
    }

    fn say(&self, text: &str) {
        // In raw mode a line does not begin at the left by itself.
        let (before, after) = if self.raw { ("\r\n", "\r") } else { ("", "") };
        self.session.out.note(&format!("{before}ostler: {text}{after}"));
    }
}

/// Returns when the person gives up; what else is typed meanwhile is lost.
async fn given_up(keys: &mut mpsc::Receiver<Bytes>) {
    loop {
        match keys.recv().await {
            Some(text) if text.contains(&INTERRUPT) => return,
            Some(_) => {}
            None => return std::future::pending().await,
        }
    }
}

/// Standard input, on a thread of its own: reading it cannot be cancelled, and must not hold up the end.
fn keys() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut piece = [0; PIECE];
        loop {
            match stdin.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&piece[..n])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Rows and columns of the person's terminal.
fn size() -> Option<(u16, u16)> {
    terminal_size::terminal_size().map(|(width, height)| (height.0, width.0))
}

/// The person's terminal in raw mode: every key is the program's. As it was before when this is dropped, also by a panic.
struct Raw(Termios);

impl Raw {
    /// `None` if standard input is no terminal.
    fn enter() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
