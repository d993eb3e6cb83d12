//! Claims.
//!
//! The head of each class is read by index, without locks and a little further than needed; the heads are merged; and
//! only what is taken is locked, skipping what another server is taking at the same moment. The cost depends on the
//! number of classes and of runs taken, not on the number of those that wait.

use super::read::{STATE_AT, SUBMITTED, fetch, int, learn_classes, submitted, time};
use crate::connect::Inner;
use crate::error::{Tries, store_error};
use ostler_domain::{Run, RunOutcome, RunStatus, Timestamp};
use ostler_store::{ClaimRuns, Head, LEVELS, Pick, StoreError, Value};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use std::collections::BTreeSet;

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
), @TAKEN@";

/// For picks: of each, the first runs of its class and rank, `$7` of them and no more, are locked where they stand, and of
/// those the first `$4` are taken in the order of the picks.
const CLAIM_PICKS: &str = "
WITH due AS MATERIALIZED (
    SELECT EXISTS (SELECT 1 FROM run_delayed WHERE not_before <= $5 AND class_id = ANY($2)) AS due
), picked AS MATERIALIZED (
    SELECT h.tid, h.rank, h.seq, h.attempt, h.spared
    FROM unnest($2::bigint[], $3::bigint[], $7::bigint[]) WITH ORDINALITY AS p(class_id, rank, most, place)
        CROSS JOIN LATERAL (
            SELECT q.ctid AS tid, q.rank, q.seq, q.attempt + 1 AS attempt, q.spared FROM run_ready q
            WHERE q.class_id = p.class_id AND q.rank = p.rank ORDER BY q.rank, q.seq LIMIT p.most
            FOR UPDATE SKIP LOCKED) h
    WHERE NOT (SELECT due FROM due) ORDER BY p.place, h.seq LIMIT $4
), @TAKEN@";

/// What is picked goes from one table to the next. Both statements end so.
const TAKEN: &str = "taken AS (
    DELETE FROM run_ready WHERE ctid = ANY (ARRAY(SELECT tid FROM picked))
), started AS MATERIALIZED (
    SELECT @SUBMITTED@, p.attempt, p.spared, p.rank
    FROM picked p CROSS JOIN LATERAL (SELECT * FROM runs WHERE seq = p.seq OFFSET 0) r
), active AS (
    INSERT INTO run_active (seq, class_id, rank, attempt, spared, max_attempts, started_at, id, tenant_id, server_id,
        sandbox_id, plan_id)
    SELECT seq, class_id, rank, attempt, spared, max_attempts, $5, id, tenant_id, $1, $6, plan_id FROM started
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
    let picks = Picks::of(claim);
    if claim.classes.is_empty() && picks.is_none() {
        return Ok(runs);
    }
    let classes = claim.classes.len() as u32;
    for _ in 0..ROUNDS {
        let wanted = claim.limit - (runs.len() as u32).min(claim.limit);
        if wanted == 0 {
            break;
        }
        let rows = if let Some(picks) = &picks {
            once_picks(inner, claim, picks).await?
        } else {
            let depth = if classes == 1 {
                wanted + 21
            } else {
                (wanted / classes) * 2 + 4
            };
            once(inner, claim, wanted, depth).await?
        };
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
        // What others took at the same moment is for the next round of whoever picks, who looks at the heads again.
        if picks.is_some() {
            break;
        }
    }
    runs.sort_by_key(|run| (-i64::from(run.submitted.priority), run.seq));
    Ok(runs)
}

/// Picks as the lists that the statement takes.
struct Picks {
    classes: Vec<i64>,
    ranks: Vec<i64>,
    most: Vec<i64>,
}

impl Picks {
    fn of(claim: &ClaimRuns) -> Option<Self> {
        if claim.picks.is_empty() {
            return None;
        }
        let picks = claim.merged_picks();
        let most = |pick: &Pick| i64::from(pick.limit.min(claim.limit));
        Some(Self {
            classes: picks.iter().map(|pick| pick.class).collect(),
            ranks: picks.iter().map(|pick| -i64::from(pick.priority)).collect(),
            most: picks.iter().map(most).collect(),
        })
    }
}

async fn once_picks(inner: &Inner, claim: &ClaimRuns, picks: &Picks) -> Result<Vec<PgRow>, StoreError> {
    let sql = CLAIM_PICKS
        .replace("@TAKEN@", TAKEN)
        .replace("@SUBMITTED@", SUBMITTED);
    let mut tries = Tries::default();
    loop {
        let query = sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(claim.server_id.to_string())
            .bind(&picks.classes)
            .bind(&picks.ranks)
            .bind(i64::from(claim.limit))
            .bind(claim.now.0)
            .bind(claim.sandbox.map(|id| id.to_string()))
            .bind(&picks.most);
        match inner.rows(query).await {
            Ok(rows) => return Ok(rows),
            Err(error) => {
                if !tries.again(&error, false).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}

async fn once(inner: &Inner, claim: &ClaimRuns, wanted: u32, depth: u32) -> Result<Vec<PgRow>, StoreError> {
    let sql = CLAIM.replace("@TAKEN@", TAKEN).replace("@SUBMITTED@", SUBMITTED);
    let mut tries = Tries::default();
    loop {
        let query = sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(claim.server_id.to_string())
            .bind(&claim.classes)
            .bind(i64::from(depth))
            .bind(i64::from(wanted))
            .bind(claim.now.0)
            .bind(claim.sandbox.map(|id| id.to_string()));
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
        sandbox_id: claim.sandbox,
        started_at: Some(claim.now),
        finished_at: None,
        outcome: RunOutcome::default(),
    })
}

/// The first run of each rank of each class: one probe of the index for each, however many wait.
const HEADS: &str = "
SELECT c.id, -h.rank, h.seq, r.created_at FROM unnest($1::bigint[]) AS c(id)
    CROSS JOIN LATERAL (
        WITH RECURSIVE levels(rank, seq, n) AS (
            (SELECT q.rank, q.seq, 1 FROM run_ready q WHERE q.class_id = c.id ORDER BY q.rank, q.seq LIMIT 1)
            UNION ALL
            SELECT f.rank, f.seq, l.n + 1 FROM levels l CROSS JOIN LATERAL (
                SELECT q.rank, q.seq FROM run_ready q WHERE q.class_id = c.id AND q.rank > l.rank
                ORDER BY q.rank, q.seq LIMIT 1) f
            WHERE l.n < $2)
        SELECT rank, seq FROM levels OFFSET 0) h
    CROSS JOIN LATERAL (SELECT created_at FROM runs WHERE seq = h.seq OFFSET 0) r";

const DUE: &str = "SELECT EXISTS (SELECT 1 FROM run_delayed WHERE not_before <= $1 AND class_id = ANY($2))";

pub(super) async fn heads(inner: &Inner, classes: &[i64], now: Timestamp) -> Result<Vec<Head>, StoreError> {
    let classes: BTreeSet<i64> = classes.iter().copied().collect();
    let classes: Vec<i64> = classes.into_iter().collect();
    let mut tries = Tries::default();
    let read = async || {
        let due = inner.rows(sqlx::query(DUE).bind(now.0).bind(&classes)).await?;
        let due: bool = due.first().map_or(Ok(false), |row| row.try_get(0))?;
        if due {
            inner.execute(sqlx::query(PROMOTE).bind(now.0)).await?;
        }
        let query = sqlx::query(HEADS).bind(&classes).bind(i64::from(LEVELS));
        inner.rows(query).await
    };
    let rows = loop {
        match read().await {
            Ok(rows) => break rows,
            Err(error) => {
                if !tries.again(&error, true).await {
                    return Err(store_error(&error));
                }
            }
        }
    };
    let mut heads = Vec::with_capacity(rows.len());
    for row in &rows {
        heads.push(Head {
            class: int(row, 0, "class_id")?,
            priority: int(row, 1, "priority")?,
            seq: int(row, 2, "seq")?,
            created_at: Timestamp(int(row, 3, "created_at")?),
        });
    }
    heads.sort_by_key(|head| (head.class, -i64::from(head.priority)));
    Ok(heads)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::end::SKIP;
    use crate::queue::enqueue::RELEASE;
    use crate::queue::read::{PLAN_COUNTERS, PLAN_HELD};
    use crate::{Options, PostgresStore};
    use ostler_store::Store;
    use ostler_test_kit::{Postgres, require};

    /// The plan of a statement, as the store's own connections get it.
    async fn plan_of(store: &PostgresStore, sql: &str, literals: &[&str]) -> String {
        let mut sql = format!("EXPLAIN (COSTS OFF) {sql}");
        for (at, literal) in literals.iter().enumerate().rev() {
            sql = sql.replace(&format!("${}", at + 1), literal);
        }
        let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&store.inner.pool)
            .await
            .unwrap();
        lines.join("\n")
    }

    /// The plans are what makes looking at the queue independent of how many wait in it.
    #[tokio::test]
    async fn the_queue_is_read_by_index() {
        require!(Postgres);
        let server = Postgres::shared();
        let store = PostgresStore::connect(&server.database(), Options::default())
            .await
            .unwrap();
        store.migrate_up(None).await.unwrap();

        let plan = plan_of(&store, HEADS, &["'{1,2}'", "16"]).await;
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{plan}");
        assert_eq!(plan.matches("using run_ready_pkey").count(), 2, "{plan}");
        assert!(plan.contains(" AND (rank > l.rank))"), "{plan}");

        let picks = CLAIM_PICKS
            .replace("@TAKEN@", TAKEN)
            .replace("@SUBMITTED@", SUBMITTED);
        let literals = ["'s'", "'{1}'", "'{0}'", "5", "9", "NULL", "'{3}'"];
        let plan = plan_of(&store, &picks, &literals).await;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        let looked = plan.split_once("LockRows").unwrap().1;
        let index = "using run_ready_pkey on run_ready";
        let before = looked.split_once(index).unwrap().0;
        assert!(!before.contains("Sort"), "what is locked comes in order: {plan}");
        assert!(plan.contains("Tid Scan on run_ready"), "{plan}");

        let plan = plan_of(&store, PLAN_COUNTERS, &["'pln'"]).await;
        for index in ["run_ends_plan", "run_active_plan", "runs_plan"] {
            assert!(plan.contains(&format!("Scan using {index}")), "{index}: {plan}");
        }
        let plan = plan_of(&store, PLAN_HELD, &["'pln'"]).await;
        assert!(plan.contains("Scan using runs_held"), "{plan}");
        assert!(plan.contains("Scan using run_delayed_pkey"), "{plan}");

        for (sql, literals) in [(SKIP, vec!["'{run}'", "1", "'{}'"]), (RELEASE, vec!["'{run}'"])] {
            let plan = plan_of(&store, sql, &literals).await;
            assert!(!plan.contains("Seq Scan"), "{plan}");
            assert!(plan.contains("using runs_id_key"), "{plan}");
            assert!(plan.contains("using run_delayed_pkey"), "{plan}");
        }
        store.close().await;
    }
}
