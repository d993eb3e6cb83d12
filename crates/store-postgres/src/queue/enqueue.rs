//! Putting runs on the queue, and letting go those that were held: one statement for any number of them.

use crate::connect::Inner;
use crate::error::{Tries, store_error};
use ostler_domain::{NewRun, RunId};
use ostler_store::{Hint, StoreError};
use sqlx::postgres::PgConnection;
use std::fmt::Display;

/// Numbers are drawn in the order of the list. Transactions draw them as they come, so a number says when a run was
/// submitted, not when it was committed; one with a lower number may appear later.
const ENQUEUE: &str = "
WITH submitted AS (
    INSERT INTO runs (seq, id, tenant_id, kind, project_id, task_id, subtask_id, plan_id, ordinal, class_id, priority,
        max_attempts, not_before, held, spec, created_at)
    SELECT nextval('run_seq'), i.*
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[]) AS i
    RETURNING seq, class_id, -priority AS rank, not_before, held, tenant_id
), ready AS (
    INSERT INTO run_ready (class_id, rank, seq, attempt, spared)
    SELECT class_id, rank, seq, 0, 0 FROM submitted WHERE not_before IS NULL AND held = 0
), delayed AS (
    INSERT INTO run_delayed (class_id, rank, seq, attempt, spared, not_before)
    SELECT class_id, rank, seq, 0, 0, CASE held WHEN 0 THEN not_before END
    FROM submitted WHERE not_before IS NOT NULL OR held = 1
), counted AS (
    INSERT INTO run_counts (tenant_id, queued) SELECT tenant_id, count(*) FROM submitted GROUP BY tenant_id
)
SELECT array_agg(seq) FROM submitted";

/// Runs that wait for no moment go to the ready ones, the others go on waiting for it. Each is looked up by itself: left
/// the choice, the planner would walk through everything that is held. Rows of `run_delayed` are never updated, either, so
/// they are removed by their place.
pub(super) const RELEASE: &str = "
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT r.seq FROM unnest($1::text[]) AS i(id)
        CROSS JOIN LATERAL (SELECT seq FROM runs WHERE id = i.id OFFSET 0) r
), places AS MATERIALIZED (
    SELECT d.tid FROM wanted w CROSS JOIN LATERAL (
        SELECT ctid AS tid, not_before FROM run_delayed WHERE seq = w.seq OFFSET 0) d WHERE d.not_before IS NULL
), gone AS (
    DELETE FROM run_delayed WHERE ctid = ANY (ARRAY(SELECT tid FROM places))
    RETURNING class_id, rank, seq, attempt, spared, started_at
), released AS MATERIALIZED (
    SELECT g.*, r.not_before FROM gone g CROSS JOIN LATERAL (SELECT not_before FROM runs WHERE seq = g.seq OFFSET 0) r
), ready AS (
    INSERT INTO run_ready (class_id, rank, seq, attempt, spared, started_at)
    SELECT class_id, rank, seq, attempt, spared, started_at FROM released WHERE not_before IS NULL
), delayed AS (
    INSERT INTO run_delayed (class_id, rank, seq, attempt, spared, started_at, not_before)
    SELECT class_id, rank, seq, attempt, spared, started_at, not_before FROM released WHERE not_before IS NOT NULL
)
SELECT count(*) FROM released";

/// Releases held runs; returns how many were held.
pub(crate) async fn release_in(connection: &mut PgConnection, ids: &[RunId]) -> Result<u64, sqlx::Error> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let released: i64 = sqlx::query_scalar(RELEASE)
        .bind(ids)
        .fetch_one(connection)
        .await?;
    Ok(released.unsigned_abs())
}

pub(super) async fn release(inner: &Inner, ids: &[RunId]) -> Result<u64, StoreError> {
    let mut tries = Tries::default();
    loop {
        let once = async {
            let mut session = inner.session().await?;
            let released = release_in(&mut session, ids).await?;
            session.done().await?;
            Ok(released)
        };
        match once.await {
            Ok(released) => {
                if released > 0 {
                    inner.hints.give(Hint::RunsQueued);
                }
                return Ok(released);
            }
            Err(error) => {
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}

fn texts<T: Display>(runs: &[NewRun], field: impl Fn(&NewRun) -> T) -> Vec<String> {
    runs.iter().map(|run| field(run).to_string()).collect()
}

fn options<T: Display>(runs: &[NewRun], field: impl Fn(&NewRun) -> Option<T>) -> Vec<Option<String>> {
    runs.iter().map(|run| field(run).map(|v| v.to_string())).collect()
}

fn numbers(runs: &[NewRun], field: impl Fn(&NewRun) -> i64) -> Vec<i64> {
    runs.iter().map(field).collect()
}

/// Puts `runs`, whose classes are `classes`, on the queue; returns their numbers.
pub(crate) async fn enqueue_in(
    connection: &mut PgConnection,
    runs: &[NewRun],
    classes: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let specs: Vec<String> = runs
        .iter()
        .map(|run| serde_json::to_string(&run.spec))
        .collect::<Result<_, _>>()
        .map_err(|e| sqlx::Error::Encode(e.into()))?;
    let not_before: Vec<Option<i64>> = runs.iter().map(|run| run.not_before.map(|t| t.0)).collect();
    sqlx::query_scalar(ENQUEUE)
        .bind(texts(runs, |r| r.id))
        .bind(texts(runs, |r| r.tenant_id))
        .bind(texts(runs, |r| r.kind))
        .bind(options(runs, |r| r.project_id))
        .bind(options(runs, |r| r.task_id))
        .bind(options(runs, |r| r.subtask_id))
        .bind(options(runs, |r| r.plan_id))
        .bind(numbers(runs, |r| i64::from(r.ordinal)))
        .bind(classes)
        .bind(numbers(runs, |r| i64::from(r.priority)))
        .bind(numbers(runs, |r| i64::from(r.max_attempts)))
        .bind(not_before)
        .bind(numbers(runs, |r| i64::from(r.held)))
        .bind(specs)
        .bind(numbers(runs, |r| r.created_at.0))
        .fetch_one(connection)
        .await
}
