//! Changes in one transaction.

use crate::connect::{Inner, PostgresStore};
use crate::error::{Tries, store_error};
use crate::queue::{cancel_in, enqueue_in, release_in, skip_in, supersede_in};
use crate::value::bind_all;
use ostler_domain::{NewRun, RunId, Timestamp};
use ostler_store::{Cancelled, Change, Hint, NewEvent, StoreError, Table, Value};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a transaction came to nothing: by the engine, which may be worth another try, or by the rules.
pub(crate) enum Failure {
    Sql(sqlx::Error),
    Store(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl PostgresStore {
    pub(crate) async fn commit_changes(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        if changes.iter().all(|c| matches!(c, Change::Enqueue(_))) {
            let runs = changes.into_iter().filter_map(|change| match change {
                Change::Enqueue(run) => Some(*run),
                _ => None,
            });
            return self.enqueue_runs(runs.collect()).await.map(|_| ());
        }
        let mut tries = Tries::default();
        loop {
            match self.commit_once(&changes).await {
                Ok(hints) => {
                    for hint in hints {
                        self.inner.hints.give(hint);
                    }
                    return Ok(());
                }
                Err(Failure::Sql(error)) => {
                    if !tries.again(&error, false).await {
                        return Err(store_error(&error));
                    }
                }
                Err(Failure::Store(error)) => return Err(error),
            }
        }
    }

    async fn commit_once(&self, changes: &[Change]) -> Result<Vec<Hint>, Failure> {
        self.inner
            .classes
            .of(&self.inner.pool, &enqueued(changes))
            .await?;
        let mut hints = BTreeSet::new();
        if let [change @ (Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. })] = changes {
            let mut session = self.inner.session().await?;
            change_row(&mut session, change, &mut hints).await?;
            session.done().await?;
            return Ok(named(&hints));
        }
        let mut transaction = self.inner.transaction().await?;
        all_changes_in(&self.inner, &mut transaction, changes, &mut hints).await?;
        transaction.commit().await?;
        self.inner.upkeep.note(changes.len(), 0);
        Ok(named(&hints))
    }
}

/// The runs that these changes put on the queue.
pub(crate) fn enqueued(changes: &[Change]) -> Vec<NewRun> {
    let runs = changes.iter().filter_map(|change| match change {
        Change::Enqueue(run) => Some((**run).clone()),
        _ => None,
    });
    runs.collect()
}

/// Applies changes; this ends the transaction. The classes of the runs to enqueue must be known.
pub(crate) async fn all_changes_in(
    inner: &Inner,
    connection: &mut PgConnection,
    changes: &[Change],
    hints: &mut BTreeSet<u8>,
) -> Result<(), Failure> {
    // Runs go in as one list, and before what is done about them.
    let runs = enqueued(changes);
    if !runs.is_empty() {
        let classes = inner.classes.of(&inner.pool, &runs).await?;
        enqueue_in(connection, &runs, &classes).await?;
        hints.insert(Hint::RunsQueued as u8);
    }
    changes_in(connection, changes, hints).await
}

/// Applies all but the runs to enqueue. Events come last, so this ends the transaction.
pub(crate) async fn changes_in(
    connection: &mut PgConnection,
    changes: &[Change],
    hints: &mut BTreeSet<u8>,
) -> Result<(), Failure> {
    let mut events = Vec::new();
    let mut rest = changes;
    while let Some((change, after)) = rest.split_first() {
        rest = after;
        match change {
            Change::Enqueue(_) => {}
            Change::Event(event) => events.push(event),
            Change::CancelRun(id) => match cancel_in(&mut *connection, *id, present()).await? {
                Cancelled::AtOnce => {
                    hints.insert(Hint::RunsFinished as u8);
                }
                Cancelled::Requested => {
                    hints.insert(Hint::CancelRequested as u8);
                }
                Cancelled::TooLate | Cancelled::Unknown => {}
            },
            // Of these there may be thousands in a row, which go in one statement.
            Change::ReleaseRun(id) => {
                let mut ids = vec![*id];
                while let Some((Change::ReleaseRun(id), after)) = rest.split_first() {
                    ids.push(*id);
                    rest = after;
                }
                if release_in(&mut *connection, &ids).await? > 0 {
                    hints.insert(Hint::RunsQueued as u8);
                }
            }
            Change::SkipRun { id, reason, at } => {
                let mut ids = vec![*id];
                while let Some((
                    Change::SkipRun {
                        id,
                        reason: same,
                        at: then,
                    },
                    after,
                )) = rest.split_first()
                    && (same, then) == (reason, at)
                {
                    ids.push(*id);
                    rest = after;
                }
                if !skip_in(&mut *connection, &ids, reason, *at).await?.is_empty() {
                    hints.insert(Hint::RunsFinished as u8);
                }
            }
            Change::SupersedeRun(id) => supersede_in(&mut *connection, *id).await?,
            change => change_row(&mut *connection, change, hints).await?,
        }
    }
    if !events.is_empty() {
        append_events(connection, &events).await?;
        hints.insert(Hint::Events as u8);
    }
    Ok(())
}

pub(crate) fn named(hints: &BTreeSet<u8>) -> Vec<Hint> {
    [
        Hint::RunsQueued,
        Hint::CancelRequested,
        Hint::RunsFinished,
        Hint::Events,
        Hint::Pools,
    ]
    .into_iter()
    .filter(|hint| hints.contains(&(*hint as u8)))
    .collect()
}

/// A request to end a run that is part of a commit carries no time of its own.
fn present() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().plus(since)
}

async fn change_row(
    connection: &mut PgConnection,
    change: &Change,
    hints: &mut BTreeSet<u8>,
) -> Result<(), Failure> {
    let table = match change {
        Change::Insert { table, values } => {
            let marks: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
            let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
            let sql = format!(
                "INSERT INTO {} ({}) VALUES ({})",
                table.name,
                columns.join(", "),
                marks.join(", ")
            );
            sqlx::query_with(AssertSqlSafe(sql), bind_all(values.iter().cloned())?)
                .execute(connection)
                .await?;
            table
        }
        Change::Update {
            table,
            values,
            expected,
        } => {
            update(connection, table, values, *expected).await?;
            table
        }
        Change::Delete { table, key } => {
            let sql = format!("DELETE FROM {} WHERE {}", table.name, key_condition(table, 1));
            sqlx::query_with(AssertSqlSafe(sql), bind_all(key.iter().cloned())?)
                .execute(connection)
                .await?;
            table
        }
        _ => return Ok(()),
    };
    if matches!(table.name, "pools" | "sandboxes") {
        hints.insert(Hint::Pools as u8);
    }
    Ok(())
}

/// `a = $1 AND b = $2`, counting from `first`.
fn key_condition(table: &Table, first: usize) -> String {
    let parts: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(at, column)| format!("{column} = ${}", first + at))
        .collect();
    parts.join(" AND ")
}

async fn update(
    connection: &mut PgConnection,
    table: &'static Table,
    values: &[Value],
    expected: i64,
) -> Result<(), Failure> {
    let sets: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| !table.key.contains(name))
        .map(|(at, (name, _))| format!("{name} = ${}", at + 1))
        .collect();
    let keys: Vec<(usize, &str)> = table
        .key
        .iter()
        .filter_map(|column| table.position(column).map(|at| (at, *column)))
        .collect();
    let wheres: Vec<String> = keys
        .iter()
        .map(|(at, column)| format!("{column} = ${}", at + 1))
        .collect();
    let sql = format!(
        "UPDATE {} SET {} WHERE {} AND version = ${}",
        table.name,
        sets.join(", "),
        wheres.join(" AND "),
        values.len() + 1
    );
    let arguments = bind_all(values.iter().cloned().chain([Value::Int(expected)]))?;
    let done = sqlx::query_with(AssertSqlSafe(sql), arguments)
        .execute(connection)
        .await?;
    if done.rows_affected() == 0 {
        let key: Vec<String> = keys
            .iter()
            .map(|(at, _)| match &values[*at] {
                Value::Text(text) => text.clone(),
                other => format!("{other:?}"),
            })
            .collect();
        return Err(Failure::Store(StoreError::Conflict {
            table: table.name,
            key: key.join(" "),
        }));
    }
    Ok(())
}

/// Appends events as the last thing in a transaction. Numbers must become visible in order, so whoever takes numbers
/// holds a lock until its commit is visible.
async fn append_events(connection: &mut PgConnection, events: &[&NewEvent]) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('ostler events'), hashtext(current_schema()))")
        .execute(&mut *connection)
        .await?;
    let tenants: Vec<Option<String>> = events
        .iter()
        .map(|e| e.tenant_id.map(|t| t.to_string()))
        .collect();
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    let subjects: Vec<&str> = events.iter().map(|e| e.subject.as_str()).collect();
    let data: Vec<String> = events.iter().map(|e| e.data.to_string()).collect();
    let times: Vec<i64> = events.iter().map(|e| e.at.0).collect();
    sqlx::query(
        "INSERT INTO events (seq, tenant_id, kind, subject, data, at) \
         SELECT nextval('event_seq'), e.* \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS e",
    )
    .bind(tenants)
    .bind(kinds)
    .bind(subjects)
    .bind(data)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

/// For the one change that both a commit and a call of its own can make.
pub(crate) async fn cancel_alone(
    store: &PostgresStore,
    id: RunId,
    at: Timestamp,
) -> Result<Cancelled, StoreError> {
    let mut tries = Tries::default();
    loop {
        let once = async {
            let mut transaction = store.inner.transaction().await?;
            let cancelled = cancel_in(&mut transaction, id, at).await?;
            transaction.commit().await?;
            Ok(cancelled)
        };
        match once.await {
            Ok(cancelled) => {
                match cancelled {
                    Cancelled::AtOnce => {
                        store.inner.upkeep.note(1, 0);
                        store.inner.hints.give(Hint::RunsFinished);
                    }
                    Cancelled::Requested => store.inner.hints.give(Hint::CancelRequested),
                    Cancelled::TooLate | Cancelled::Unknown => {}
                }
                return Ok(cancelled);
            }
            Err(error) => {
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}
