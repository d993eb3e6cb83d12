//! Who is measured, with which settings and how many jobs.

use crate::bench::Stores;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// For a drain, of which the longest takes two minutes.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);
/// For what takes seconds: a program that does not end by then has lost a job.
const SHORT_LIMIT: Duration = Duration::from_secs(60);

/// Where a queue is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Postgres,
    Sqlite,
    /// Redis that calls fsync before it answers.
    RedisAlways,
    /// Redis that calls fsync once a second.
    RedisEverySecond,
}

impl Kept {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
            Self::RedisAlways => "Redis, fsync always",
            Self::RedisEverySecond => "Redis, fsync every second",
        }
    }

    /// Whether what was acknowledged survives a loss of power.
    pub(crate) fn durable(self) -> bool {
        self != Self::RedisEverySecond
    }
}

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Ours, with an executor that does nothing.
    Queue,
    /// Ours, with the executor of the product and sandboxes of the sim driver.
    Executor,
    /// That in this folder of the peers.
    Peer(&'static str),
}

/// One queue on one store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) kept: Kept,
    /// Jobs to drain.
    pub(crate) jobs: u32,
    /// Jobs that one producer enqueues.
    pub(crate) singles: u32,
    /// Jobs that 64 producers enqueue.
    pub(crate) together: u32,
    /// Rounds that it takes part in, at most.
    pub(crate) rounds: u32,
}

const fn contender(
    name: &'static str,
    program: Program,
    kept: Kept,
    (jobs, singles, together): (u32, u32, u32),
    rounds: u32,
) -> Contender {
    Contender {
        name,
        program,
        kept,
        jobs,
        singles,
        together,
        rounds,
    }
}

pub(crate) const OUR_POSTGRES: &str = "Ostler, PostgreSQL";
pub(crate) const OUR_SQLITE: &str = "Ostler, SQLite";

pub(crate) const APALIS_SQLITE: &str = "apalis-sqlite";

const EVERY: u32 = u32::MAX;

/// Jobs, enqueues of one producer and enqueues of 64. Those that are slow at something get fewer, so that a round ends;
/// those that decide no bar are in one round.
pub(crate) const ALL: &[Contender] = &[
    contender(
        OUR_POSTGRES,
        Program::Queue,
        Kept::Postgres,
        (100_000, 1000, 20_000),
        EVERY,
    ),
    contender(
        "graphile-worker",
        Program::Peer("graphile-worker"),
        Kept::Postgres,
        (100_000, 500, 1500),
        EVERY,
    ),
    contender(
        "pg-boss",
        Program::Peer("pg-boss"),
        Kept::Postgres,
        (100_000, 300, 2000),
        EVERY,
    ),
    contender(
        "BullMQ, fsync always",
        Program::Peer("bullmq"),
        Kept::RedisAlways,
        (30_000, 500, 5000),
        EVERY,
    ),
    contender(
        OUR_SQLITE,
        Program::Queue,
        Kept::Sqlite,
        (100_000, 1000, 20_000),
        EVERY,
    ),
    contender(
        "apalis-postgres",
        Program::Peer("apalis"),
        Kept::Postgres,
        (100_000, 500, 2000),
        EVERY,
    ),
    contender(
        "BullMQ, fsync every second",
        Program::Peer("bullmq"),
        Kept::RedisEverySecond,
        (30_000, 1000, 10_000),
        1,
    ),
    contender(
        "BullMQ, PostgreSQL",
        Program::Peer("bullmq"),
        Kept::Postgres,
        (5000, 300, 1000),
        1,
    ),
    contender(
        "procrastinate",
        Program::Peer("procrastinate"),
        Kept::Postgres,
        (1000, 300, 1000),
        1,
    ),
    contender(
        APALIS_SQLITE,
        Program::Peer("apalis"),
        Kept::Sqlite,
        (100_000, 300, 2000),
        1,
    ),
    contender(
        "Ostler's executor, PostgreSQL",
        Program::Executor,
        Kept::Postgres,
        (2000, 0, 0),
        1,
    ),
    contender(
        "Ostler's executor, SQLite",
        Program::Executor,
        Kept::Sqlite,
        (2000, 0, 0),
        1,
    ),
];

impl Contender {
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self.program, Program::Peer(_))
    }

    /// The command that carries out `arguments`, as a person would type it; `URL` stands for the database.
    pub(crate) fn command_line(&self, arguments: &[String]) -> String {
        let program = match self.program {
            Program::Peer(folder) => format!("benches/peers/{folder}/run"),
            Program::Queue => "target/release/ostler-benches queue".to_owned(),
            Program::Executor => "target/release/ostler-benches queue --through executor".to_owned(),
        };
        format!("{program} --url URL {}", arguments.join(" "))
    }

    /// Runs the program with an empty database; its result line.
    pub(crate) async fn measure(
        &self,
        stores: &mut Stores,
        peers: &Path,
        arguments: &[String],
    ) -> Result<Value> {
        let url = stores.fresh(self.kept)?;
        let own = std::env::current_exe()?;
        let mut command = match self.program {
            Program::Peer(folder) => Command::new(peers.join(folder).join("run")),
            Program::Queue | Program::Executor => Command::new(own),
        };
        if self.is_ours() {
            command.arg("queue");
            command.arg("--directory").arg(stores.directory());
        }
        if self.program == Program::Executor {
            command.args(["--through", "executor"]);
        }
        command.args(["--url", &url]).args(arguments);
        let drain = arguments.iter().any(|word| word == "drain");
        let result = run(command, if drain { LIMIT } else { SHORT_LIMIT }).await;
        stores.remove(self.kept, &url)?;
        result.with_context(|| self.command_line(arguments))
    }
}

/// The last line on stdout, as JSON.
pub(crate) async fn run(mut command: Command, limit: Duration) -> Result<Value> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn()?;
    let done = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("it did not end within {} s", limit.as_secs()))??;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.trim().lines().collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        bail!("it ended with {}: {}", done.status, last.join(" | "));
    }
    let said = String::from_utf8_lossy(&done.stdout);
    let line = said.trim().lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("its last line is not a result: {line}"))
}
