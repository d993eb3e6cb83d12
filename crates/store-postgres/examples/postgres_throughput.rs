//! Figures of the queue on a private server with fsync on: `cargo run --release --example postgres_throughput`.

#![allow(clippy::unwrap_used, reason = "a program for figures: an error ends it")]

use ostler_domain::{
    CommandSpec, NewRun, Requirements, RunId, RunKind, RunOutcome, RunSpec, RunStatus, ServerId, TenantId,
    Timestamp,
};
use ostler_store::{ClaimRuns, FinishRun, Hint, RunQueue, Store};
use ostler_store_postgres::{Options, PostgresStore};
use ostler_test_kit::Postgres;
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
            labels: [("class".to_owned(), class.to_string())].into(),
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

async fn class_ids(store: &PostgresStore) -> Vec<i64> {
    store.classes().await.unwrap().into_iter().map(|c| c.id).collect()
}

fn claim(server: ServerId, classes: &[i64], limit: u32) -> ClaimRuns {
    ClaimRuns {
        server_id: server,
        classes: classes.to_vec(),
        limit,
        now: Timestamp(1000),
    }
}

fn end(run: &ostler_domain::Run) -> FinishRun {
    FinishRun {
        id: run.submitted.id,
        attempt: run.attempt,
        status: RunStatus::Succeeded,
        outcome: RunOutcome::default(),
        at: Timestamp(2000),
    }
}

fn rate(count: usize, time: Duration) -> String {
    format!(
        "{:.0}/s ({count} in {:.2} s)",
        count as f64 / time.as_secs_f64(),
        time.as_secs_f64()
    )
}

async fn fill(store: &Arc<PostgresStore>, count: usize, classes: usize) {
    let chunk = 1000;
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..2 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for start in (0..count / 2).step_by(chunk) {
                let runs = (start..(start + chunk).min(count / 2)).map(|n| run((n + part) % classes, 0));
                store.enqueue(runs.collect()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

async fn drain(store: &Arc<PostgresStore>, count: usize, claims: u32) -> Duration {
    let classes = class_ids(store).await;
    let server = ServerId::new();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (store, classes) = (Arc::clone(store), classes.clone());
        tasks.spawn(async move {
            let mut done = 0;
            loop {
                let runs = store.claim(claim(server, &classes, claims)).await.unwrap();
                if runs.is_empty() {
                    return done;
                }
                let ends = store.finish(runs.iter().map(end).collect()).await.unwrap();
                assert!(ends.iter().all(|ok| *ok));
                done += runs.len();
            }
        });
    }
    let done: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(done, count);
    start.elapsed()
}

async fn producers(store: &Arc<PostgresStore>, producers: usize, time: Duration) -> f64 {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..producers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut count = 0;
            while start.elapsed() < time {
                store.enqueue(vec![run(0, 0)]).await.unwrap();
                count += 1;
            }
            count
        });
    }
    let count: u32 = tasks.join_all().await.into_iter().sum();
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// CPU time of this process, or of the server once it has ended. On a busy machine it says more than the clock.
fn cpu(who: i32) -> f64 {
    // SAFETY: all zeroes is a valid rusage, and getrusage only writes into it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |p: usize| times[(times.len() - 1) * p / 100];
    format!("p50 {:?}, p99 {:?}", at(50), at(99))
}

/// Submits one at a time and claims it as soon as the hint comes.
async fn latency(store: &Arc<PostgresStore>) -> (String, String) {
    let classes = class_ids(store).await;
    let server = ServerId::new();
    let (mut submits, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let mut hints = store.hints();
        let start = Instant::now();
        let waiter = {
            let (store, classes) = (Arc::clone(store), classes.clone());
            tokio::spawn(async move {
                loop {
                    if matches!(hints.recv().await, Ok(Hint::RunsQueued)) {
                        let runs = store.claim(claim(server, &classes, 1)).await.unwrap();
                        if !runs.is_empty() {
                            return (start.elapsed(), runs);
                        }
                    }
                }
            })
        };
        store.enqueue(vec![run(0, 0)]).await.unwrap();
        submits.push(start.elapsed());
        let (time, runs) = waiter.await.unwrap();
        starts.push(time);
        store.finish(runs.iter().map(end).collect()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (percentiles(submits), percentiles(starts))
}

async fn dispatch(store: &Arc<PostgresStore>, classes: &[i64]) -> (String, String) {
    let server = ServerId::new();
    let (mut ones, mut hundreds) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        for (limit, times) in [(1, &mut ones), (10, &mut hundreds)] {
            let start = Instant::now();
            let runs = store.claim(claim(server, classes, limit)).await.unwrap();
            times.push(start.elapsed());
            let back = runs.iter().map(|r| ostler_store::RequeueRun {
                id: r.submitted.id,
                attempt: r.attempt,
                reason: String::new(),
                not_before: None,
                at: Timestamp(1),
                counts: false,
            });
            store.requeue(back.collect()).await.unwrap();
        }
    }
    (percentiles(ones), percentiles(hundreds))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = Postgres::start();
    let url = server.database();
    let options = Options {
        pool_size: 70,
        ..Options::default()
    };
    let store = Arc::new(PostgresStore::connect(&url, options).await.unwrap());
    store.migrate_up(None).await.unwrap();

    let count = 100_000;
    let rounds = if std::env::args().any(|arg| arg == "p5") {
        0
    } else {
        3
    };
    for round in 0..rounds {
        let start = Instant::now();
        fill(&store, count, 1).await;
        let filled = start.elapsed();
        let drained = drain(&store, count, 1000).await;
        println!("P4 round {round}: enqueue {}", rate(count, filled));
        println!("P4 round {round}: drain   {}", rate(count, drained));
        println!("P4 round {round}: both    {}", rate(count, filled + drained));
    }
    if std::env::args().any(|arg| arg == "p4") {
        store.close().await;
        drop(server);
        println!(
            "P4 CPU seconds for {}: client {:.2}, server {:.2}",
            3 * count,
            cpu(libc::RUSAGE_SELF),
            cpu(libc::RUSAGE_CHILDREN)
        );
        return;
    }
    store.enqueue(vec![run(0, 0)]).await.unwrap();
    let (submit, start) = latency(&store).await;
    println!("P6 submit {submit}; submit to start {start}");
    let one = producers(&store, 1, Duration::from_secs(3)).await;
    let many = producers(&store, 64, Duration::from_secs(3)).await;
    println!(
        "P5 one producer {one:.0}/s, 64 producers {many:.0}/s, ratio {:.1}",
        many / one
    );
    let left = store.counters(None).await.unwrap()[&RunStatus::Queued];
    drain(&store, usize::try_from(left).unwrap(), 1000).await;

    if std::env::args().any(|arg| arg == "quick") {
        store.close().await;
        return;
    }
    fill(&store, 1000, 50).await;
    let classes = class_ids(&store).await;
    println!("P7 with 1,000: {:?}", dispatch(&store, &classes).await);
    fill(&store, 1_000_000, 50).await;
    println!("P7 with 1,000,000: {:?}", dispatch(&store, &classes).await);
    store.enqueue(vec![run(3, 9)]).await.unwrap();
    let start = Instant::now();
    let first = store.claim(claim(ServerId::new(), &classes, 1)).await.unwrap();
    println!(
        "P7 fresh high-priority run: priority {} after {:?}",
        first[0].submitted.priority,
        start.elapsed()
    );
    let drained = drain(&store, 1_001_000, 1000).await;
    println!(
        "P7 drain of 1,000,000 in 50 classes: {}",
        rate(1_001_000, drained)
    );
    store.close().await;
}
