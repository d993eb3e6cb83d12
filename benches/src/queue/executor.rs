//! The same through the executor of the product: each run gets a sandbox of the sim driver, in which `true` is run.

use super::scenarios::WARM_UP_JOBS;
use super::{QueueArgs, enqueue_bulk, in_state, job, seconds, verify};
use crate::bench::IDLE_PAUSE;
use crate::probe::milliseconds;
use crate::stats::percentile;
use anyhow::Result;
use ostler_agents::{KindSettings, Kinds, Prompts};
use ostler_control::{
    Caller, Control, Executor, ExecutorSettings, LogStore, Parts, PoolChange, SandboxSettings, WorkSettings,
};
use ostler_domain::{DriverKind, RunStatus, SandboxTemplate, ServerId, SystemClock};
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories};
use ostler_sandbox::Driver;
use ostler_store::{Hint, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Runs at once.
const SLOTS: u32 = 64;

struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("ostler-bench")
            .tempdir_in(&args.directory)?;
        let driver: Arc<dyn Driver> = Arc::new(SimDriver::new(SimControl::new()));
        let root = directory.path();
        let control = Control::new(Parts {
            store: Arc::clone(store),
            clock: Arc::new(SystemClock),
            repositories: Repositories::open(
                &root.join("repositories"),
                Git::new(),
                ForgeOptions::default(),
            )?,
            kinds: Kinds::new(KindSettings::default()),
            prompts: Prompts::embedded()?,
            work: WorkSettings::default(),
            drivers: BTreeMap::from([(DriverKind::Sim, driver)]).into(),
            sandboxes: SandboxSettings::default(),
            logs: LogStore::open(root.join("logs"), 1 << 20)?,
            server_id: ServerId::new(),
        });
        control.ensure_default_tenant().await?;
        let template = SandboxTemplate::new(DriverKind::Sim);
        control
            .set_pool(
                &Caller::administrator(),
                "bench",
                PoolChange {
                    template: Some(template),
                    target: Some(0),
                    max: Some(SLOTS),
                    ..PoolChange::default()
                },
            )
            .await?;
        let settings = ExecutorSettings {
            slots: SLOTS,
            ..ExecutorSettings::default()
        };
        let executor = Executor::new(control, settings);
        executor.recover().await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(executor.run(stop.clone()));
        Ok(Self {
            stop,
            task,
            _directory: directory,
        })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

/// Waits until `count` runs have succeeded.
async fn succeeded(store: &Arc<dyn Store>, count: u32) -> Result<()> {
    let mut hints = store.hints();
    while in_state(store, RunStatus::Succeeded).await? < count {
        let finished = async { while !matches!(hints.recv().await, Ok(Hint::RunsFinished) | Err(_)) {} };
        // Asked now and then also when a hint was missed.
        let _ = tokio::time::timeout(Duration::from_millis(100), finished).await;
    }
    Ok(())
}

pub(super) async fn drain(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Value> {
    let start = Instant::now();
    enqueue_bulk(store, args.count, args, 1).await?;
    let enqueued = start.elapsed();
    let start = Instant::now();
    let server = Server::start(store, args).await?;
    // Looked at now and then, so that the looking is not what is measured.
    while in_state(store, RunStatus::Succeeded).await? < args.count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let drained = start.elapsed();
    server.stop().await?;
    verify(store, args.count).await?;
    Ok(json!({
        "enqueue_seconds": seconds(enqueued),
        "drain_seconds": seconds(drained),
        "total_seconds": seconds(enqueued + drained),
        "per_second": (f64::from(args.count) / (enqueued + drained).as_secs_f64()).round(),
    }))
}

/// From the enqueue to the end, seen by the one who enqueued.
pub(super) async fn latency(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Value> {
    let server = Server::start(store, args).await?;
    let mut waits = Vec::new();
    for number in 0..WARM_UP_JOBS + args.count {
        tokio::time::sleep(IDLE_PAUSE).await;
        let start = Instant::now();
        store.enqueue(vec![job(number, 0, 0)]).await?;
        succeeded(store, number + 1).await?;
        if number >= WARM_UP_JOBS {
            waits.push(milliseconds(start.elapsed()));
        }
    }
    server.stop().await?;
    verify(store, WARM_UP_JOBS + args.count).await?;
    Ok(json!({
        "rate": null,
        "p50_ms": percentile(&waits, 0.5),
        "p99_ms": percentile(&waits, 0.99),
    }))
}
