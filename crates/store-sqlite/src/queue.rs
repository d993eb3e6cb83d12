//! Writes about runs. Every one that concerns an attempt has the attempt in its `WHERE`.

use crate::changes;
use crate::engine::translate;
use crate::rows::bind;
use crate::writer::Op;
use ostler_domain::{
    NewRun, Requirements, RunId, RunOutcome, RunStatus, SandboxId, ServerId, TenantId, Timestamp,
};
use ostler_store::{Cancelled, Column, FinishRun, Hint, RequeueRun, StoreError, corrupt, json_to_value};
use rusqlite::{OptionalExtension, params};

/// The number of the class of these requirements of a tenant; made when it is new.
fn class(op: &mut Op<'_>, tenant: TenantId, requirements: &Requirements) -> Result<i64, StoreError> {
    let canonical = requirements.canonical();
    if let Some(id) = op.classes.get(&tenant).and_then(|known| known.get(&canonical)) {
        return Ok(*id);
    }
    let key = (tenant.to_string(), &canonical);
    op.execute(
        "INSERT INTO run_classes (tenant_id, requirements) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        (&key.0, key.1),
    )?;
    let id = op
        .connection
        .prepare_cached("SELECT id FROM run_classes WHERE tenant_id = ?1 AND requirements = ?2")
        .and_then(|mut s| s.query_row((&key.0, key.1), |row| row.get(0)))
        .map_err(translate)?;
    op.classes.entry(tenant).or_default().insert(canonical, id);
    Ok(id)
}

/// The column `delayed` of a run that waits.
fn waits_for(held: bool, not_before: Option<Timestamp>) -> u8 {
    if held { 2 } else { u8::from(not_before.is_some()) }
}

/// See [`ostler_store::RunQueue::enqueue`].
pub(crate) fn enqueue(op: &mut Op<'_>, runs: &[NewRun]) -> Result<Vec<i64>, StoreError> {
    let connection = op.connection;
    let mut statement = connection
        .prepare_cached(
            "INSERT INTO runs (id, class_id, priority, status, delayed, not_before, attempt, uncounted, max_attempts, \
             cancel_requested, tenant_id, kind, project_id, task_id, subtask_id, plan_id, ordinal, created_at, spec) \
             VALUES (?1, ?2, ?3, 'queued', ?4, ?5, 0, 0, ?6, 0, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )
        .map_err(translate)?;
    let mut numbers = Vec::with_capacity(runs.len());
    for run in runs {
        let class = class(op, run.tenant_id, &run.requirements)?;
        statement
            .execute(params![
                run.id.to_string(),
                class,
                run.priority,
                waits_for(run.held, run.not_before),
                run.not_before.map(|t| t.0),
                run.max_attempts,
                run.tenant_id.to_string(),
                run.kind.as_str(),
                bind(run.project_id.to_value()),
                bind(run.task_id.to_value()),
                bind(run.subtask_id.to_value()),
                bind(run.plan_id.to_value()),
                run.ordinal,
                run.created_at.0,
                bind(json_to_value(&run.spec)),
            ])
            .map_err(translate)?;
        numbers.push(connection.last_insert_rowid());
        op.count(run.tenant_id, RunStatus::Queued, 1);
    }
    if !runs.is_empty() {
        op.hint(Hint::RunsQueued);
    }
    Ok(numbers)
}

/// See [`ostler_store::RunQueue::assign_sandbox`].
pub(crate) fn assign_sandbox(
    op: &Op<'_>,
    id: RunId,
    attempt: u32,
    sandbox: SandboxId,
) -> Result<bool, StoreError> {
    let changed = op.execute(
        "UPDATE runs SET sandbox_id = ?3 WHERE id = ?1 AND attempt = ?2 AND status = 'running'",
        (id.to_string(), attempt, sandbox.to_string()),
    )?;
    Ok(changed > 0)
}

/// See [`ostler_store::RunQueue::finish`].
pub(crate) fn finish(op: &mut Op<'_>, ends: Vec<FinishRun>) -> Result<Vec<bool>, StoreError> {
    if let Some(end) = ends.iter().find(|end| !end.status.is_terminal()) {
        return Err(StoreError::Engine {
            message: format!("{} cannot end as {}", end.id, end.status),
        });
    }
    let connection = op.connection;
    // Two statements for the reason given at the claim.
    let mut find = connection
        .prepare_cached(
            "SELECT tenant_id, seq FROM runs WHERE id = ?1 AND attempt = ?2 AND status = 'running'",
        )
        .map_err(translate)?;
    let mut change = connection
        .prepare_cached("UPDATE runs SET status = ?2, finished_at = ?3, outcome = ?4 WHERE seq = ?1")
        .map_err(translate)?;
    let mut done = Vec::with_capacity(ends.len());
    for end in ends {
        let found = crate::rows::collect(&mut find, (end.id.to_string(), end.attempt), |row| {
            let seq: i64 = row.get(1).map_err(translate)?;
            Ok((crate::rows::first(row)?, seq))
        })?
        .pop();
        done.push(found.is_some());
        let Some((tenant, seq)) = found else {
            continue;
        };
        let outcome = bind(json_to_value(&end.outcome));
        change
            .execute(params![seq, end.status.as_str(), end.at.0, outcome])
            .map_err(translate)?;
        if end.is_superseded() {
            supersede(op, end.id)?;
        }
        op.count(tenant, RunStatus::Running, -1);
        op.count(tenant, end.status, 1);
        op.hint(Hint::RunsFinished);
        if !end.then.is_empty() {
            changes::commit(op, end.then)?;
        }
    }
    Ok(done)
}

/// See [`ostler_store::Change::SupersedeRun`].
pub(crate) fn supersede(op: &Op<'_>, id: RunId) -> Result<(), StoreError> {
    op.execute(
        "UPDATE runs SET superseded = 1 WHERE id = ?1 AND status NOT IN ('queued', 'running')",
        [id.to_string()],
    )?;
    Ok(())
}

/// See [`ostler_store::RunQueue::release`].
pub(crate) fn release(op: &mut Op<'_>, ids: &[RunId]) -> Result<u64, StoreError> {
    let mut released = 0;
    for id in ids {
        released += op.execute(
            "UPDATE runs SET delayed = not_before IS NOT NULL \
             WHERE id = ?1 AND status = 'queued' AND delayed = 2",
            [id.to_string()],
        )? as u64;
    }
    if released > 0 {
        op.hint(Hint::RunsQueued);
    }
    Ok(released)
}

/// See [`ostler_store::RunQueue::skip`].
pub(crate) fn skip(
    op: &mut Op<'_>,
    ids: &[RunId],
    reason: &str,
    at: Timestamp,
) -> Result<Vec<bool>, StoreError> {
    let outcome = bind(json_to_value(&RunOutcome {
        error: Some(reason.to_owned()),
        ..RunOutcome::default()
    }));
    let mut done = Vec::with_capacity(ids.len());
    for id in ids {
        let skipped = op
            .connection
            .prepare_cached(
                "UPDATE runs SET status = 'skipped', finished_at = ?2, outcome = ?3 \
                 WHERE id = ?1 AND status = 'queued' RETURNING tenant_id",
            )
            .map_err(translate)
            .and_then(|mut s| {
                crate::rows::collect(&mut s, params![id.to_string(), at.0, outcome], crate::rows::first)
            })?
            .pop();
        done.push(skipped.is_some());
        if let Some(tenant) = skipped {
            op.count(tenant, RunStatus::Queued, -1);
            op.count(tenant, RunStatus::Skipped, 1);
            op.hint(Hint::RunsFinished);
        }
    }
    Ok(done)
}

/// See [`ostler_store::RunQueue::requeue`].
pub(crate) fn requeue(op: &mut Op<'_>, runs: &[RequeueRun]) -> Result<Vec<Option<RunStatus>>, StoreError> {
    runs.iter().map(|run| requeue_one(op, run)).collect()
}

fn requeue_one(op: &mut Op<'_>, run: &RequeueRun) -> Result<Option<RunStatus>, StoreError> {
    let found: Option<(i64, String, u32, u32, bool)> = op
        .connection
        .prepare_cached(
            "SELECT seq, tenant_id, uncounted, max_attempts, cancel_requested FROM runs \
             WHERE id = ?1 AND attempt = ?2 AND status = 'running'",
        )
        .and_then(|mut s| {
            s.query_row((run.id.to_string(), run.attempt), |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
            })
            .optional()
        })
        .map_err(translate)?;
    let Some((seq, tenant, uncounted, max_attempts, cancel)) = found else {
        return Ok(None);
    };
    let tenant = tenant
        .parse()
        .map_err(|e: ostler_domain::ParseIdError| corrupt("runs", "tenant_id", e.to_string()))?;
    let status = if cancel {
        RunStatus::Cancelled
    } else if run.counts && run.attempt.saturating_sub(uncounted) >= max_attempts {
        RunStatus::Lost
    } else {
        RunStatus::Queued
    };
    if status == RunStatus::Queued {
        op.execute(
            "UPDATE runs SET status = 'queued', delayed = ?2, not_before = ?3, uncounted = uncounted + ?4, \
             server_id = NULL, sandbox_id = NULL WHERE seq = ?1",
            (
                seq,
                waits_for(false, run.not_before),
                run.not_before.map(|t| t.0),
                !run.counts,
            ),
        )?;
        op.hint(Hint::RunsQueued);
    } else {
        let outcome = (status == RunStatus::Lost).then(|| RunOutcome {
            error: Some(run.reason.clone()),
            ..RunOutcome::default()
        });
        op.execute(
            "UPDATE runs SET status = ?2, finished_at = ?3, outcome = ?4 WHERE seq = ?1",
            params![
                seq,
                status.as_str(),
                run.at.0,
                outcome.map(|outcome| bind(json_to_value(&outcome)))
            ],
        )?;
        op.hint(Hint::RunsFinished);
    }
    op.count(tenant, RunStatus::Running, -1);
    op.count(tenant, status, 1);
    Ok(Some(status))
}

/// See [`ostler_store::RunQueue::request_cancel`].
pub(crate) fn request_cancel(op: &mut Op<'_>, id: RunId, at: Timestamp) -> Result<Cancelled, StoreError> {
    let cancelled = op
        .connection
        .prepare_cached(
            "UPDATE runs SET status = 'cancelled', cancel_requested = 1, finished_at = ?2 \
             WHERE id = ?1 AND status = 'queued' RETURNING tenant_id",
        )
        .map_err(translate)
        .and_then(|mut s| crate::rows::collect(&mut s, (id.to_string(), at.0), crate::rows::first))?
        .pop();
    if let Some(tenant) = cancelled {
        op.count(tenant, RunStatus::Queued, -1);
        op.count(tenant, RunStatus::Cancelled, 1);
        op.hint(Hint::RunsFinished);
        return Ok(Cancelled::AtOnce);
    }
    let requested = op.execute(
        "UPDATE runs SET cancel_requested = 1 WHERE id = ?1 AND status = 'running'",
        [id.to_string()],
    )?;
    if requested > 0 {
        op.hint(Hint::CancelRequested);
        return Ok(Cancelled::Requested);
    }
    let known = op
        .connection
        .prepare_cached("SELECT 1 FROM runs WHERE id = ?1")
        .and_then(|mut s| s.exists([id.to_string()]))
        .map_err(translate)?;
    Ok(if known {
        Cancelled::TooLate
    } else {
        Cancelled::Unknown
    })
}

/// See [`ostler_store::RunQueue::heartbeat`].
pub(crate) fn heartbeat(op: &Op<'_>, server: ServerId, now: Timestamp) -> Result<(), StoreError> {
    op.execute(
        "INSERT INTO servers (id, seen_at) VALUES (?1, ?2) \
         ON CONFLICT DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)",
        (server.to_string(), now.0),
    )?;
    Ok(())
}
