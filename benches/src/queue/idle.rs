//! The executor that does nothing, and what its handler notes.

use super::now;
use anyhow::{Result, ensure};
use ostler_domain::{Run, RunOutcome, RunStatus, ServerId};
use ostler_store::{ClaimRuns, FinishRun, Hint, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A new class is seen within this time at the latest, also while those that are known keep the executor busy.
const CLASSES: Duration = Duration::from_secs(1);
/// Claims and ends that wait for each other.
const BATCHES: usize = 4;

/// When jobs were sent and when their handlers started.
pub(super) struct Handled {
    epoch: Instant,
    sent: Vec<AtomicU64>,
    started: Vec<AtomicU64>,
    calls: Vec<AtomicU32>,
    total: AtomicU32,
    changed: Notify,
}

impl Handled {
    pub(super) fn new(jobs: u32) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            sent: (0..jobs).map(|_| AtomicU64::new(0)).collect(),
            started: (0..jobs).map(|_| AtomicU64::new(0)).collect(),
            calls: (0..jobs).map(|_| AtomicU32::new(0)).collect(),
            total: AtomicU32::new(0),
            changed: Notify::new(),
        })
    }

    fn clock(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    pub(super) fn on_send(&self, number: u32) {
        self.sent[number as usize].store(self.clock(), Ordering::Relaxed);
    }

    /// The handler.
    fn on_start(&self, number: u32) {
        let at = number as usize;
        self.started[at].store(self.clock(), Ordering::Relaxed);
        self.calls[at].fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) async fn until(&self, total: u32) {
        while self.total.load(Ordering::Acquire) < total {
            // The time-out covers a start between the check and the wait.
            let _ = tokio::time::timeout(Duration::from_millis(2), self.changed.notified()).await;
        }
    }

    /// Every job was handled once.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = self
            .calls
            .iter()
            .position(|calls| calls.load(Ordering::Relaxed) != 1);
        ensure!(wrong.is_none(), "job {wrong:?} was not handled exactly once");
        Ok(())
    }

    /// Milliseconds from the enqueue to the handler of all jobs from `first`.
    pub(super) fn waits(&self, first: u32) -> Vec<f64> {
        let pairs = self.sent.iter().zip(&self.started).skip(first as usize);
        pairs
            .map(|(sent, started)| {
                let waited = started
                    .load(Ordering::Relaxed)
                    .saturating_sub(sent.load(Ordering::Relaxed));
                waited as f64 / 1e6
            })
            .collect()
    }
}

/// Claims, calls the handler, writes the ends; until it is stopped.
pub(super) struct Workers {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

impl Workers {
    pub(super) fn start(store: &Arc<dyn Store>, handled: &Arc<Handled>, claimers: u32, batch: u32) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let server = ServerId::new();
        for _ in 0..claimers.max(1) {
            let (sender, receiver) = mpsc::channel(BATCHES);
            tasks.spawn(claim(
                Arc::clone(store),
                Arc::clone(handled),
                server,
                batch,
                sender,
                stop.clone(),
            ));
            tasks.spawn(finish(Arc::clone(store), receiver));
        }
        Self { stop, tasks }
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Waits for something, or for the error of a worker.
    pub(super) async fn or_fail(&mut self, what: impl Future<Output = ()>) -> Result<()> {
        tokio::select! {
            () = what => Ok(()),
            Some(done) = self.tasks.join_next() => match done? {
                Ok(()) => anyhow::bail!("a worker ended too early"),
                Err(error) => Err(error),
            },
        }
    }
}

async fn claim(
    store: Arc<dyn Store>,
    handled: Arc<Handled>,
    server_id: ServerId,
    limit: u32,
    ends: mpsc::Sender<Vec<FinishRun>>,
    stop: CancellationToken,
) -> Result<()> {
    let mut hints = store.hints();
    let mut classes: Vec<i64> = Vec::new();
    let mut learn_at = Instant::now();
    while !stop.is_cancelled() {
        // One claim answers all hints so far.
        while !matches!(
            hints.try_recv(),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
        ) {}
        let new_classes = Instant::now() >= learn_at;
        if new_classes {
            classes = store.classes().await?.iter().map(|class| class.id).collect();
            learn_at = Instant::now() + CLASSES;
        }
        let runs = store
            .claim(ClaimRuns {
                server_id,
                classes: classes.clone(),
                limit,
                now: now(),
                picks: Vec::new(),
                sandbox: None,
            })
            .await?;
        for run in &runs {
            handled.on_start(run.submitted.ordinal);
        }
        let claimed = runs.len();
        if claimed > 0 && ends.send(runs.iter().map(end).collect()).await.is_err() {
            break;
        }
        let wait = match claimed {
            n if n as u32 == limit => continue,
            // What came may be of a class that is not known yet.
            0 if !new_classes && classes.is_empty() => {
                learn_at = Instant::now();
                Duration::from_millis(1)
            }
            0 => CLASSES,
            _ => Duration::from_millis(10),
        };
        let hinted = async { while !matches!(hints.recv().await, Ok(Hint::RunsQueued) | Err(_)) {} };
        tokio::select! {
            () = hinted => {}
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

fn end(run: &Run) -> FinishRun {
    FinishRun {
        id: run.submitted.id,
        attempt: run.attempt,
        status: RunStatus::Succeeded,
        outcome: RunOutcome {
            exit_code: Some(0),
            ..RunOutcome::default()
        },
        at: now(),
        then: Vec::new(),
    }
}

async fn finish(store: Arc<dyn Store>, mut ends: mpsc::Receiver<Vec<FinishRun>>) -> Result<()> {
    while let Some(mut batch) = ends.recv().await {
        while let Ok(more) = ends.try_recv() {
            batch.extend(more);
        }
        let ended = store.finish(batch).await?;
        ensure!(ended.iter().all(|ended| *ended), "an end was refused");
    }
    Ok(())
}
