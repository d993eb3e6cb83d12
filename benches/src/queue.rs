//! Our side: Ostler's queue with the interface of the peers' programs.
//!
//! The executor does nothing: it claims runs in batches, calls a handler that only counts, and writes their ends in
//! batches, each as durable as a run of the product. With `--through executor` it is the executor of the product, with
//! sandboxes of the sim driver.

mod dispatch;
mod executor;
mod idle;
mod scenarios;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use ostler_domain::{
    CommandSpec, NewRun, Requirements, RunId, RunKind, RunSpec, RunStatus, TenantId, Timestamp,
};
use ostler_store::{RunFilter, Store};
use ostler_store_postgres::{Options, PostgresStore};
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A scenario that has not ended by then has lost a job.
const LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Bulk enqueue, then drained to acknowledged.
    Drain,
    /// Single enqueues.
    Enqueue,
    /// From the enqueue to the start.
    Latency,
    /// Claims from a short queue and from a long one.
    Dispatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Through {
    /// An executor that does nothing.
    Queue,
    /// The executor of the product, with sandboxes of the sim driver.
    Executor,
}

/// What is asked for on the command line.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    #[arg(long)]
    scenario: Scenario,
    /// `postgres://…`, or the path of an SQLite file; with no runs in it.
    #[arg(long)]
    url: String,
    /// Jobs; with dispatch those that wait in the long queue.
    #[arg(long)]
    count: u32,
    #[arg(long, default_value_t = 1)]
    producers: u32,
    /// Jobs per second of an open loop; without it the latency of an idle queue is measured.
    #[arg(long)]
    rate: Option<f64>,
    /// Most runs of one claim.
    #[arg(long, default_value_t = 1000)]
    batch: u32,
    /// Claims under way at once; a second one mostly takes what the first was about to take.
    #[arg(long, default_value_t = 1)]
    claimers: u32,
    /// Runs of one call of the bulk enqueue.
    #[arg(long, default_value_t = 5000)]
    chunk: u32,
    #[arg(long, value_enum, default_value = "queue")]
    through: Through,
    /// For dispatch: the short queue.
    #[arg(long)]
    short_url: Option<String>,
    /// For dispatch: how many wait in the short queue.
    #[arg(long, default_value_t = 1000)]
    short: u32,
    /// For dispatch: blocks of samples.
    #[arg(long, default_value_t = 5)]
    blocks: u32,
    /// For dispatch: samples of a block.
    #[arg(long, default_value_t = 40)]
    samples: u32,
    /// For logs and the like.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
}

/// Carries a scenario out and prints its one result line.
pub(crate) async fn run(args: &QueueArgs) -> Result<()> {
    ensure!(args.count > 0, "--count must be a positive number");
    let store = open(&args.url).await?;
    let scenario = async {
        Ok::<Value, anyhow::Error>(match (args.through, args.scenario) {
            (Through::Queue, Scenario::Drain) => scenarios::drain(&store, args).await?,
            (Through::Queue, Scenario::Enqueue) => scenarios::enqueue(&store, args).await?,
            (Through::Queue, Scenario::Latency) => scenarios::latency(&store, args).await?,
            (Through::Queue, Scenario::Dispatch) => {
                let url = args.short_url.as_deref().context("--short-url is missing")?;
                dispatch::dispatch(&open(url).await?, &store, args).await?
            }
            (Through::Executor, Scenario::Drain) => executor::drain(&store, args).await?,
            (Through::Executor, Scenario::Latency) => executor::latency(&store, args).await?,
            (Through::Executor, _) => bail!("the executor has no part in this scenario"),
        })
    };
    let result = tokio::time::timeout(LIMIT, scenario)
        .await
        .with_context(|| format!("no result after {} s", LIMIT.as_secs()))??;
    store.close().await;
    let mut line = json!({ "version": env!("CARGO_PKG_VERSION"), "count": args.count });
    if let (Some(line), Value::Object(result)) = (line.as_object_mut(), result) {
        line.extend(result);
    }
    println!("{line}");
    Ok(())
}

/// Opens a store with the settings that the server uses, and makes sure that it has no runs.
async fn open(url: &str) -> Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = if url.starts_with("postgres") {
        Arc::new(PostgresStore::connect(url, Options::default()).await?)
    } else {
        Arc::new(SqliteStore::open(Path::new(url), SqliteOptions::default())?)
    };
    store.migrate_up(None).await?;
    let known: i64 = store.counters(None).await?.values().sum();
    ensure!(known == 0, "{known} runs are in this database; it must have none");
    Ok(store)
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::default().plus(since)
}

/// A job that does nothing. Its number is kept as the ordinal.
fn job(number: u32, class: u32, priority: i32) -> NewRun {
    NewRun {
        id: RunId::new(),
        tenant_id: TenantId::DEFAULT,
        kind: RunKind::Command,
        project_id: None,
        task_id: None,
        subtask_id: None,
        plan_id: None,
        ordinal: number,
        requirements: Requirements {
            labels: (class > 0)
                .then(|| ("class".to_owned(), class.to_string()))
                .into_iter()
                .collect(),
            ..Requirements::default()
        },
        priority,
        max_attempts: 3,
        not_before: None,
        held: false,
        spec: RunSpec {
            commands: vec![CommandSpec {
                argv: vec!["true".into()],
                ..CommandSpec::default()
            }],
            ..RunSpec::default()
        },
        created_at: now(),
    }
}

async fn in_state(store: &Arc<dyn Store>, status: RunStatus) -> Result<u32> {
    let counters = store.counters(None).await?;
    Ok(u32::try_from(counters.get(&status).copied().unwrap_or(0))?)
}

/// Enqueues `numbers` in lists, by several callers at once.
async fn enqueue_bulk(store: &Arc<dyn Store>, count: u32, args: &QueueArgs, classes: u32) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    let callers = args.producers.max(1);
    for caller in 0..callers {
        let store = Arc::clone(store);
        let (chunk, count) = (args.chunk.max(1), count);
        tasks.spawn(async move {
            let starts = (0..count).step_by(chunk as usize).skip(caller as usize);
            for start in starts.step_by(callers as usize) {
                let numbers = start..count.min(start + chunk);
                let runs = numbers.map(|n| job(n, if classes > 1 { n % classes + 1 } else { 0 }, 0));
                store.enqueue(runs.collect()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Reads all runs back: each of `0..count` must have succeeded, once, at the first attempt.
async fn verify(store: &Arc<dyn Store>, count: u32) -> Result<()> {
    let mut seen = vec![false; count as usize];
    let mut before = None;
    loop {
        let page = store
            .runs(RunFilter {
                before_seq: before,
                limit: 1000,
                ..RunFilter::default()
            })
            .await?;
        let Some(last) = page.last() else { break };
        before = Some(last.seq);
        for run in &page {
            let number = run.submitted.ordinal;
            ensure!(
                run.status == RunStatus::Succeeded && run.attempt == 1,
                "job {number} is {} after attempt {}",
                run.status,
                run.attempt
            );
            let seen = seen
                .get_mut(number as usize)
                .context("a job that nobody enqueued")?;
            ensure!(!*seen, "job {number} is there twice");
            *seen = true;
        }
    }
    ensure!(seen.iter().all(|seen| *seen), "jobs are missing");
    Ok(())
}

fn seconds(value: Duration) -> f64 {
    (value.as_secs_f64() * 1e4).round() / 1e4
}
