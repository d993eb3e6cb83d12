//! The thread that writes.
//!
//! One transaction at a time, for as many operations as have queued up. An operation is answered only after the commit
//! that made it durable; one that fails is rolled back to its own savepoint and leaves the others alone.

use crate::engine::{closed, translate};
use ostler_domain::{RunStatus, TenantId};
use ostler_store::{Hint, StoreError};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Most operations of one transaction: beyond this, sharing one `fsync` saves nothing more.
const BATCH: usize = 1024;
/// Nothing more is taken into a transaction that is this old, so that large operations do not make others wait for ever.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// Numbers of classes by tenant and canonical requirements.
pub(crate) type Classes = HashMap<TenantId, HashMap<String, i64>>;

/// What an operation works with.
pub(crate) struct Op<'c> {
    /// In a transaction, in a savepoint of this operation.
    pub(crate) connection: &'c Connection,
    /// The classes, as far as they have been needed.
    pub(crate) classes: &'c mut Classes,
    counts: BTreeMap<(TenantId, RunStatus), i64>,
    hints: HashSet<Hint>,
}

impl Op<'_> {
    /// Runs of a tenant that came into a state, or left it when negative.
    pub(crate) fn count(&mut self, tenant: TenantId, status: RunStatus, by: i64) {
        *self.counts.entry((tenant, status)).or_default() += by;
    }

    /// Told once the transaction is committed.
    pub(crate) fn hint(&mut self, hint: Hint) {
        self.hints.insert(hint);
    }

    /// Executes a prepared statement; returns the number of rows that it changed.
    pub(crate) fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map_err(translate)
    }
}

/// An operation with its type hidden.
trait Job: Send {
    fn apply(&mut self, op: &mut Op<'_>) -> bool;
    /// Tells the caller: its own result, or that the whole transaction failed.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

struct Write<F, T> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Write<F, T>
where
    F: FnOnce(&mut Op<'_>) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn apply(&mut self, op: &mut Op<'_>) -> bool {
        self.result = self.work.take().map(|work| work(op));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let result = match (self.result, failure) {
            // Its own error says more than that of the transaction.
            (Some(Err(own)), _) => Err(own),
            (_, Some(failure)) => Err(failure),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(closed()),
        };
        // A caller that has gone away has no use for the answer.
        let _ = self.reply.send(result);
    }
}

/// The way to the thread that writes.
pub(crate) struct Writer {
    sender: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread. It ends when the writer is closed or dropped, after what was accepted by then, and lets go of
    /// `lock` last.
    pub(crate) fn start(
        connection: Connection,
        lock: Option<File>,
        queue: usize,
        hints: broadcast::Sender<Hint>,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let thread = std::thread::Builder::new()
            .name("ostler-sqlite".to_owned())
            .spawn(move || {
                serve(&connection, receiver, &hints);
                if let Err((_, error)) = connection.close() {
                    tracing::warn!(%error, "closing the database");
                }
                drop(lock);
            })
            .map_err(|e| StoreError::Unavailable {
                message: format!("no thread for the writer: {e}"),
            })?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Applies `work` in a transaction and returns when it is durable. Waits while the queue is full. Once accepted it
    /// is done even if the caller goes away.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Op<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let sender = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Write {
            work: Some(work),
            result: None,
            reply,
        };
        sender.send(Box::new(job)).await.map_err(|_| closed())?;
        drop(sender);
        answer.await.map_err(|_| closed())?
    }

    /// Accepts nothing more; returns when everything accepted is done.
    pub(crate) async fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && let Ok(Err(_)) = tokio::task::spawn_blocking(move || thread.join()).await
        {
            tracing::error!("the writer of the database had panicked");
        }
    }
}

fn serve(
    connection: &Connection,
    mut receiver: mpsc::Receiver<Box<dyn Job>>,
    hints: &broadcast::Sender<Hint>,
) {
    let mut classes = Classes::new();
    while let Some(first) = receiver.blocking_recv() {
        let mut jobs = Vec::new();
        let mut told = HashSet::new();
        match transaction(
            connection,
            &mut classes,
            first,
            &mut receiver,
            &mut jobs,
            &mut told,
        ) {
            Ok(()) => {
                for hint in told {
                    // Without a listener there is nobody to tell.
                    let _ = hints.send(hint);
                }
                for job in jobs {
                    job.answer(None);
                }
            }
            Err(error) => {
                tracing::warn!(%error, operations = jobs.len(), "a transaction failed");
                classes.clear();
                if !connection.is_autocommit()
                    && let Err(error) = connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "rolling back");
                }
                for job in jobs {
                    job.answer(Some(again(&error)));
                }
            }
        }
    }
}

/// Applies `first` and what has queued up behind it, and commits. `jobs` has all that were taken, in either case.
fn transaction(
    connection: &Connection,
    classes: &mut Classes,
    first: Box<dyn Job>,
    receiver: &mut mpsc::Receiver<Box<dyn Job>>,
    jobs: &mut Vec<Box<dyn Job>>,
    told: &mut HashSet<Hint>,
) -> Result<(), StoreError> {
    let run = |sql: &str| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map_err(translate)
    };
    let started = Instant::now();
    let mut counts: BTreeMap<(TenantId, RunStatus), i64> = BTreeMap::new();
    jobs.push(first);
    run("BEGIN IMMEDIATE")?;
    while let Some(job) = jobs.last_mut() {
        run("SAVEPOINT op")?;
        let mut op = Op {
            connection,
            classes,
            counts: BTreeMap::new(),
            hints: HashSet::new(),
        };
        if job.apply(&mut op) {
            for (key, by) in op.counts {
                *counts.entry(key).or_default() += by;
            }
            told.extend(op.hints);
        } else {
            // It may have been this one that made a class.
            classes.clear();
            if connection.is_autocommit() {
                // Errors such as a full disk make SQLite give up the whole transaction, not only the statement.
                return Err(StoreError::Unavailable {
                    message: "the transaction was given up because of another operation in it; try again"
                        .to_owned(),
                });
            }
            run("ROLLBACK TO op")?;
        }
        run("RELEASE op")?;
        if jobs.len() >= BATCH || started.elapsed() >= BATCH_TIME {
            break;
        }
        match receiver.try_recv() {
            Ok(job) => jobs.push(job),
            Err(_) => break,
        }
    }
    for ((tenant, status), by) in counts {
        if by != 0 {
            connection
                .prepare_cached(
                    "INSERT INTO run_counters (tenant_id, status, n) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET n = n + excluded.n",
                )
                .and_then(|mut s| s.execute((tenant.to_string(), status.as_str(), by)))
                .map_err(translate)?;
        }
    }
    run("COMMIT")?;
    Ok(())
}

/// The same error for each caller of a transaction.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { message } => StoreError::Full {
            message: message.clone(),
        },
        StoreError::Unavailable { message } => StoreError::Unavailable {
            message: message.clone(),
        },
        other => StoreError::Engine {
            message: other.to_string(),
        },
    }
}
