//! Simulated programs.

use crate::exec::Exec;
use crate::files::Files;
use crate::tunnel::Connections;
use bytes::Bytes;
use futures::future::BoxFuture;
use ostler_guest_protocol::v1::exec_event::Event;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

/// A simulated program: what it does, ending with its exit code.
#[derive(Clone)]
pub struct Program {
    run: Arc<dyn Fn(Invocation) -> BoxFuture<'static, i32> + Send + Sync>,
    pub(crate) ignores_term: bool,
}

/// A program that was started: what it was given and what it can do.
pub struct Invocation {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// The files of its sandbox.
    pub files: Files,
    pub(crate) stdin: mpsc::Receiver<Bytes>,
    pub(crate) exec: Arc<Exec>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) connections: Connections,
}

impl Program {
    /// A program that does what the function does.
    pub fn new<F, Fut>(run: F) -> Self
    where
        F: Fn(Invocation) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = i32> + Send + 'static,
    {
        Self {
            run: Arc::new(move |invocation| Box::pin(run(invocation))),
            ignores_term: false,
        }
    }

    /// The same program, deaf to the signal TERM.
    #[must_use]
    pub fn ignoring_term(mut self) -> Self {
        self.ignores_term = true;
        self
    }

    pub(crate) fn run(&self, invocation: Invocation) -> BoxFuture<'static, i32> {
        (self.run)(invocation)
    }
}

impl Invocation {
    /// Writes to standard output.
    pub async fn stdout(&mut self, data: impl Into<Bytes>) {
        self.thawed().await;
        self.exec.write(Event::Stdout(data.into()));
    }

    /// Writes to standard error.
    pub async fn stderr(&mut self, data: impl Into<Bytes>) {
        self.thawed().await;
        self.exec.write(Event::Stderr(data.into()));
    }

    /// The next piece of standard input; `None` at its end.
    pub async fn stdin(&mut self) -> Option<Bytes> {
        let data = self.stdin.recv().await;
        self.thawed().await;
        data
    }

    /// Connects to a listener of the guest (`gateway` or `control`); the server is told and answers through it.
    pub async fn connect(&self, listener: &str) -> DuplexStream {
        self.connections.open(listener).await
    }

    async fn thawed(&mut self) {
        // An error means that the sandbox is gone, and this program with it.
        let _gone = self.paused.wait_for(|paused| !paused).await;
    }

    fn argument(&self, index: usize) -> &str {
        self.argv.get(index).map_or("", String::as_str)
    }
}

/// The programs that every sandbox has.
pub(crate) fn builtin() -> HashMap<String, Program> {
    let sleep = Program::new(|invocation| async move {
        let Ok(seconds) = invocation.argument(1).parse::<f64>() else {
            return 1;
        };
        tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))).await;
        0
    });
    [
        ("true", Program::new(|_| async { 0 })),
        ("false", Program::new(|_| async { 1 })),
        (
            "exit",
            Program::new(|invocation| async move { invocation.argument(1).parse().unwrap_or(2) }),
        ),
        (
            "echo",
            Program::new(|mut invocation| async move {
                let line = invocation.argv.get(1..).unwrap_or_default().join(" ") + "\n";
                invocation.stdout(line).await;
                0
            }),
        ),
        (
            "cat",
            Program::new(|mut invocation| async move {
                while let Some(data) = invocation.stdin().await {
                    invocation.stdout(data).await;
                }
                0
            }),
        ),
        (
            "env",
            Program::new(|mut invocation| async move {
                let text: String = invocation.env.iter().fold(String::new(), |text, (name, value)| {
                    text + name + "=" + value + "\n"
                });
                invocation.stdout(text).await;
                0
            }),
        ),
        (
            "pwd",
            Program::new(|mut invocation| async move {
                let line = invocation.cwd.clone() + "\n";
                invocation.stdout(line).await;
                0
            }),
        ),
        // Deaf to TERM, so that only KILL ends it early.
        ("stubborn", sleep.clone().ignoring_term()),
        ("sleep", sleep),
    ]
    .into_iter()
    .map(|(name, program)| (name.to_owned(), program))
    .collect()
}
