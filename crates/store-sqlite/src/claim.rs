//! The claim of runs: the heads of all classes, merged.
//!
//! The index of what waits is ordered within each class, so the first run of a class is one probe however many wait
//! behind it. A claim looks at as many of each class as it may need and goes on in the class that has given the most.

use crate::engine::translate;
use crate::rows::{RUN, collect, run};
use crate::writer::Op;
use ostler_domain::{Run, RunStatus};
use ostler_store::{ClaimRuns, StoreError};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

/// The waiting runs of one class, fetched a few at a time.
struct Class {
    id: i64,
    fetched: VecDeque<(i64, i64)>,
    seen: usize,
    ended: bool,
}

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
    let limit = claim.limit as usize;
    let wanted: BTreeSet<i64> = claim.classes.iter().copied().collect();
    if limit == 0 || wanted.is_empty() {
        return Ok(Vec::new());
    }
    let now = claim.now.0;
    // Looking first is cheap; an `UPDATE` opens every index of the table even when it changes nothing.
    let mut due = op
        .connection
        .prepare_cached(
            "SELECT 1 FROM runs \
             WHERE class_id = ?1 AND status = 'queued' AND delayed = 1 AND not_before <= ?2 LIMIT 1",
        )
        .map_err(translate)?;
    for class in &wanted {
        if due.exists((class, now)).map_err(translate)? {
            op.execute(
                "UPDATE runs SET delayed = 0 \
                 WHERE class_id = ?1 AND status = 'queued' AND delayed = 1 AND not_before <= ?2",
                (class, now),
            )?;
        }
    }
    drop(due);
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

fn start(op: &mut Op<'_>, claim: &ClaimRuns, chosen: &[i64]) -> Result<Vec<Run>, StoreError> {
    let connection = op.connection;
    // Two statements: `RETURNING` collects its rows in a temporary table, which costs more than the second look-up.
    let mut take = connection
        .prepare_cached(
            "UPDATE runs SET status = 'running', attempt = attempt + 1, server_id = ?2, started_at = ?3 \
             WHERE seq = ?1",
        )
        .map_err(translate)?;
    let mut read = connection
        .prepare_cached(&format!("SELECT {RUN} FROM runs WHERE seq = ?1"))
        .map_err(translate)?;
    let server = claim.server_id.to_string();
    let mut started = Vec::with_capacity(chosen.len());
    for seq in chosen {
        take.execute((seq, &server, claim.now.0)).map_err(translate)?;
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
    use super::HEADS;

    /// The plan is what makes a claim independent of the number of runs that wait.
    #[test]
    fn the_heads_of_a_class_are_read_from_the_index_in_order() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection
            .execute_batch(include_str!("../migrations/0002_runs.up.sql"))
            .unwrap();
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {HEADS}"))
            .unwrap()
            .query_map((1, 1, 1, 0), |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(plan.len(), 1, "no sorting step: {plan:?}");
        assert!(
            plan[0].contains("USING INDEX runs_ready (class_id=?)"),
            "{plan:?}"
        );
    }
}
