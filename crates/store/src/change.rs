//! Changes: what a use case commits in one transaction.

use crate::{Record, Table, Value};
use ostler_domain::{NewRun, RunId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// One change. A list of them is committed whole or not at all.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new row. One that is there already is `Duplicate`.
    Insert {
        /// Table.
        table: &'static Table,
        /// All columns.
        values: Vec<Value>,
    },
    /// New values for a row that still has the version that was read; otherwise `Conflict`.
    Update {
        /// Table.
        table: &'static Table,
        /// All columns, the version already counted up.
        values: Vec<Value>,
        /// The version that was read.
        expected: i64,
    },
    /// Removes a row; one that is not there is no error.
    Delete {
        /// Table.
        table: &'static Table,
        /// Values of the key columns.
        key: Vec<Value>,
    },
    /// Puts a run on the queue. One with the same id that is there already is `Duplicate`.
    Enqueue(Box<NewRun>),
    /// Requests the end of a run, as [`crate::RunQueue::request_cancel`].
    CancelRun(RunId),
    /// Lets a run wait for its turn, as [`crate::RunQueue::release`].
    ReleaseRun(RunId),
    /// Ends a run that was never started, as [`crate::RunQueue::skip`]. One that does not wait is left as it is.
    SkipRun {
        /// Which run.
        id: RunId,
        /// Why, in a sentence for people.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Another run of the same test takes the place of this one. Changes nothing about one that has not ended; for one
    /// that is being ended, [`crate::FinishRun`] says it.
    SupersedeRun(RunId),
    /// Tells those who watch.
    Event(NewEvent),
}

impl Change {
    /// A new row.
    pub fn insert<R: Record>(record: &R) -> Self {
        Self::Insert {
            table: R::TABLE,
            values: record.to_values(),
        }
    }

    /// New values for the row that `record` was read from: its version is the one that was read and is counted up by
    /// the store, not by the caller.
    pub fn update<R: Record>(record: &R) -> Self {
        debug_assert!(R::TABLE.versioned, "{} has no version", R::TABLE.name);
        let mut values = record.to_values();
        let expected = record.version();
        if let Some(at) = R::TABLE.position("version") {
            values[at] = Value::Int(expected + 1);
        }
        Self::Update {
            table: R::TABLE,
            values,
            expected,
        }
    }

    /// Removes the row of `record`.
    pub fn delete<R: Record>(record: &R) -> Self {
        let values = record.to_values();
        let key = R::TABLE
            .key
            .iter()
            .filter_map(|c| R::TABLE.position(c))
            .map(|at| values[at].clone())
            .collect();
        Self::Delete { table: R::TABLE, key }
    }

    /// Puts a run on the queue.
    pub fn enqueue(run: NewRun) -> Self {
        Self::Enqueue(Box::new(run))
    }
}

/// Something happened to an object; written in the same transaction as the change itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewEvent {
    /// Whose object; `None` for the operator's.
    pub tenant_id: Option<TenantId>,
    /// What happened, such as `subtask.updated`.
    pub kind: String,
    /// The object's id.
    pub subject: String,
    /// What a watcher needs to show it.
    pub data: serde_json::Value,
    /// When.
    pub at: Timestamp,
}

/// An event as it is kept. Whoever has seen number `n` has seen all smaller ones: numbers become visible in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position, increasing.
    pub seq: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: NewEvent,
}
