//! Claims.
//!
//! The head of each class is read by index, without locks and a little further than needed; the heads are merged; and
//! only what is taken is locked, skipping what another server is taking at the same moment. The cost depends on the
//! number of classes and of runs taken, not on the number of those that wait.

use super::read::{STATE_AT, SUBMITTED, fetch, int, learn_classes, submitted, time};
use crate::connect::Inner;
use crate::error::{Tries, store_error};
use ostler_domain::{Run, RunOutcome, RunStatus, Timestamp};
use ostler_store::{ClaimRuns, StoreError, Value};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

/// Heads are read to a depth of $3 per class. Where a class has more than that, nothing that comes after the last one
/// read may be taken: the next of that class could go before it (`safe`).
///
/// The shape leaves the planner no choice of where to begin: when it has last seen a queue table empty, it would gladly
/// walk through the whole of it once for each row that is taken. Rows of `run_ready` are never updated, so their `ctid`
/// stays what `heads` saw.
///
/// Runs that have come due must be put in their place first. Then nothing is taken, and `due` says so.
const CLAIM: &str = "
WITH due AS MATERIALIZED (
    SELECT EXISTS (SELECT 1 FROM run_delayed WHERE not_before <= $5 AND class_id = ANY($2)) AS due
), heads AS MATERIALIZED (
    SELECT h.tid, h.rank, h.seq, h.depth
    FROM unnest($2::bigint[]) AS c(id) CROSS JOIN LATERAL (
        SELECT q.ctid AS tid, q.rank, q.seq, row_number() OVER (ORDER BY q.rank, q.seq) AS depth
        FROM run_ready q WHERE q.class_id = c.id ORDER BY q.rank, q.seq LIMIT $3) h
    WHERE NOT (SELECT due FROM due)
), safe AS MATERIALIZED (
    SELECT rank, seq FROM heads WHERE depth = $3 ORDER BY rank, seq LIMIT 1
), picked AS MATERIALIZED (
    SELECT q.ctid AS tid, q.rank, q.seq, q.attempt + 1 AS attempt, q.spared FROM run_ready q
    WHERE q.ctid = ANY (ARRAY(
        SELECT h.tid FROM heads h LEFT JOIN safe s ON true
        WHERE s.seq IS NULL OR (h.rank, h.seq) <= (s.rank, s.seq) ORDER BY h.rank, h.seq LIMIT $4 + 20))
    ORDER BY q.rank, q.seq LIMIT $4 FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM run_ready WHERE ctid = ANY (ARRAY(SELECT tid FROM picked))
), started AS MATERIALIZED (
    SELECT @SUBMITTED@, p.attempt, p.spared, p.rank
    FROM picked p CROSS JOIN LATERAL (SELECT * FROM runs WHERE seq = p.seq OFFSET 0) r
), active AS (
    INSERT INTO run_active (seq, class_id, rank, attempt, spared, max_attempts, started_at, id, tenant_id, server_id)
    SELECT seq, class_id, rank, attempt, spared, max_attempts, $5, id, tenant_id, $1 FROM started
), counted AS (
    INSERT INTO run_counts (tenant_id, queued, running)
    SELECT tenant_id, -count(*), count(*) FROM started GROUP BY tenant_id
)
SELECT r.*, d.due FROM due d LEFT JOIN started r ON true";

/// Puts runs that have come due in their place.
const PROMOTE: &str = "
WITH due AS (
    DELETE FROM run_delayed WHERE not_before <= $1 RETURNING class_id, rank, seq, attempt, spared, started_at)
INSERT INTO run_ready (class_id, rank, seq, attempt, spared, started_at) SELECT * FROM due";

/// How often a claim looks again when others took what it was about to take.
const ROUNDS: usize = 8;

pub(super) async fn claim(inner: &Inner, claim: &ClaimRuns) -> Result<Vec<Run>, StoreError> {
    let mut runs: Vec<Run> = Vec::new();
    if claim.classes.is_empty() {
        return Ok(runs);
    }
    let classes = claim.classes.len() as u32;
    for _ in 0..ROUNDS {
        let wanted = claim.limit - (runs.len() as u32).min(claim.limit);
        if wanted == 0 {
            break;
        }
        let depth = if classes == 1 {
            wanted + 21
        } else {
            (wanted / classes) * 2 + 4
        };
        let rows = once(inner, claim, wanted, depth).await?;
        let due = rows.iter().try_fold(false, |_, row| {
            row.try_get(STATE_AT + 3).map_err(|e| store_error(&e))
        })?;
        if due {
            promote(inner, claim.now).await?;
            continue;
        }
        // The row that says that nothing is due stands alone when nothing was taken.
        let rows: Vec<PgRow> = rows
            .into_iter()
            .filter(|row| row.try_get::<Option<i64>, _>(0).is_ok_and(|seq| seq.is_some()))
            .collect();
        if rows.is_empty() {
            break;
        }
        inner.upkeep.note(1, rows.len());
        learn_classes(inner, &rows).await?;
        for row in &rows {
            runs.push(started(inner, claim, row)?);
        }
    }
    runs.sort_by_key(|run| (-i64::from(run.submitted.priority), run.seq));
    Ok(runs)
}

async fn once(inner: &Inner, claim: &ClaimRuns, wanted: u32, depth: u32) -> Result<Vec<PgRow>, StoreError> {
    let sql = CLAIM.replace("@SUBMITTED@", SUBMITTED);
    let mut tries = Tries::default();
    loop {
        let query = sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(claim.server_id.to_string())
            .bind(&claim.classes)
            .bind(i64::from(depth))
            .bind(i64::from(wanted))
            .bind(claim.now.0);
        match inner.rows(query).await {
            Ok(rows) => return Ok(rows),
            Err(error) => {
                // A claim whose answer got lost is seen by the server among its own running runs.
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}

async fn promote(inner: &Inner, now: Timestamp) -> Result<(), StoreError> {
    let mut tries = Tries::default();
    loop {
        match inner.execute(sqlx::query(PROMOTE).bind(now.0)).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                if !tries.again(&error, true).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}

fn started(inner: &Inner, claim: &ClaimRuns, row: &PgRow) -> Result<Run, StoreError> {
    let (seq, submitted) = submitted(inner, row)?;
    Ok(Run {
        submitted,
        seq,
        status: RunStatus::Running,
        attempt: int(row, STATE_AT, "attempt")?,
        cancel_requested: false,
        server_id: Some(claim.server_id),
        sandbox_id: None,
        started_at: Some(claim.now),
        finished_at: None,
        outcome: RunOutcome::default(),
    })
}

pub(super) async fn next_due(
    inner: &Inner,
    classes: &[i64],
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    if classes.is_empty() {
        return Ok(None);
    }
    let list: Vec<String> = classes.iter().map(i64::to_string).collect();
    let sql = "SELECT min(not_before) FROM run_delayed \
               WHERE not_before > $1 AND class_id = ANY (string_to_array($2, ',')::bigint[])";
    let rows = fetch(inner, sql, &[Value::Int(now.0), Value::Text(list.join(","))]).await?;
    Ok(rows.first().map(|row| time(row, 0)).transpose()?.flatten())
}
