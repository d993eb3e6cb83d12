//! Between rows of SQLite and values of the store.

use crate::engine::translate;
use ostler_domain::{NewRun, Run, RunOutcome};
use ostler_store::{Column, StoreError, Value, corrupt, json_from_value};
use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Params, Row, Statement};

/// A value as a parameter.
pub(crate) fn bind(value: Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Int(number) => Sql::Integer(number),
        Value::Float(number) => Sql::Real(number),
        Value::Text(text) => Sql::Text(text),
    }
}

/// Column `at` of a row.
pub(crate) fn value(row: &Row<'_>, at: usize) -> Result<Value, StoreError> {
    Ok(match row.get_ref(at).map_err(translate)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Float(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(error) => return Err(corrupt("a table", "a column", error.to_string())),
        },
        ValueRef::Blob(_) => {
            return Err(corrupt(
                "a table",
                "a column",
                "bytes where text is expected".to_owned(),
            ));
        }
    })
}

/// Every row of a statement, through `map`.
pub(crate) fn collect<T>(
    statement: &mut Statement<'_>,
    parameters: impl Params,
    mut map: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = statement.query(parameters).map_err(translate)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(translate)? {
        all.push(map(row)?);
    }
    Ok(all)
}

/// The first column of a row.
pub(crate) fn first<T: Column>(row: &Row<'_>) -> Result<T, StoreError> {
    T::from_value(value(row, 0)?).map_err(|m| corrupt("runs", "the first column", m))
}

/// What [`run`] reads, in its order; `runs` must go by its own name in the statement.
pub(crate) const RUN: &str = "id, tenant_id, kind, project_id, task_id, subtask_id, plan_id, ordinal, \
    (SELECT c.requirements FROM run_classes c WHERE c.id = runs.class_id), priority, max_attempts, not_before, \
    status = 'queued' AND delayed = 2, spec, created_at, seq, status, attempt, cancel_requested, server_id, sandbox_id, \
    started_at, finished_at, outcome";

/// A run from the columns of [`RUN`].
pub(crate) fn run(row: &Row<'_>) -> Result<Run, StoreError> {
    fn get<T: Column>(row: &Row<'_>, at: usize, name: &'static str) -> Result<T, StoreError> {
        T::from_value(value(row, at)?).map_err(|m| corrupt("runs", name, m))
    }
    fn json<T: serde::de::DeserializeOwned>(
        row: &Row<'_>,
        at: usize,
        name: &'static str,
    ) -> Result<T, StoreError> {
        json_from_value(value(row, at)?).map_err(|m| corrupt("runs", name, m))
    }
    let outcome = match value(row, 23)? {
        Value::Null => RunOutcome::default(),
        text => json_from_value(text).map_err(|m| corrupt("runs", "outcome", m))?,
    };
    Ok(Run {
        submitted: NewRun {
            id: get(row, 0, "id")?,
            tenant_id: get(row, 1, "tenant_id")?,
            kind: get(row, 2, "kind")?,
            project_id: get(row, 3, "project_id")?,
            task_id: get(row, 4, "task_id")?,
            subtask_id: get(row, 5, "subtask_id")?,
            plan_id: get(row, 6, "plan_id")?,
            ordinal: get(row, 7, "ordinal")?,
            requirements: json(row, 8, "requirements")?,
            priority: get(row, 9, "priority")?,
            max_attempts: get(row, 10, "max_attempts")?,
            not_before: get(row, 11, "not_before")?,
            held: get(row, 12, "delayed")?,
            spec: json(row, 13, "spec")?,
            created_at: get(row, 14, "created_at")?,
        },
        seq: get(row, 15, "seq")?,
        status: get(row, 16, "status")?,
        attempt: get(row, 17, "attempt")?,
        cancel_requested: get(row, 18, "cancel_requested")?,
        server_id: get(row, 19, "server_id")?,
        sandbox_id: get(row, 20, "sandbox_id")?,
        started_at: get(row, 21, "started_at")?,
        finished_at: get(row, 22, "finished_at")?,
        outcome,
    })
}
