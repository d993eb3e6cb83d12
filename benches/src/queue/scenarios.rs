//! Drain, enqueue and latency, as the peers do them.

use super::idle::{Handled, Workers};
use super::{QueueArgs, enqueue_bulk, in_state, job, seconds, verify};
use crate::bench::IDLE_PAUSE;
use crate::probe::milliseconds;
use crate::stats::percentile;
use anyhow::{Result, ensure};
use ostler_domain::RunStatus;
use ostler_store::Store;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub(super) const WARM_UP_JOBS: u32 = 50;

pub(super) async fn drain(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Value> {
    let start = Instant::now();
    enqueue_bulk(store, args.count, args, 1).await?;
    let enqueued = start.elapsed();
    let queued = in_state(store, RunStatus::Queued).await?;
    ensure!(
        queued == args.count,
        "{queued} runs are queued instead of {}",
        args.count
    );

    let handled = Handled::new(args.count);
    let start = Instant::now();
    let mut workers = Workers::start(store, &handled, args.claimers, args.batch);
    // Asking the store costs it work, so it is asked only once every handler has run.
    workers.or_fail(handled.until(args.count)).await?;
    while in_state(store, RunStatus::Succeeded).await? < args.count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let drained = start.elapsed();
    workers.stop().await?;
    handled.check()?;
    verify(store, args.count).await?;
    Ok(json!({
        "enqueue_seconds": seconds(enqueued),
        "drain_seconds": seconds(drained),
        "total_seconds": seconds(enqueued + drained),
        "per_second": (f64::from(args.count) / (enqueued + drained).as_secs_f64()).round(),
    }))
}

pub(super) async fn enqueue(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Value> {
    // Opens connections and fills statement caches outside the clock.
    enqueue_bulk_single(store, 0..args.producers, args.producers).await?;
    let start = Instant::now();
    enqueue_bulk_single(store, args.producers..args.producers + args.count, args.producers).await?;
    let taken = start.elapsed();
    let queued = in_state(store, RunStatus::Queued).await?;
    ensure!(queued == args.count + args.producers, "{queued} runs are queued");
    Ok(json!({
        "producers": args.producers,
        "seconds": seconds(taken),
        "per_second": (f64::from(args.count) / taken.as_secs_f64()).round(),
    }))
}

/// `producers` loops, each awaiting one enqueue at a time.
async fn enqueue_bulk_single(
    store: &Arc<dyn Store>,
    numbers: std::ops::Range<u32>,
    producers: u32,
) -> Result<()> {
    let next = Arc::new(AtomicU32::new(numbers.start));
    let mut tasks = JoinSet::new();
    for _ in 0..producers {
        let (store, next) = (Arc::clone(store), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return anyhow::Ok(());
                }
                store.enqueue(vec![job(number, 0, 0)]).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

pub(super) async fn latency(store: &Arc<dyn Store>, args: &QueueArgs) -> Result<Value> {
    let jobs = args.count + WARM_UP_JOBS;
    let handled = Handled::new(jobs);
    let mut workers = Workers::start(store, &handled, 1, 100);
    let mut enqueues = Vec::new();
    let one_at_a_time = if args.rate.is_some() { WARM_UP_JOBS } else { jobs };
    for number in 0..one_at_a_time {
        tokio::time::sleep(IDLE_PAUSE).await;
        handled.on_send(number);
        let start = Instant::now();
        store.enqueue(vec![job(number, 0, 0)]).await?;
        if number >= WARM_UP_JOBS {
            enqueues.push(milliseconds(start.elapsed()));
        }
        workers.or_fail(handled.until(number + 1)).await?;
    }
    if let Some(rate) = args.rate {
        // An open loop: a slow answer never delays the next job.
        let start = tokio::time::Instant::now();
        let mut running = JoinSet::new();
        for number in WARM_UP_JOBS..jobs {
            let due = Duration::from_secs_f64(f64::from(number - WARM_UP_JOBS) / rate);
            tokio::time::sleep_until(start + due).await;
            let (store, handled) = (Arc::clone(store), Arc::clone(&handled));
            running.spawn(async move {
                handled.on_send(number);
                let start = Instant::now();
                store.enqueue(vec![job(number, 0, 0)]).await?;
                anyhow::Ok(milliseconds(start.elapsed()))
            });
        }
        while let Some(done) = running.join_next().await {
            enqueues.push(done??);
        }
        workers.or_fail(handled.until(jobs)).await?;
    }
    workers.stop().await?;
    handled.check()?;
    verify(store, jobs).await?;
    let waits = handled.waits(WARM_UP_JOBS);
    Ok(json!({
        "rate": args.rate,
        "p50_ms": percentile(&waits, 0.5),
        "p99_ms": percentile(&waits, 0.99),
        "enqueue_p50_ms": percentile(&enqueues, 0.5),
    }))
}
