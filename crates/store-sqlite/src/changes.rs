//! Changes of rows, and the claim of a sandbox.

use crate::engine::translate;
use crate::queue;
use crate::rows::{bind, value};
use crate::writer::Op;
use ostler_domain::{Clock, Sandbox, SandboxId, SystemClock, Timestamp};
use ostler_store::{
    Change, ClaimSandbox, Column, Hint, NewEvent, Record, SandboxStamp, StoreError, Table, Told, Value,
    json_to_value,
};
use rusqlite::params_from_iter;

/// Applies a list; the caller's savepoint undoes all of it when one fails.
pub(crate) fn commit(op: &mut Op<'_>, changes: Vec<Change>) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Insert { table, values } => insert(op, table, values)?,
            Change::Update {
                table,
                values,
                expected,
            } => update(op, table, values, expected)?,
            Change::Delete { table, key } => delete(op, table, key)?,
            Change::Enqueue(run) => {
                queue::enqueue(op, &[*run])?;
            }
            Change::CancelRun(id) => {
                queue::request_cancel(op, id, SystemClock.now())?;
            }
            Change::ReleaseRun(id) => {
                queue::release(op, &[id])?;
            }
            Change::SkipRun { id, reason, at } => {
                queue::skip(op, &[id], &reason, at)?;
            }
            Change::SupersedeRun(id) => queue::supersede(op, id)?,
            Change::Event(event) => append(op, &event)?,
        }
    }
    Ok(())
}

fn touched(op: &mut Op<'_>, table: &Table) {
    if table == Sandbox::TABLE || table == ostler_domain::Pool::TABLE {
        op.hint(Hint::Pools);
    }
}

/// Says which table it was where SQLite does not.
fn named(table: &Table) -> impl Fn(StoreError) -> StoreError {
    let name = table.name.to_owned();
    move |error| match error {
        StoreError::Reference { .. } => StoreError::Reference { table: name.clone() },
        other => other,
    }
}

fn insert(op: &mut Op<'_>, table: &'static Table, values: Vec<Value>) -> Result<(), StoreError> {
    let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let places = vec!["?"; columns.len()];
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        table.name,
        columns.join(", "),
        places.join(", ")
    );
    op.execute(&sql, params_from_iter(values.into_iter().map(bind)))
        .map_err(named(table))?;
    touched(op, table);
    Ok(())
}

/// `a = ?1 AND b = ?2` for the key of a table, numbered from `first`.
fn key_is(table: &Table, first: usize) -> String {
    let parts: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(n, column)| format!("{column} = ?{}", first + n))
        .collect();
    parts.join(" AND ")
}

fn update(
    op: &mut Op<'_>,
    table: &'static Table,
    values: Vec<Value>,
    expected: i64,
) -> Result<(), StoreError> {
    let sets: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(n, (column, _))| format!("{column} = ?{}", n + 1))
        .collect();
    let count = values.len();
    let key: Vec<Value> = table
        .key
        .iter()
        .filter_map(|column| table.position(column))
        .map(|at| values[at].clone())
        .collect();
    let sql = format!(
        "UPDATE {} SET {} WHERE {} AND version = ?{}",
        table.name,
        sets.join(", "),
        key_is(table, count + 1),
        count + key.len() + 1
    );
    let parameters = values
        .into_iter()
        .chain(key.iter().cloned())
        .chain([Value::Int(expected)])
        .map(bind);
    let changed = op
        .execute(&sql, params_from_iter(parameters))
        .map_err(named(table))?;
    if changed == 0 {
        let texts: Vec<String> = key
            .into_iter()
            .map(|value| match value {
                Value::Text(text) => text,
                other => format!("{other:?}"),
            })
            .collect();
        return Err(StoreError::Conflict {
            table: table.name,
            key: texts.join("/"),
        });
    }
    touched(op, table);
    Ok(())
}

fn delete(op: &mut Op<'_>, table: &'static Table, key: Vec<Value>) -> Result<(), StoreError> {
    let sql = format!("DELETE FROM {} WHERE {}", table.name, key_is(table, 1));
    op.execute(&sql, params_from_iter(key.into_iter().map(bind)))
        .map_err(named(table))?;
    touched(op, table);
    Ok(())
}

fn append(op: &mut Op<'_>, event: &NewEvent) -> Result<(), StoreError> {
    op.execute(
        "INSERT INTO events (tenant_id, kind, subject, data, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            event.tenant_id.map(|id| id.to_string()),
            &event.kind,
            &event.subject,
            event.data.to_string(),
            event.at.0,
        ),
    )?;
    op.hint(Hint::Events);
    Ok(())
}

/// See [`ostler_store::Store::claim_sandbox`].
pub(crate) fn claim_sandbox(
    op: &mut Op<'_>,
    claim: &ClaimSandbox,
    told: Option<&Told>,
) -> Result<Option<Sandbox>, StoreError> {
    let columns: Vec<&str> = Sandbox::TABLE.columns.iter().map(|(name, _)| *name).collect();
    let sql = format!(
        "UPDATE sandboxes SET status = 'running', tenant_id = ?3, department_id = ?4, config = ?5, \
         tool_allowlist = ?6, for_run = ?7, claimed_at = ?8, used_at = ?8, version = version + 1 \
         WHERE id = (SELECT id FROM sandboxes WHERE pool = ?1 AND server_id = ?2 AND status = 'warm' \
                     ORDER BY created_at, id LIMIT 1) \
         RETURNING {}",
        columns.join(", ")
    );
    let parameters = [
        claim.pool.to_value(),
        claim.server_id.to_value(),
        claim.tenant_id.to_value(),
        claim.department_id.to_value(),
        json_to_value(&claim.config),
        json_to_value(&claim.tool_allowlist),
        claim.for_run.to_value(),
        claim.now.to_value(),
    ];
    let mut statement = op.connection.prepare_cached(&sql).map_err(translate)?;
    let claimed = crate::rows::collect(
        &mut statement,
        params_from_iter(parameters.into_iter().map(bind)),
        |row| {
            let values = (0..columns.len())
                .map(|at| value(row, at))
                .collect::<Result<Vec<_>, _>>()?;
            Sandbox::from_values(values)
        },
    )
    .map_err(named(Sandbox::TABLE))?;
    drop(statement);
    let claimed = claimed.into_iter().next();
    if let Some(sandbox) = &claimed {
        op.hint(Hint::Pools);
        if let Some(told) = told {
            commit(op, told(sandbox))?;
        }
    }
    Ok(claimed)
}

/// See [`ostler_store::Store::stamp_sandboxes`].
pub(crate) fn stamp_sandboxes(
    op: &mut Op<'_>,
    ids: &[SandboxId],
    what: SandboxStamp,
    at: Timestamp,
) -> Result<(), StoreError> {
    let sql = format!("UPDATE sandboxes SET {} = ?2 WHERE id = ?1", what.column());
    for id in ids {
        op.execute(&sql, (id.to_string(), at.0))?;
    }
    Ok(())
}

/// See [`ostler_store::Store::prune`].
pub(crate) fn prune(
    op: &mut Op<'_>,
    table: &'static Table,
    column: &'static str,
    before: Timestamp,
) -> Result<u64, StoreError> {
    let sql = format!("DELETE FROM {} WHERE {column} < ?1", table.name);
    Ok(op.execute(&sql, [before.0])? as u64)
}
