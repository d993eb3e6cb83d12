//! Group commit of runs that many callers submit one by one.
//!
//! What arrives while a transaction is under way goes into the next one together. When a list makes the transaction
//! fail, such as a run that is there already, each list of it is tried by itself, so that none suffers for another.

use super::enqueue::enqueue_in;
use crate::connect::{Inner, PostgresStore};
use crate::error::{Fate, Tries, fate, store_error};
use ostler_domain::NewRun;
use ostler_store::{Hint, Scope, StoreError};
use sqlx::Row;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

/// Lists of at least this many runs gain nothing from company.
const BULK: usize = 200;
/// Most lists in one transaction.
const LISTS: usize = 256;
/// Lists that may wait before callers do.
const WAITING: usize = 1024;
/// Transactions under way at once: one is made ready while the other waits for the disk.
const WORKERS: usize = 2;

struct Submission {
    scope: Scope,
    runs: Vec<NewRun>,
    answer: oneshot::Sender<Result<Vec<i64>, StoreError>>,
}

/// Takes submissions and groups them.
#[derive(Debug)]
pub(crate) struct Intake {
    sender: std::sync::Mutex<Option<mpsc::Sender<Submission>>>,
    workers: Mutex<JoinSet<()>>,
}

impl Intake {
    pub(crate) fn start(inner: &Arc<Inner>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(inner), Arc::clone(&receiver)));
        }
        Self {
            sender: std::sync::Mutex::new(Some(sender)),
            workers: Mutex::new(workers),
        }
    }

    fn sender(&self) -> Option<mpsc::Sender<Submission>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes nothing more and waits until everything that was taken has its answer.
    pub(crate) async fn finish(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut workers = self.workers.lock().await;
        while workers.join_next().await.is_some() {}
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable {
        message: "this store was closed".into(),
    }
}

impl PostgresStore {
    pub(crate) async fn enqueue_runs(&self, runs: Vec<NewRun>) -> Result<Vec<i64>, StoreError> {
        let sender = self.intake.sender().ok_or_else(closed)?;
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        if runs.len() >= BULK {
            return enqueue(&self.inner, Scope::current(), &runs)
                .await
                .map_err(|e| store_error(&e));
        }
        let (answer, answered) = oneshot::channel();
        sender
            .send(Submission {
                scope: Scope::current(),
                runs,
                answer,
            })
            .await
            .map_err(|_| closed())?;
        drop(sender);
        answered.await.map_err(|_| closed())?
    }
}

async fn work(inner: Arc<Inner>, receiver: Arc<Mutex<mpsc::Receiver<Submission>>>) {
    let mut batch = Vec::new();
    loop {
        receiver.lock().await.recv_many(&mut batch, LISTS).await;
        if batch.is_empty() {
            return;
        }
        // A transaction is within one scope.
        while let Some(scope) = batch.first().map(|first| first.scope) {
            let alike = |submission: &mut Submission| submission.scope == scope;
            let together: Vec<Submission> = batch.extract_if(.., alike).collect();
            submit(&inner, scope, together).await;
        }
    }
}

async fn submit(inner: &Inner, scope: Scope, together: Vec<Submission>) {
    let mut runs = Vec::with_capacity(together.len());
    let mut waiting = Vec::with_capacity(together.len());
    for submission in together {
        waiting.push((submission.runs.len(), submission.answer));
        runs.extend(submission.runs);
    }
    match enqueue(inner, scope, &runs).await {
        Ok(numbers) => {
            let mut numbers = numbers.into_iter();
            for (count, answer) in waiting {
                // A caller that no longer waits has still submitted.
                let _ = answer.send(Ok(numbers.by_ref().take(count).collect()));
            }
        }
        Err(error) if waiting.len() > 1 && fate(&error) == Fate::Final => {
            let mut rest = runs.as_slice();
            for (count, answer) in waiting {
                let (own, others) = rest.split_at(count);
                rest = others;
                let _ = answer.send(enqueue(inner, scope, own).await.map_err(|e| store_error(&e)));
            }
        }
        Err(error) => {
            for (_, answer) in waiting {
                let _ = answer.send(Err(store_error(&error)));
            }
        }
    }
}

/// Puts runs on the queue in a transaction of their own. When the connection breaks, looks whether they arrived.
async fn enqueue(inner: &Inner, scope: Scope, runs: &[NewRun]) -> Result<Vec<i64>, sqlx::Error> {
    let mut tries = Tries::default();
    let mut in_doubt = false;
    loop {
        let once = async {
            if in_doubt && let Some(numbers) = arrived(inner, scope, runs).await? {
                return Ok(numbers);
            }
            let classes = inner.classes.of(&inner.pool, runs).await?;
            let mut session = inner.session_in(scope).await?;
            let numbers = enqueue_in(&mut session, runs, &classes).await?;
            session.done().await?;
            Ok(numbers)
        };
        match once.await {
            Ok(numbers) => {
                inner.upkeep.note(1, 0);
                inner.hints.give(Hint::RunsQueued);
                return Ok(numbers);
            }
            Err(error) => {
                in_doubt |= fate(&error) == Fate::Unknown;
                if !tries.again(&error, true).await {
                    return Err(error);
                }
            }
        }
    }
}

/// The numbers of `runs` if they are all there.
async fn arrived(inner: &Inner, scope: Scope, runs: &[NewRun]) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let ids: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    let rows = sqlx::query("SELECT id, seq FROM runs WHERE id = ANY($1)")
        .bind(&ids)
        .fetch_all(&mut *inner.session_in(scope).await?)
        .await?;
    let mut numbers: HashMap<String, i64> = HashMap::with_capacity(rows.len());
    for row in &rows {
        numbers.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(ids.iter().map(|id| numbers.get(id).copied()).collect())
}
