//! apalis on PostgreSQL and on SQLite.
//!
//! Settings, the same on both stores: jobs pushed in bulk through `queries::push_tasks`, 10,000 a
//! transaction; workers fetch in batches; `lock_tasks(false)` spares a second write per job
//! (the fetch has claimed it already), results stay persisted, as they are the acknowledgement.
//! Latency: `LISTEN/NOTIFY` on PostgreSQL and the update hook on SQLite, with a polling backstop.
//!
//! On SQLite the schema is made by the crate's migrations, but not by `SqliteStorage::setup`: that
//! also says `PRAGMA synchronous = OFF`, and an enqueue or acknowledgement would then not be
//! durable. Here it is WAL with `synchronous = FULL`, the crate's other pragmas as they are;
//! `--synchronous off` gives the crate's own setting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use apalis::prelude::*;
use apalis_postgres::{PostgresStorage, Pubsub};
use apalis_sqlite::SqliteStorage;
use apalis_sqlite::callback::HookCallbackListener;
use clap::{Parser, ValueEnum};
use futures::future::try_join_all;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// The version that Cargo.toml pins for all three crates.
const APALIS_VERSION: &str = "1.0.0";
const QUEUE: &str = "noop";
const PUSH_CHUNK: u64 = 10_000;
const PAUSE: Duration = Duration::from_millis(20);
const WARM_UP_JOBS: u64 = 50;
/// A run that has not ended by then has lost a job; it must fail and not hang the benchmark.
const LIMIT: Duration = Duration::from_secs(900);
/// The backstop beside a store's own wake-ups. A shorter one is no better: an interval that ends
/// while a fetch is under way is not armed again until something else wakes the worker.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Args {
    #[arg(long)]
    scenario: Scenario,
    /// `postgres://…`, or the path of an SQLite file, which is replaced.
    #[arg(long)]
    url: String,
    #[arg(long)]
    count: u64,
    #[arg(long, default_value_t = 1)]
    producers: u64,
    /// Jobs that a worker fetches at a time and runs at once.
    #[arg(long)]
    concurrency: Option<usize>,
    /// Workers, each with its own fetch loop.
    #[arg(long)]
    processes: Option<usize>,
    /// Jobs per second of an open loop; without it the latency of an idle queue is measured.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value = "full")]
    synchronous: Synchronous,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Scenario {
    Drain,
    Enqueue,
    Latency,
}

#[derive(Clone, Copy, ValueEnum)]
enum Synchronous {
    Full,
    Off,
}

/// What the handlers report to: ids count up from zero within a run.
struct Report {
    epoch: Instant,
    sent: Vec<AtomicU64>,
    handled: AtomicU64,
    measured: Mutex<Vec<f64>>,
    started: Notify,
}

impl Report {
    fn new(jobs: u64) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            sent: (0..jobs).map(|_| AtomicU64::new(0)).collect(),
            handled: AtomicU64::new(0),
            measured: Mutex::new(Vec::new()),
            started: Notify::new(),
        })
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn on_send(&self, id: u64) {
        self.sent[id as usize].store(self.nanoseconds(), Ordering::SeqCst);
    }

    fn on_start(&self, id: u64) {
        let now = self.nanoseconds();
        if let Some(sent) = self.sent.get(id as usize) {
            let since = now - sent.load(Ordering::SeqCst);
            if id >= WARM_UP_JOBS
                && let Ok(mut measured) = self.measured.lock()
            {
                measured.push(since as f64 / 1e6);
            }
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
        self.started.notify_one();
    }

    async fn until_handled(&self, count: u64) {
        while self.handled.load(Ordering::SeqCst) < count {
            // The time-out covers a wake-up between the check and the wait.
            let _ = tokio::time::timeout(Duration::from_millis(2), self.started.notified()).await;
        }
    }
}

#[derive(Clone)]
enum Store {
    Postgres(PgPool),
    Sqlite(SqlitePool, Option<HookCallbackListener>),
}

/// How many workers, and how many jobs each fetches at a time and runs at once.
#[derive(Clone, Copy)]
struct Scale {
    workers: usize,
    concurrency: usize,
}

impl Scale {
    /// The fastest of those tried, see the README.
    fn of(args: &Args) -> Self {
        let best = match (args.scenario, is_postgres(&args.url)) {
            (Scenario::Drain, true) => (4, 1000),
            (Scenario::Drain, false) => (64, 100),
            _ => (1, 100),
        };
        Self {
            workers: args.processes.unwrap_or(best.0),
            concurrency: args.concurrency.unwrap_or(best.1),
        }
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres")
}

impl Store {
    async fn open(args: &Args) -> Result<Self> {
        let connections = match args.scenario {
            Scenario::Enqueue => args.producers as u32,
            Scenario::Drain | Scenario::Latency => 2 * Scale::of(args).workers as u32 + 8,
        };
        if is_postgres(&args.url) {
            let pool = PgPoolOptions::new()
                .max_connections(connections)
                .connect(&args.url)
                .await
                .context("connecting to PostgreSQL")?;
            sqlx::raw_sql("drop schema if exists apalis cascade; drop table if exists _sqlx_migrations")
                .execute(&pool)
                .await?;
            PostgresStorage::setup(&pool).await?;
            return Ok(Self::Postgres(pool));
        }
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", args.url);
            if std::fs::exists(&file)? {
                std::fs::remove_file(&file)?;
            }
        }
        let options = SqliteConnectOptions::new()
            .filename(&args.url)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match args.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Off => SqliteSynchronous::Off,
            })
            .busy_timeout(Duration::from_secs(60))
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "64000")
            .pragma("journal_size_limit", "67108864");
        let (pool, listener) = if args.scenario == Scenario::Latency {
            let (pool, listener) = SqliteStorage::connect_with_callback("sqlite::memory:")?;
            pool.set_connect_options(options);
            (pool, Some(listener))
        } else {
            // SQLite has one writer; more connections would only wait for its lock.
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await?;
            (pool, None)
        };
        SqliteStorage::migrations().run(&pool).await?;
        Ok(Self::Sqlite(pool, listener))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "apalis-postgres",
            Self::Sqlite(..) => "apalis-sqlite",
        }
    }

    /// One transaction, on disk when this returns.
    async fn push(&self, ids: std::ops::Range<u64>) -> Result<()> {
        let tasks = ids
            .map(|id| Ok(TaskBuilder::new(serde_json::to_vec(&id)?).build()))
            .collect::<Result<Vec<_>>>()?;
        match self {
            // One statement, so it is a transaction by itself.
            Self::Postgres(pool) => {
                let mut connection = pool.acquire().await?;
                apalis_postgres::queries::push_tasks(&mut *connection, QUEUE, tasks).await?;
            }
            // Here it is a statement for each task.
            Self::Sqlite(pool, _) if tasks.len() == 1 => {
                let mut connection = pool.acquire().await?;
                apalis_sqlite::queries::push_tasks(&mut *connection, QUEUE, &tasks).await?;
            }
            Self::Sqlite(pool, _) => {
                let mut transaction = pool.begin().await?;
                apalis_sqlite::queries::push_tasks(&mut *transaction, QUEUE, &tasks).await?;
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    /// What an operator of the store does after a bulk load. Without statistics SQLite acknowledges
    /// through the index on the worker's name, which visits every job that the worker ever had.
    async fn after_bulk_push(&self) -> Result<()> {
        if let Self::Sqlite(pool, _) = self {
            sqlx::query("ANALYZE").execute(pool).await?;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<bool> {
        Ok(match self {
            Self::Postgres(pool) => {
                sqlx::query_scalar("select exists (select 1 from apalis.jobs where status <> 'Done')")
                    .fetch_one(pool)
                    .await?
            }
            Self::Sqlite(pool, _) => {
                sqlx::query_scalar("select exists (select 1 from Jobs where status <> 'Done')")
                    .fetch_one(pool)
                    .await?
            }
        })
    }

    fn start_worker(
        &self,
        index: usize,
        args: &Args,
        report: &Arc<Report>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let name = format!("worker-{index}");
        let report = Arc::clone(report);
        let handler = move |id: u64| {
            report.on_start(id);
            async { Ok::<(), BoxDynError>(()) }
        };
        let latency = args.scenario == Scenario::Latency;
        let concurrency = Scale::of(args).concurrency;
        match self {
            Self::Postgres(pool) => {
                let config = apalis_postgres::Config::default()
                    .queue(QUEUE)
                    .batch_size(concurrency)
                    .lock_tasks(false);
                let mut strategy = Strategy::new();
                if latency {
                    strategy = strategy.stream(Pubsub::new(pool.clone(), QUEUE.to_owned()));
                }
                let strategy = strategy.interval(POLL_INTERVAL);
                let backend = PostgresStorage::<u64>::new(pool)
                    .with_config(config)
                    .poll_with_strategy(strategy);
                let worker = WorkerBuilder::new(name)
                    .backend(backend)
                    .concurrency(concurrency)
                    .build(handler);
                on_own_thread(move || worker.run(), stop)
            }
            Self::Sqlite(pool, listener) => {
                let config = apalis_sqlite::Config::default()
                    .queue(QUEUE)
                    .batch_size(concurrency)
                    .lock_tasks(false);
                let mut strategy = Strategy::new();
                if let Some(listener) = listener {
                    strategy = strategy.stream(listener.clone());
                }
                let strategy = strategy.interval(POLL_INTERVAL);
                let backend = SqliteStorage::<u64>::new(pool)
                    .with_config(config)
                    .poll_with_strategy(strategy);
                let worker = WorkerBuilder::new(name)
                    .backend(backend)
                    .concurrency(concurrency)
                    .build(handler);
                on_own_thread(move || worker.run(), stop)
            }
        }
    }

    fn start_workers(&self, args: &Args, report: &Arc<Report>) -> Workers {
        let (stop, stopped) = watch::channel(false);
        let threads = (0..Scale::of(args).workers)
            .map(|index| self.start_worker(index, args, report, stopped.clone()))
            .collect();
        Workers { stop, threads }
    }
}

struct Workers {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                eprintln!("a worker panicked");
            }
        }
    }
}

// The future of a worker is not Send for every handler, the worker itself is.
fn on_own_thread<F>(
    run: impl FnOnce() -> F + Send + 'static,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()>
where
    F: Future<Output = Result<(), WorkerError>>,
{
    let runtime = Handle::current();
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                ended = run() => if let Err(error) = ended {
                    eprintln!("a worker ended: {error}");
                },
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

async fn drain(store: &Store, args: &Args) -> Result<serde_json::Value> {
    let start = Instant::now();
    let mut from = 0;
    while from < args.count {
        let to = args.count.min(from + PUSH_CHUNK);
        store.push(from..to).await?;
        from = to;
    }
    store.after_bulk_push().await?;
    let enqueued = start.elapsed().as_secs_f64();
    ensure!(
        store.unfinished().await?,
        "nothing is queued after the bulk enqueue"
    );

    let report = Report::new(0);
    let drain_start = Instant::now();
    let workers = store.start_workers(args, &report);
    // Asking the store costs it work, so it is asked only once every handler has run.
    report.until_handled(args.count).await;
    while store.unfinished().await? {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let drained = drain_start.elapsed().as_secs_f64();
    let processes = workers.threads.len();
    workers.stop();
    Ok(serde_json::json!({
        "processes": processes,
        "concurrency": Scale::of(args).concurrency,
        "enqueue_seconds": rounded(enqueued),
        "drain_seconds": rounded(drained),
        "total_seconds": rounded(enqueued + drained),
        "per_second": (args.count as f64 / (enqueued + drained)).round(),
    }))
}

async fn enqueue(store: &Store, args: &Args) -> Result<serde_json::Value> {
    // Opens every producer's connection and fills statement caches outside the clock.
    try_join_all((0..args.producers).map(|id| store.push(id..id + 1))).await?;
    let next = AtomicU64::new(0);
    let start = Instant::now();
    try_join_all((0..args.producers).map(|_| async {
        loop {
            let id = next.fetch_add(1, Ordering::SeqCst);
            if id >= args.count {
                return anyhow::Ok(());
            }
            store.push(id..id + 1).await?;
        }
    }))
    .await?;
    let taken = start.elapsed().as_secs_f64();
    Ok(serde_json::json!({
        "producers": args.producers,
        "seconds": rounded(taken),
        "per_second": (args.count as f64 / taken).round(),
    }))
}

async fn latency(store: &Store, args: &Args) -> Result<serde_json::Value> {
    let jobs = WARM_UP_JOBS + args.count;
    let report = Report::new(jobs);
    let workers = store.start_workers(args, &report);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let one_at_a_time = if args.rate.is_some() { WARM_UP_JOBS } else { jobs };
    for id in 0..one_at_a_time {
        tokio::time::sleep(PAUSE).await;
        report.on_send(id);
        store.push(id..id + 1).await?;
        report.until_handled(id + 1).await;
    }
    if let Some(rate) = args.rate {
        // An open loop: a slow answer never delays the next job.
        let start = Instant::now();
        let mut running = Vec::new();
        for id in WARM_UP_JOBS..jobs {
            let due = Duration::from_secs_f64((id - WARM_UP_JOBS) as f64 / rate);
            tokio::time::sleep_until((start + due).into()).await;
            let (store, report) = (store.clone(), Arc::clone(&report));
            running.push(tokio::spawn(async move {
                report.on_send(id);
                store.push(id..id + 1).await
            }));
        }
        for pushed in running {
            pushed.await??;
        }
        report.until_handled(jobs).await;
    }
    workers.stop();
    let Ok(mut measured) = report.measured.lock() else {
        bail!("a handler panicked");
    };
    measured.sort_by(f64::total_cmp);
    let percentile = |share: f64| {
        let index = (measured.len() as f64 * share) as usize;
        measured
            .get(index.min(measured.len().saturating_sub(1)))
            .copied()
            .map(rounded)
    };
    Ok(serde_json::json!({
        "rate": args.rate,
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
    }))
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let store = Store::open(&args).await?;
    let scenario = async {
        Ok::<_, anyhow::Error>(match args.scenario {
            Scenario::Drain => ("drain", drain(&store, &args).await?),
            Scenario::Enqueue => ("enqueue", enqueue(&store, &args).await?),
            Scenario::Latency => ("latency", latency(&store, &args).await?),
        })
    };
    let (name, result) = tokio::time::timeout(LIMIT, scenario)
        .await
        .with_context(|| format!("no result after {} s", LIMIT.as_secs()))??;
    let mut line = serde_json::json!({
        "peer": store.name(),
        "version": APALIS_VERSION,
        "scenario": name,
        "count": args.count,
    });
    if let (Some(line), serde_json::Value::Object(result)) = (line.as_object_mut(), result) {
        line.extend(result);
    }
    println!("{line}");
    Ok(())
}
