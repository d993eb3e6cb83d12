//! A quick look at how fast the store is here: `cargo run --release -p ostler-store-sqlite --example sqlite_throughput`.
//!
//! Every number is of durable operations: each is counted when it was acknowledged, after its `fsync`.

#![expect(clippy::unwrap_used, reason = "a measurement: an error ends it")]

use ostler_domain::{
    CommandSpec, NewRun, Requirements, RunId, RunKind, RunOutcome, RunSpec, RunStatus, ServerId, TenantId,
    Timestamp,
};
use ostler_store::{ClaimRuns, FinishRun, RunQueue, Store};
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn run(class: usize, priority: i32) -> NewRun {
    NewRun {
        id: RunId::new(),
        tenant_id: TenantId::DEFAULT,
        kind: RunKind::Command,
        project_id: None,
        task_id: None,
        subtask_id: None,
        ordinal: 1,
        requirements: Requirements {
            pool: Some(format!("pool-{class}")),
            ..Requirements::default()
        },
        priority,
        max_attempts: 3,
        not_before: None,
        spec: RunSpec {
            commands: vec![CommandSpec {
                argv: vec!["true".into()],
                ..CommandSpec::default()
            }],
            ..RunSpec::default()
        },
        created_at: Timestamp(1),
    }
}

async fn open(directory: &Path, name: &str) -> Arc<SqliteStore> {
    let store = SqliteStore::open(directory.join(name), SqliteOptions::default()).unwrap();
    store.migrate_up(None).await.unwrap();
    Arc::new(store)
}

async fn all_classes(store: &SqliteStore) -> Vec<i64> {
    store.classes().await.unwrap().iter().map(|c| c.id).collect()
}

fn claim(classes: &[i64], limit: u32) -> ClaimRuns {
    ClaimRuns {
        server_id: ServerId::from_u128(1),
        classes: classes.to_vec(),
        limit,
        now: Timestamp(2),
    }
}

fn rate(what: &str, count: usize, took: Duration) {
    println!(
        "{what}: {count} in {took:.3?} = {:.0}/s",
        count as f64 / took.as_secs_f64()
    );
}

/// 100,000 runs in bulk, then claimed and ended in batches by two workers.
async fn bulk_and_drain(directory: &Path) {
    const TOTAL: usize = 100_000;
    let store = open(directory, "drain.db").await;
    let runs: Vec<NewRun> = (0..TOTAL).map(|_| run(0, 0)).collect();
    let start = Instant::now();
    for part in runs.chunks(5000) {
        store.enqueue(part.to_vec()).await.unwrap();
    }
    rate("bulk enqueue", TOTAL, start.elapsed());
    let classes = all_classes(&store).await;
    let start = Instant::now();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (store, classes) = (Arc::clone(&store), classes.clone());
            tokio::spawn(async move {
                loop {
                    let claimed = store.claim(claim(&classes, 1000)).await.unwrap();
                    if claimed.is_empty() {
                        return;
                    }
                    let ends = claimed
                        .iter()
                        .map(|run| FinishRun {
                            id: run.submitted.id,
                            attempt: run.attempt,
                            status: RunStatus::Succeeded,
                            outcome: RunOutcome {
                                exit_code: Some(0),
                                ..RunOutcome::default()
                            },
                            at: Timestamp(3),
                        })
                        .collect();
                    assert!(store.finish(ends).await.unwrap().iter().all(|ended| *ended));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    rate("drained to acknowledged", TOTAL, start.elapsed());
    let counters = store.counters(None).await.unwrap();
    assert_eq!(counters.get(&RunStatus::Succeeded), Some(&(TOTAL as i64)));
    store.close().await;
}

/// Single durable submissions.
async fn single_enqueue(directory: &Path, producers: usize) -> f64 {
    let store = open(directory, &format!("single-{producers}.db")).await;
    let start = Instant::now();
    let limit = Duration::from_secs(3);
    let tasks: Vec<_> = (0..producers)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut count = 0;
                while start.elapsed() < limit {
                    store.enqueue(vec![run(0, 0)]).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    let took = start.elapsed();
    rate(&format!("single enqueue, {producers} producers"), total, took);
    store.close().await;
    total as f64 / took.as_secs_f64()
}

/// Claims with many runs waiting in 50 classes, and a fresh run of high priority.
async fn claim_latency(directory: &Path, waiting: usize) {
    let store = open(directory, &format!("waiting-{waiting}.db")).await;
    for part in 0..waiting / 1000 {
        let runs = (0..1000).map(|n| run((part + n) % 50, 0)).collect();
        store.enqueue(runs).await.unwrap();
    }
    let classes = all_classes(&store).await;
    for limit in [1, 16] {
        let mut times = Vec::new();
        for round in 0..30 {
            let urgent = run(round % 50, 9);
            let id = urgent.id;
            store.enqueue(vec![urgent]).await.unwrap();
            let start = Instant::now();
            let claimed = store.claim(claim(&classes, limit)).await.unwrap();
            times.push(start.elapsed());
            assert_eq!(claimed[0].submitted.id, id);
        }
        times.sort();
        println!(
            "claim of {limit} with {waiting} waiting in {} classes: p50 {:.3?}, p90 {:.3?}",
            classes.len(),
            times[15],
            times[27]
        );
    }
    store.close().await;
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    bulk_and_drain(directory.path()).await;
    let one = single_enqueue(directory.path(), 1).await;
    let many = single_enqueue(directory.path(), 64).await;
    println!("64 producers are {:.1} times as fast as one", many / one);
    claim_latency(directory.path(), 1_000).await;
    claim_latency(directory.path(), 1_000_000).await;
}
