//! The claim of runs: the heads of all classes, merged.
//!
//! The index of what waits is ordered within each class, so the first run of a class is one probe however many wait
//! behind it. A claim looks at as many of each class as it may need and goes on in the class that has given the most.

use crate::engine::translate;
use crate::rows::{RUN, collect, run};
use crate::writer::Op;
use ostler_domain::{Run, RunStatus, Timestamp};
use ostler_store::{ClaimRuns, Head, LEVELS, StoreError};
use rusqlite::{Connection, OptionalExtension};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

/// The waiting runs of one class, fetched a few at a time.
struct Class {
    id: i64,
    fetched: VecDeque<(i64, i64)>,
    seen: usize,
    ended: bool,
}

/// The first runs of a class and a priority that can start at `?3`.
const OF_LEVEL: &str = "SELECT seq FROM runs \
    WHERE class_id = ?1 AND priority = ?2 AND status = 'queued' AND delayed = 0 \
    AND (not_before IS NULL OR not_before <= ?3) ORDER BY seq LIMIT ?4";

/// The first run of a class that can start at `?3`, of the highest priority below `?2`.
const NEXT_LEVEL: &str = "SELECT priority, seq, created_at FROM runs \
    WHERE class_id = ?1 AND priority < ?2 AND status = 'queued' AND delayed = 0 \
    AND (not_before IS NULL OR not_before <= ?3) ORDER BY priority DESC, seq LIMIT 1";

/// Whether runs of a class wait for a moment that has come.
const DUE: &str = "SELECT 1 FROM runs \
    WHERE class_id = ?1 AND status = 'queued' AND delayed = 1 AND not_before <= ?2 LIMIT 1";

/// The runs of a class that can start at `?2`, in order.
pub(crate) const HEADS: &str = "SELECT priority, seq FROM runs \
    WHERE class_id = ?1 AND status = 'queued' AND delayed = 0 AND (not_before IS NULL OR not_before <= ?2) \
    ORDER BY priority DESC, seq LIMIT ?3 OFFSET ?4";

impl Class {
    /// The next run of the class: its priority and number.
    fn next(&mut self, op: &Op<'_>, now: i64, chunk: usize) -> Result<Option<(i64, i64)>, StoreError> {
        if self.fetched.is_empty() && !self.ended {
            let mut statement = op.connection.prepare_cached(HEADS).map_err(translate)?;
            let rows = collect(
                &mut statement,
                (self.id, now, chunk as i64, self.seen as i64),
                |row| {
                    let read = || Ok((row.get(0)?, row.get(1)?));
                    read().map_err(translate)
                },
            )?;
            self.ended = rows.len() < chunk;
            self.seen += rows.len();
            self.fetched = rows.into();
        }
        Ok(self.fetched.pop_front())
    }
}

/// See [`ostler_store::RunQueue::claim`].
pub(crate) fn claim(op: &mut Op<'_>, claim: &ClaimRuns) -> Result<Vec<Run>, StoreError> {
    if !claim.picks.is_empty() {
        return claim_picks(op, claim);
    }
    let limit = claim.limit as usize;
    let wanted: BTreeSet<i64> = claim.classes.iter().copied().collect();
    if limit == 0 || wanted.is_empty() {
        return Ok(Vec::new());
    }
    let now = claim.now.0;
    promote(op, wanted.iter().copied(), claim.now)?;
    let chunk = limit.div_ceil(wanted.len()) + 1;
    let mut classes: Vec<Class> = wanted
        .into_iter()
        .map(|id| Class {
            id,
            fetched: VecDeque::new(),
            seen: 0,
            ended: false,
        })
        .collect();
    let mut heads = BinaryHeap::new();
    for (at, class) in classes.iter_mut().enumerate() {
        if let Some((priority, seq)) = class.next(op, now, chunk)? {
            heads.push((priority, Reverse(seq), at));
        }
    }
    let mut chosen = Vec::new();
    while chosen.len() < limit
        && let Some((_, Reverse(seq), at)) = heads.pop()
    {
        chosen.push(seq);
        if chosen.len() < limit
            && let Some((priority, seq)) = classes[at].next(op, now, chunk)?
        {
            heads.push((priority, Reverse(seq), at));
        }
    }
    start(op, claim, &chosen)
}

/// Puts the runs of these classes in their place that have come due.
pub(crate) fn promote(
    op: &Op<'_>,
    classes: impl Iterator<Item = i64>,
    now: Timestamp,
) -> Result<(), StoreError> {
    // Looking first is cheap; an `UPDATE` opens every index of the table even when it changes nothing.
    let mut due = op.connection.prepare_cached(DUE).map_err(translate)?;
    for class in classes {
        if due.exists((class, now.0)).map_err(translate)? {
            op.execute(
                "UPDATE runs SET delayed = 0 \
                 WHERE class_id = ?1 AND status = 'queued' AND delayed = 1 AND not_before <= ?2",
                (class, now.0),
            )?;
        }
    }
    Ok(())
}

/// One pick after the other.
fn claim_picks(op: &mut Op<'_>, claim: &ClaimRuns) -> Result<Vec<Run>, StoreError> {
    promote(op, claim.picks.iter().map(|pick| pick.class), claim.now)?;
    let mut started = Vec::new();
    for pick in claim.merged_picks() {
        let most = pick.limit.min(claim.limit - started.len() as u32);
        if most == 0 {
            continue;
        }
        let mut statement = op.connection.prepare_cached(OF_LEVEL).map_err(translate)?;
        let chosen: Vec<i64> = collect(
            &mut statement,
            (pick.class, pick.priority, claim.now.0, most),
            |row| row.get(0).map_err(translate),
        )?;
        drop(statement);
        started.extend(start(op, claim, &chosen)?);
    }
    started.sort_by_key(|run| (Reverse(run.submitted.priority), run.seq));
    Ok(started)
}

/// See [`ostler_store::RunQueue::heads`]. `None` when runs have come due that are not in their place yet.
pub(crate) fn heads(
    connection: &Connection,
    classes: &BTreeSet<i64>,
    now: Timestamp,
) -> Result<Option<Vec<Head>>, StoreError> {
    let mut due = connection.prepare_cached(DUE).map_err(translate)?;
    let mut next = connection.prepare_cached(NEXT_LEVEL).map_err(translate)?;
    let mut heads = Vec::new();
    for class in classes {
        if due.exists((class, now.0)).map_err(translate)? {
            return Ok(None);
        }
        let mut below = i64::from(i32::MAX) + 1;
        for _ in 0..LEVELS {
            let found = next
                .query_row((class, below, now.0), |row| {
                    Ok(Head {
                        class: *class,
                        priority: row.get(0)?,
                        seq: row.get(1)?,
                        created_at: Timestamp(row.get(2)?),
                    })
                })
                .optional()
                .map_err(translate)?;
            let Some(head) = found else {
                break;
            };
            below = head.priority.into();
            heads.push(head);
        }
    }
    Ok(Some(heads))
}

fn start(op: &mut Op<'_>, claim: &ClaimRuns, chosen: &[i64]) -> Result<Vec<Run>, StoreError> {
    let connection = op.connection;
    // Two statements: `RETURNING` collects its rows in a temporary table, which costs more than the second look-up.
    let mut take = connection
        .prepare_cached(
            "UPDATE runs SET status = 'running', attempt = attempt + 1, server_id = ?2, started_at = ?3, \
             sandbox_id = ?4 WHERE seq = ?1",
        )
        .map_err(translate)?;
    let mut read = connection
        .prepare_cached(&format!("SELECT {RUN} FROM runs WHERE seq = ?1"))
        .map_err(translate)?;
    let server = claim.server_id.to_string();
    let sandbox = claim.sandbox.map(|id| id.to_string());
    let mut started = Vec::with_capacity(chosen.len());
    for seq in chosen {
        take.execute((seq, &server, claim.now.0, &sandbox))
            .map_err(translate)?;
        started.extend(collect(&mut read, [seq], run)?);
    }
    for run in &started {
        op.count(run.submitted.tenant_id, RunStatus::Queued, -1);
        op.count(run.submitted.tenant_id, RunStatus::Running, 1);
    }
    Ok(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(statement: &str, parameters: impl rusqlite::Params) -> Vec<String> {
        let connection = Connection::open_in_memory().unwrap();
        for migration in [
            include_str!("../migrations/0001_records.up.sql"),
            include_str!("../migrations/0002_runs.up.sql"),
            include_str!("../migrations/0007_tests.up.sql"),
        ] {
            connection.execute_batch(migration).unwrap();
        }
        let mut explain = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
            .unwrap();
        let steps = explain.query_map(parameters, |row| row.get(3)).unwrap();
        steps.collect::<Result<_, _>>().unwrap()
    }

    /// The plan is what makes a claim independent of the number of runs that wait.
    #[test]
    fn the_heads_of_a_class_are_read_from_the_index_in_order() {
        let plan = plan_of(HEADS, (1, 1, 1, 0));
        assert_eq!(plan.len(), 1, "no sorting step: {plan:?}");
        assert!(
            plan[0].contains("USING INDEX runs_ready (class_id=?)"),
            "{plan:?}"
        );
    }

    /// And what makes each level one probe, however many runs are in those above it.
    #[test]
    fn a_level_is_found_by_its_priority() {
        let plan = plan_of(NEXT_LEVEL, (1, 1, 1));
        assert_eq!(plan.len(), 1, "no sorting step: {plan:?}");
        assert!(
            plan[0].contains("USING INDEX runs_ready (class_id=? AND priority<?)"),
            "{plan:?}"
        );
        let plan = plan_of(OF_LEVEL, (1, 1, 1, 1));
        assert_eq!(plan.len(), 1, "no sorting step: {plan:?}");
        assert!(
            plan[0].contains("USING INDEX runs_ready (class_id=? AND priority=?)"),
            "{plan:?}"
        );
        let plan = plan_of(DUE, (1, 1));
        assert!(
            plan[0].contains("USING COVERING INDEX runs_delayed (class_id=? AND not_before<?)"),
            "{plan:?}"
        );
    }

    #[test]
    fn the_runs_of_a_plan_are_counted_and_listed_by_index() {
        let plan = plan_of(crate::store::PLAN_COUNTERS, ["x"]);
        assert_eq!(plan.len(), 1, "no sorting step: {plan:?}");
        assert!(
            plan[0].contains("USING COVERING INDEX runs_plan_status (plan_id=?)"),
            "{plan:?}"
        );
        let listed = format!(
            "SELECT {RUN} FROM runs WHERE 1 = 1 AND plan_id = ?1 AND seq > ?2 ORDER BY seq ASC LIMIT 5"
        );
        let plan = plan_of(&listed, ("x", 1));
        assert!(
            plan[0].contains("USING INDEX runs_plan (plan_id=? AND seq>?)"),
            "{plan:?}"
        );
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
    }
}
