//! Ends of attempts: finished, put back, cancelled.

use super::read::{int, text};
use crate::commit::{Failure, all_changes_in, enqueued, named};
use crate::connect::Inner;
use crate::error::{Fate, Tries, fate, store_error};
use ostler_domain::{NewRun, RunId, RunOutcome, RunStatus, Timestamp, Usage};
use ostler_store::{Cancelled, Change, FinishRun, Hint, RequeueRun, StoreError};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How often a run that moves from one table to another is looked for again.
const ROUNDS: usize = 10;

/// The outcome of a run that never came to one.
const EMPTY: &str = "{}";

/// Only the present attempt is in `run_active`; that is the fence. Each run is looked up by itself and locked, whatever
/// the planner believes about the table (see the claim), and then removed by its id: its row may have been updated since
/// the statement began, so its place is not certain. `$6` says that an earlier try may have succeeded
/// without telling: then the very same end counts as this call's, and is not `fresh`, since what follows from it was
/// committed with it.
const FINISH: &str = "
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $7::bigint[])
        AS i(id, attempt, status, outcome, at, superseded)
), gone AS MATERIALIZED (
    SELECT a.*, i.status, i.outcome, i.at, i.superseded FROM input i CROSS JOIN LATERAL (
        SELECT * FROM run_active WHERE id = i.id AND attempt = i.attempt OFFSET 0 FOR UPDATE) a
), removed AS (
    DELETE FROM run_active WHERE id = ANY (ARRAY(SELECT id FROM gone))
), ended AS (
    INSERT INTO run_ends (seq, attempt, cancel_requested, started_at, finished_at, status, server_id, sandbox_id,
        outcome, plan_id, superseded)
    SELECT seq, attempt, cancel_requested, started_at, at, status, server_id, sandbox_id, outcome, plan_id, superseded
    FROM gone
), counted AS (
    INSERT INTO run_counts (tenant_id, running, succeeded, failed, timed_out, cancelled, lost, skipped)
    SELECT tenant_id, -count(*), count(*) FILTER (WHERE status = 'succeeded'),
        count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'timed_out'),
        count(*) FILTER (WHERE status = 'cancelled'), count(*) FILTER (WHERE status = 'lost'),
        count(*) FILTER (WHERE status = 'skipped')
    FROM gone GROUP BY tenant_id
)
SELECT id, attempt, true AS fresh FROM gone
UNION ALL
SELECT i.id, i.attempt, false FROM input i CROSS JOIN LATERAL (SELECT seq FROM runs WHERE id = i.id OFFSET 0) r
    CROSS JOIN LATERAL (SELECT * FROM run_ends WHERE seq = r.seq OFFSET 0) e
WHERE $6 AND e.attempt = i.attempt AND e.status = i.status AND e.finished_at = i.at";

const REQUEUE: &str = "
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS i(id, attempt, lost_outcome, not_before, at, spared)
), gone AS MATERIALIZED (
    SELECT a.id, a.seq, a.class_id, a.rank, a.tenant_id, a.plan_id, a.attempt, a.spared + i.spared AS spared,
        a.cancel_requested, a.started_at, a.server_id, a.sandbox_id, i.lost_outcome, i.not_before, i.at,
        CASE WHEN a.cancel_requested = 1 THEN 'cancelled'
            WHEN i.spared = 0 AND a.attempt - a.spared >= a.max_attempts THEN 'lost'
            ELSE 'queued' END AS status
    FROM input i CROSS JOIN LATERAL (
        SELECT * FROM run_active WHERE id = i.id AND attempt = i.attempt OFFSET 0 FOR UPDATE) a
), removed AS (
    DELETE FROM run_active WHERE id = ANY (ARRAY(SELECT id FROM gone))
), ready AS (
    INSERT INTO run_ready (class_id, rank, seq, attempt, spared, started_at)
    SELECT class_id, rank, seq, attempt, spared, started_at FROM gone WHERE status = 'queued' AND not_before IS NULL
), delayed AS (
    INSERT INTO run_delayed (class_id, rank, seq, attempt, spared, started_at, not_before)
    SELECT class_id, rank, seq, attempt, spared, started_at, not_before FROM gone
    WHERE status = 'queued' AND not_before IS NOT NULL
), submitted AS (
    UPDATE runs r SET not_before = (SELECT g.not_before FROM gone g WHERE g.seq = r.seq)
    WHERE r.seq = ANY (ARRAY(
        SELECT g.seq FROM gone g CROSS JOIN LATERAL (SELECT not_before FROM runs WHERE seq = g.seq OFFSET 0) o
        WHERE g.status = 'queued' AND o.not_before IS DISTINCT FROM g.not_before))
), ended AS (
    INSERT INTO run_ends (seq, attempt, cancel_requested, started_at, finished_at, status, server_id, sandbox_id,
        plan_id, outcome)
    SELECT seq, attempt, cancel_requested, started_at, at, status, server_id, sandbox_id, plan_id,
        CASE status WHEN 'lost' THEN lost_outcome ELSE $7 END
    FROM gone WHERE status <> 'queued'
), counted AS (
    INSERT INTO run_counts (tenant_id, running, queued, cancelled, lost)
    SELECT tenant_id, -count(*), count(*) FILTER (WHERE status = 'queued'),
        count(*) FILTER (WHERE status = 'cancelled'), count(*) FILTER (WHERE status = 'lost')
    FROM gone GROUP BY tenant_id
)
SELECT id, attempt, status FROM gone";

/// The first of each (run, attempt) in a list, with its place: a second one finds the attempt over.
fn firsts<T>(list: &[T], key: impl Fn(&T) -> (RunId, u32)) -> Vec<&T> {
    let mut seen = HashSet::with_capacity(list.len());
    list.iter().filter(|item| seen.insert(key(item))).collect()
}

fn key_of(row: &PgRow) -> Result<(RunId, u32), StoreError> {
    Ok((text(row, 0, "id")?, int(row, 1, "attempt")?))
}

/// The outcome without what is absent; most outcomes are little else, and every one is written to the log and the table.
fn json(outcome: &RunOutcome) -> Result<String, StoreError> {
    if *outcome == RunOutcome::default() {
        return Ok(EMPTY.into());
    }
    let unwritable = |e: serde_json::Error| StoreError::Engine {
        message: format!("an outcome cannot be written: {e}"),
    };
    let mut value = serde_json::to_value(outcome).map_err(unwritable)?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
        if outcome.usage == Usage::default() {
            fields.remove("usage");
        }
    }
    Ok(value.to_string())
}

pub(super) async fn finish(inner: &Inner, ends: &[FinishRun]) -> Result<Vec<bool>, StoreError> {
    if let Some(end) = ends.iter().find(|end| !end.status.is_terminal()) {
        return Err(StoreError::Engine {
            message: format!("run {} cannot end as {}", end.id, end.status),
        });
    }
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let list = firsts(ends, |end| (end.id, end.attempt));
    let ids: Vec<String> = list.iter().map(|end| end.id.to_string()).collect();
    let attempts: Vec<i64> = list.iter().map(|end| i64::from(end.attempt)).collect();
    let states: Vec<&str> = list.iter().map(|end| end.status.as_str()).collect();
    let outcomes: Vec<String> = list
        .iter()
        .map(|end| json(&end.outcome))
        .collect::<Result<_, _>>()?;
    let times: Vec<i64> = list.iter().map(|end| end.at.0).collect();
    let superseded: Vec<i64> = list.iter().map(|end| i64::from(end.is_superseded())).collect();
    // Within the transaction they must be known: it holds a connection already.
    let follow: Vec<NewRun> = list.iter().flat_map(|end| enqueued(&end.then)).collect();
    let mut tries = Tries::default();
    let mut in_doubt = false;
    let (rows, hints) = loop {
        let query = sqlx::query(FINISH)
            .bind(&ids)
            .bind(&attempts)
            .bind(&states)
            .bind(&outcomes)
            .bind(&times)
            .bind(in_doubt)
            .bind(&superseded);
        let once = async {
            if list.iter().all(|end| end.then.is_empty()) {
                return Ok((inner.rows(query).await?, BTreeSet::new()));
            }
            inner.classes.of(&inner.pool, &follow).await?;
            finish_and(inner, query, &list).await
        };
        match once.await {
            Ok(done) => break done,
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Sql(error)) => {
                in_doubt |= fate(&error) == Fate::Unknown;
                if !tries.again(&error, true).await {
                    return Err(store_error(&error));
                }
            }
        }
    };
    for hint in named(&hints) {
        inner.hints.give(hint);
    }
    let mut done: HashSet<(RunId, u32)> = rows.iter().map(key_of).collect::<Result<_, _>>()?;
    if !done.is_empty() {
        inner.upkeep.note(1, 0);
        inner.hints.give(Hint::RunsFinished);
    }
    // Removed as it is told, so that only the first of equal ones is true.
    Ok(ends
        .iter()
        .map(|end| done.remove(&(end.id, end.attempt)))
        .collect())
}

/// Ends attempts and commits what follows from the ends that are.
async fn finish_and(
    inner: &Inner,
    query: Query<'_, Postgres, PgArguments>,
    list: &[&FinishRun],
) -> Result<(Vec<PgRow>, BTreeSet<u8>), Failure> {
    let mut transaction = inner.transaction().await?;
    let rows = query.fetch_all(&mut *transaction).await?;
    let mut fresh = HashSet::with_capacity(rows.len());
    for row in &rows {
        if row.try_get(2)? {
            fresh.insert(key_of(row)?);
        }
    }
    let changes: Vec<Change> = list
        .iter()
        .filter(|end| fresh.contains(&(end.id, end.attempt)))
        .flat_map(|end| end.then.iter().cloned())
        .collect();
    let mut hints = BTreeSet::new();
    all_changes_in(inner, &mut transaction, &changes, &mut hints).await?;
    transaction.commit().await?;
    inner.upkeep.note(changes.len(), 0);
    Ok((rows, hints))
}

pub(super) async fn requeue(
    inner: &Inner,
    runs: &[RequeueRun],
) -> Result<Vec<Option<RunStatus>>, StoreError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let list = firsts(runs, |run| (run.id, run.attempt));
    let ids: Vec<String> = list.iter().map(|run| run.id.to_string()).collect();
    let attempts: Vec<i64> = list.iter().map(|run| i64::from(run.attempt)).collect();
    let lost: Vec<String> = list
        .iter()
        .map(|run| {
            json(&RunOutcome {
                error: Some(run.reason.clone()),
                ..RunOutcome::default()
            })
        })
        .collect::<Result<_, _>>()?;
    let not_before: Vec<Option<i64>> = list.iter().map(|run| run.not_before.map(|t| t.0)).collect();
    let times: Vec<i64> = list.iter().map(|run| run.at.0).collect();
    let spared: Vec<i64> = list.iter().map(|run| i64::from(!run.counts)).collect();
    let mut tries = Tries::default();
    let rows = loop {
        let query = sqlx::query(REQUEUE)
            .bind(&ids)
            .bind(&attempts)
            .bind(&lost)
            .bind(&not_before)
            .bind(&times)
            .bind(&spared)
            .bind(EMPTY);
        match inner.rows(query).await {
            Ok(rows) => break rows,
            Err(error) => {
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    };
    let mut states: HashMap<(RunId, u32), RunStatus> = HashMap::with_capacity(rows.len());
    for row in &rows {
        states.insert(key_of(row)?, text(row, 2, "status")?);
    }
    if !states.is_empty() {
        inner.upkeep.note(1, 0);
        let queued = states
            .values()
            .filter(|status| **status == RunStatus::Queued)
            .count();
        if queued > 0 {
            inner.hints.give(Hint::RunsQueued);
        }
        if queued < states.len() {
            inner.hints.give(Hint::RunsFinished);
        }
    }
    Ok(runs
        .iter()
        .map(|run| states.remove(&(run.id, run.attempt)))
        .collect())
}

/// Rows of `run_ready` are never updated: see the claim for why they are removed by their place.
pub(super) const SKIP: &str = "
WITH wanted AS MATERIALIZED (
    SELECT r.* FROM unnest($1::text[]) AS i(id) CROSS JOIN LATERAL (
        SELECT id, seq, class_id, -priority AS rank, tenant_id, plan_id FROM runs WHERE id = i.id OFFSET 0) r
), places AS MATERIALIZED (
    SELECT q.tid FROM wanted w CROSS JOIN LATERAL (
        SELECT ctid AS tid FROM run_ready WHERE class_id = w.class_id AND rank = w.rank AND seq = w.seq OFFSET 0) q
), ready AS (
    DELETE FROM run_ready WHERE ctid = ANY (ARRAY(SELECT tid FROM places)) RETURNING seq, attempt, started_at
), delayed AS (
    DELETE FROM run_delayed WHERE seq = ANY (ARRAY(SELECT seq FROM wanted)) RETURNING seq, attempt, started_at
), gone AS MATERIALIZED (
    SELECT g.seq, g.attempt, g.started_at, r.id, r.tenant_id, r.plan_id
    FROM (SELECT * FROM ready UNION ALL SELECT * FROM delayed) g CROSS JOIN LATERAL (
        SELECT id, tenant_id, plan_id FROM runs WHERE seq = g.seq OFFSET 0) r
), ended AS (
    INSERT INTO run_ends (seq, attempt, cancel_requested, started_at, finished_at, status, outcome, plan_id)
    SELECT seq, attempt, 0, started_at, $2, 'skipped', $3, plan_id FROM gone
), counted AS (
    INSERT INTO run_counts (tenant_id, queued, skipped) SELECT tenant_id, -count(*), count(*) FROM gone GROUP BY tenant_id
)
SELECT id FROM gone";

/// Those that wait although [`SKIP`] did not find them: they were on their way from one table to another.
const STILL_WAITING: &str = "
SELECT r.id FROM unnest($1::text[]) AS i(id)
    CROSS JOIN LATERAL (SELECT id, seq, class_id, -priority AS rank FROM runs WHERE id = i.id OFFSET 0) r
WHERE EXISTS (SELECT 1 FROM run_ready q WHERE q.class_id = r.class_id AND q.rank = r.rank AND q.seq = r.seq)
    OR EXISTS (SELECT 1 FROM run_delayed d WHERE d.seq = r.seq)";

/// Skips runs within a transaction; returns those that were.
pub(crate) async fn skip_in(
    connection: &mut PgConnection,
    ids: &[RunId],
    reason: &str,
    at: Timestamp,
) -> Result<HashSet<RunId>, Failure> {
    let outcome = json(&RunOutcome {
        error: Some(reason.to_owned()),
        ..RunOutcome::default()
    })?;
    let mut rest: Vec<String> = ids
        .iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(ToString::to_string)
        .collect();
    let mut skipped = HashSet::with_capacity(rest.len());
    for _ in 0..ROUNDS {
        if rest.is_empty() {
            return Ok(skipped);
        }
        let rows = sqlx::query(SKIP)
            .bind(&rest)
            .bind(at.0)
            .bind(&outcome)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            skipped.insert(text(row, 0, "id")?);
        }
        if rows.len() == rest.len() {
            return Ok(skipped);
        }
        rest = sqlx::query_scalar(STILL_WAITING)
            .bind(&rest)
            .fetch_all(&mut *connection)
            .await?;
    }
    Err(Failure::Sql(sqlx::Error::Protocol(format!(
        "run {} moves faster than it can be skipped",
        rest.first().map_or("", String::as_str)
    ))))
}

pub(super) async fn skip(
    inner: &Inner,
    ids: &[RunId],
    reason: &str,
    at: Timestamp,
) -> Result<Vec<bool>, StoreError> {
    let mut tries = Tries::default();
    let mut skipped = loop {
        let once = async {
            let mut transaction = inner.transaction().await?;
            let skipped = skip_in(&mut transaction, ids, reason, at).await?;
            transaction.commit().await?;
            Ok(skipped)
        };
        match once.await {
            Ok(skipped) => break skipped,
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Sql(error)) => {
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    };
    if !skipped.is_empty() {
        inner.upkeep.note(1, 0);
        inner.hints.give(Hint::RunsFinished);
    }
    // Removed as it is told, so that only the first of equal ones is true.
    Ok(ids.iter().map(|id| skipped.remove(id)).collect())
}

/// See [`ostler_store::Change::SupersedeRun`].
pub(crate) async fn supersede_in(connection: &mut PgConnection, id: RunId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE run_ends SET superseded = 1 WHERE seq = (SELECT seq FROM runs WHERE id = $1)")
        .bind(id.to_string())
        .execute(connection)
        .await
        .map(|_| ())
}

const CANCEL_WAITING: &str = "
WITH wanted AS MATERIALIZED (SELECT seq, class_id, -priority AS rank, tenant_id, plan_id FROM runs WHERE id = $1),
ready AS (
    DELETE FROM run_ready q USING wanted w WHERE q.class_id = w.class_id AND q.rank = w.rank AND q.seq = w.seq
    RETURNING q.seq, q.attempt, q.started_at
), delayed AS (
    DELETE FROM run_delayed q USING wanted w WHERE q.seq = w.seq RETURNING q.seq, q.attempt, q.started_at
), gone AS (
    SELECT * FROM ready UNION ALL SELECT * FROM delayed
), ended AS (
    INSERT INTO run_ends (seq, attempt, cancel_requested, started_at, finished_at, status, outcome, plan_id)
    SELECT seq, g.attempt, 1, g.started_at, $2, 'cancelled', $3, w.plan_id FROM gone g JOIN wanted w USING (seq)
), counted AS (
    INSERT INTO run_counts (tenant_id, queued, cancelled) SELECT w.tenant_id, -1, 1 FROM gone g JOIN wanted w USING (seq)
)
SELECT seq FROM gone";

/// Requests the end of a run within a transaction.
pub(crate) async fn cancel_in(
    connection: &mut PgConnection,
    id: RunId,
    at: Timestamp,
) -> Result<Cancelled, sqlx::Error> {
    let id = id.to_string();
    // A run can move from one table to another between two looks, but not for ever.
    for _ in 0..ROUNDS {
        let waiting = sqlx::query(CANCEL_WAITING)
            .bind(&id)
            .bind(at.0)
            .bind(EMPTY)
            .fetch_optional(&mut *connection)
            .await?;
        if waiting.is_some() {
            return Ok(Cancelled::AtOnce);
        }
        let running = sqlx::query("UPDATE run_active SET cancel_requested = 1 WHERE id = $1")
            .bind(&id)
            .execute(&mut *connection)
            .await?;
        if running.rows_affected() > 0 {
            return Ok(Cancelled::Requested);
        }
        let known = sqlx::query(
            "SELECT e.seq IS NOT NULL FROM runs r LEFT JOIN run_ends e ON e.seq = r.seq WHERE r.id = $1",
        )
        .bind(&id)
        .fetch_optional(&mut *connection)
        .await?;
        match known {
            None => return Ok(Cancelled::Unknown),
            Some(row) if row.try_get(0)? => return Ok(Cancelled::TooLate),
            Some(_) => {}
        }
    }
    Err(sqlx::Error::Protocol(format!(
        "run {id} moves faster than it can be cancelled"
    )))
}
