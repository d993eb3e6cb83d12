//! `make bench`: Ostler beside its peers, in one run on one machine, and the tables of `RESULTS.md`.
//!
//! What is measured is in a program of its own, ours (`ostler-benches queue`) with the same interface as the peers'
//! (`peers/README.md`), so that nobody shares a process with the one that measures, and all pay for the same.

mod bench;
mod contender;
mod fleet;
mod machine;
mod machines;
mod output;
mod probe;
mod queue;
mod report;
mod sandboxes;
mod servers;
mod service;
mod startup;
mod stats;
mod suites;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ostler-benches")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Subcommand)]
enum Command {
    /// One scenario on Ostler's queue, as the programs of the peers do it.
    Queue(queue::QueueArgs),
}

/// A row of the figures to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Figure {
    /// Claims of sandboxes, and P2 with them.
    P1,
    /// Virtual machines.
    P3,
    /// Throughput.
    P4,
    /// Enqueue.
    P5,
    /// Latency.
    P6,
    /// Dispatch from long queues.
    P7,
    /// Tests that do nothing.
    P8,
    /// Many sandboxes at rest.
    P9,
    /// The server at rest.
    P10,
    /// Output on its way to a reader.
    P11,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Small counts and one round: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Without the peers, which then need not be installed.
    #[arg(long)]
    no_peers: bool,
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Times that everything is measured; 3, or 1 with --quick.
    #[arg(long)]
    rounds: Option<u32>,
    /// Where the tables are written.
    #[arg(long, default_value = "benches/RESULTS.md")]
    output: PathBuf,
    /// The folder of the peers.
    #[arg(long, default_value = "benches/peers")]
    peers: PathBuf,
    /// The server that P10 is about; beside this program when absent.
    #[arg(long)]
    server: Option<PathBuf>,
    /// A directory on the disk to measure; all databases are in it.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
}

impl BenchArgs {
    pub(crate) fn wants(&self, figure: Figure) -> bool {
        self.only.is_empty() || self.only.contains(&figure)
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
        .and_then(|runtime| {
            runtime.block_on(async {
                match arguments.command {
                    Some(Command::Queue(queue)) => queue::run(&queue).await,
                    None => tokio::select! {
                        done = bench::run_command(&arguments.bench) => done,
                        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing was written"),
                    },
                }
            })
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
