//! Looking at runs.

use crate::connect::Inner;
use crate::error::{Tries, store_error};
use crate::value::bind_all;
use ostler_domain::{NewRun, PlanId, Run, RunId, RunOutcome, RunStatus, ServerId, TenantId, Timestamp};
use ostler_store::{RunCounters, RunFilter, StoreError, Value, corrupt};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// What was submitted, from `runs r`: the first columns of every statement whose rows [`run_from`] reads.
pub(super) const SUBMITTED: &str =
    "r.seq, r.id, r.tenant_id, r.kind, r.project_id, r.task_id, r.subtask_id, r.plan_id, r.ordinal,
    r.class_id, r.priority, r.max_attempts, r.not_before, r.spec, r.created_at";
/// Place of `class_id` in [`SUBMITTED`].
const CLASS_AT: usize = 9;
/// Number of columns of [`SUBMITTED`].
pub(super) const STATE_AT: usize = 15;

const STATE: &str = "COALESCE(e.status, CASE WHEN a.id IS NULL THEN 'queued' ELSE 'running' END),
    COALESCE(e.attempt, a.attempt, q.attempt, d.attempt, 0),
    COALESCE(e.cancel_requested, a.cancel_requested, 0),
    COALESCE(e.server_id, a.server_id), COALESCE(e.sandbox_id, a.sandbox_id),
    COALESCE(e.started_at, a.started_at, q.started_at, d.started_at), e.finished_at, e.outcome,
    d.seq IS NOT NULL AND d.not_before IS NULL";

/// The rank is made apart: under row-level security nothing that could fail, such as a negation, may be part of a look into
/// an index.
const FROM: &str = "FROM runs r
    CROSS JOIN LATERAL (SELECT -r.priority AS rank OFFSET 0) p
    LEFT JOIN run_ends e ON e.seq = r.seq
    LEFT JOIN run_active a ON a.id = r.id
    LEFT JOIN run_ready q ON q.class_id = r.class_id AND q.rank = p.rank AND q.seq = r.seq
    LEFT JOIN run_delayed d ON d.seq = r.seq";

pub(super) fn text<T: FromStr>(row: &PgRow, at: usize, column: &'static str) -> Result<T, StoreError>
where
    T::Err: Display,
{
    let text: &str = row.try_get(at).map_err(|e| store_error(&e))?;
    text.parse()
        .map_err(|e: T::Err| corrupt("runs", column, e.to_string()))
}

pub(super) fn optional<T: FromStr>(
    row: &PgRow,
    at: usize,
    column: &'static str,
) -> Result<Option<T>, StoreError>
where
    T::Err: Display,
{
    let text: Option<&str> = row.try_get(at).map_err(|e| store_error(&e))?;
    text.map(str::parse)
        .transpose()
        .map_err(|e: T::Err| corrupt("runs", column, e.to_string()))
}

pub(super) fn int<T: TryFrom<i64>>(row: &PgRow, at: usize, column: &'static str) -> Result<T, StoreError>
where
    T::Error: Display,
{
    let number: i64 = row.try_get(at).map_err(|e| store_error(&e))?;
    T::try_from(number).map_err(|e| corrupt("runs", column, format!("{number}: {e}")))
}

pub(super) fn time(row: &PgRow, at: usize) -> Result<Option<Timestamp>, StoreError> {
    let number: Option<i64> = row.try_get(at).map_err(|e| store_error(&e))?;
    Ok(number.map(Timestamp))
}

/// The number and the submitted part of a row that begins with [`SUBMITTED`], for a run that is not held. Its class must
/// have been learnt.
pub(super) fn submitted(inner: &Inner, row: &PgRow) -> Result<(i64, NewRun), StoreError> {
    let class: i64 = int(row, CLASS_AT, "class_id")?;
    let spec: &str = row.try_get(13).map_err(|e| store_error(&e))?;
    let run = NewRun {
        id: text(row, 1, "id")?,
        tenant_id: text(row, 2, "tenant_id")?,
        kind: text(row, 3, "kind")?,
        project_id: optional(row, 4, "project_id")?,
        task_id: optional(row, 5, "task_id")?,
        subtask_id: optional(row, 6, "subtask_id")?,
        plan_id: optional(row, 7, "plan_id")?,
        ordinal: int(row, 8, "ordinal")?,
        requirements: inner
            .classes
            .requirements(class)
            .ok_or_else(|| corrupt("runs", "class_id", format!("there is no class {class}")))?,
        priority: int(row, 10, "priority")?,
        max_attempts: int(row, 11, "max_attempts")?,
        not_before: time(row, 12)?,
        held: false,
        spec: serde_json::from_str(spec).map_err(|e| corrupt("runs", "spec", e.to_string()))?,
        created_at: Timestamp(int(row, 14, "created_at")?),
    };
    Ok((int(row, 0, "seq")?, run))
}

fn run_from(inner: &Inner, row: &PgRow) -> Result<Run, StoreError> {
    let (seq, mut submitted) = submitted(inner, row)?;
    submitted.held = row.try_get(STATE_AT + 8).map_err(|e| store_error(&e))?;
    let outcome: Option<&str> = row.try_get(STATE_AT + 7).map_err(|e| store_error(&e))?;
    Ok(Run {
        submitted,
        seq,
        status: text(row, STATE_AT, "status")?,
        attempt: int(row, STATE_AT + 1, "attempt")?,
        cancel_requested: int::<i64>(row, STATE_AT + 2, "cancel_requested")? != 0,
        server_id: optional(row, STATE_AT + 3, "server_id")?,
        sandbox_id: optional(row, STATE_AT + 4, "sandbox_id")?,
        started_at: time(row, STATE_AT + 5)?,
        finished_at: time(row, STATE_AT + 6)?,
        outcome: match outcome {
            Some(text) => {
                serde_json::from_str(text).map_err(|e| corrupt("run_ends", "outcome", e.to_string()))?
            }
            None => RunOutcome::default(),
        },
    })
}

/// Learns the classes of rows that begin with [`SUBMITTED`].
pub(super) async fn learn_classes(inner: &Inner, rows: &[PgRow]) -> Result<(), StoreError> {
    let ids: Vec<i64> = rows
        .iter()
        .map(|row| int(row, CLASS_AT, "class_id"))
        .collect::<Result<_, _>>()?;
    inner.classes.learn(&inner.pool, ids.into_iter()).await
}

/// Reads, as often as it takes while the server comes back.
pub(super) async fn fetch(inner: &Inner, sql: &str, values: &[Value]) -> Result<Vec<PgRow>, StoreError> {
    let mut tries = Tries::default();
    loop {
        let arguments = bind_all(values.iter().cloned())?;
        match inner.rows(sqlx::query_with(AssertSqlSafe(sql), arguments)).await {
            Ok(rows) => return Ok(rows),
            Err(error) => {
                if !tries.again(&error, true).await {
                    return Err(store_error(&error));
                }
            }
        }
    }
}

async fn select(inner: &Inner, rest: &str, values: &[Value]) -> Result<Vec<Run>, StoreError> {
    let sql = format!("SELECT {SUBMITTED}, {STATE} {FROM} {rest}");
    let rows = fetch(inner, &sql, values).await?;
    learn_classes(inner, &rows).await?;
    rows.iter().map(|row| run_from(inner, row)).collect()
}

pub(super) async fn run(inner: &Inner, id: RunId) -> Result<Option<Run>, StoreError> {
    let runs = select(inner, "WHERE r.id = $1", &[Value::Text(id.to_string())]).await?;
    Ok(runs.into_iter().next())
}

pub(super) async fn running(inner: &Inner, server: ServerId) -> Result<Vec<Run>, StoreError> {
    select(
        inner,
        "WHERE r.seq IN (SELECT s.seq FROM run_active s WHERE s.server_id = $1) AND a.server_id = $1 ORDER BY r.seq",
        &[Value::Text(server.to_string())],
    )
    .await
}

pub(super) async fn runs(inner: &Inner, filter: RunFilter) -> Result<Vec<Run>, StoreError> {
    let mut wheres = vec!["true".to_owned()];
    let mut values = Vec::new();
    let mut equal = |column: &str, value: Option<String>| {
        if let Some(value) = value {
            values.push(Value::Text(value));
            wheres.push(format!("r.{column} = ${}", values.len()));
        }
    };
    equal("tenant_id", filter.tenant_id.map(|v| v.to_string()));
    equal("project_id", filter.project_id.map(|v| v.to_string()));
    equal("task_id", filter.task_id.map(|v| v.to_string()));
    equal("subtask_id", filter.subtask_id.map(|v| v.to_string()));
    equal("plan_id", filter.plan_id.map(|v| v.to_string()));
    equal("kind", filter.kind.map(|v| v.to_string()));
    if let Some(seq) = filter.before_seq {
        values.push(Value::Int(seq));
        wheres.push(format!("r.seq < ${}", values.len()));
    }
    if let Some(seq) = filter.after_seq {
        values.push(Value::Int(seq));
        wheres.push(format!("r.seq > ${}", values.len()));
    }
    if filter.latest_only {
        wheres.push("COALESCE(e.superseded, 0) = 0".to_owned());
    }
    if filter.held_only {
        wheres.push("r.held = 1 AND d.seq IS NOT NULL AND d.not_before IS NULL".to_owned());
    }
    // The state is written out, so that the partial index of the rare ends can be used.
    wheres.extend(filter.status.map(|status| match status {
        RunStatus::Queued => {
            "r.seq IN (SELECT seq FROM run_ready UNION ALL SELECT seq FROM run_delayed)".to_owned()
        }
        RunStatus::Running => "a.id IS NOT NULL".to_owned(),
        ended => format!("e.status = '{ended}'"),
    }));
    let limit = if filter.limit == 0 { 50 } else { filter.limit };
    let order = if filter.after_seq.is_some() { "" } else { "DESC " };
    let rest = format!(
        "WHERE {} ORDER BY r.seq {order}LIMIT {limit}",
        wheres.join(" AND ")
    );
    select(inner, &rest, &values).await
}

pub(super) async fn cancel_requests(inner: &Inner, server: ServerId) -> Result<Vec<RunId>, StoreError> {
    let sql = "SELECT id FROM run_active WHERE server_id = $1 AND cancel_requested = 1 ORDER BY seq";
    let rows = fetch(inner, sql, &[Value::Text(server.to_string())]).await?;
    rows.iter().map(|row| text(row, 0, "id")).collect()
}

pub(super) async fn silent_servers(inner: &Inner, before: Timestamp) -> Result<Vec<ServerId>, StoreError> {
    let sql = "SELECT DISTINCT a.server_id FROM run_active a LEFT JOIN servers s ON s.id = a.server_id \
               WHERE s.seen_at IS NULL OR s.seen_at < $1 ORDER BY a.server_id";
    let rows = fetch(inner, sql, &[Value::Int(before.0)]).await?;
    rows.iter().map(|row| text(row, 0, "server_id")).collect()
}

pub(super) async fn counters(inner: &Inner, tenant: Option<TenantId>) -> Result<RunCounters, StoreError> {
    let sums: Vec<String> = RunStatus::ALL
        .iter()
        .map(|status| format!("COALESCE(sum({status}), 0)::bigint"))
        .collect();
    let mut sql = format!("SELECT {} FROM run_counts", sums.join(", "));
    let mut values = Vec::new();
    if let Some(tenant) = tenant {
        sql.push_str(" WHERE tenant_id = $1");
        values.push(Value::Text(tenant.to_string()));
    }
    let rows = fetch(inner, &sql, &values).await?;
    let mut counters = RunCounters::new();
    for row in &rows {
        for (at, status) in RunStatus::ALL.iter().enumerate() {
            counters.insert(*status, int(row, at, "count")?);
        }
    }
    Ok(counters)
}

pub(super) async fn running_by_tenant(inner: &Inner) -> Result<BTreeMap<TenantId, i64>, StoreError> {
    let sql =
        "SELECT tenant_id, sum(running)::bigint FROM run_counts GROUP BY tenant_id HAVING sum(running) > 0";
    let rows = fetch(inner, sql, &[]).await?;
    let mut running = BTreeMap::new();
    for row in &rows {
        running.insert(text(row, 0, "tenant_id")?, int(row, 1, "count")?);
    }
    Ok(running)
}

/// Every run of a plan is in `runs`, and in one of the other tables: so those that wait are what is left. One statement
/// sees one moment.
pub(super) const PLAN_COUNTERS: &str = "
WITH ends AS MATERIALIZED (
    SELECT superseded, status, count(*) AS n FROM run_ends WHERE plan_id = $1 GROUP BY superseded, status
), running AS MATERIALIZED (
    SELECT count(*) AS n FROM run_active WHERE plan_id = $1
)
SELECT 'queued', (SELECT count(*) FROM runs WHERE plan_id = $1)
    - (SELECT COALESCE(sum(n), 0)::bigint FROM ends) - (SELECT n FROM running)
UNION ALL SELECT 'running', n FROM running
UNION ALL SELECT status, n FROM ends WHERE superseded = 0";

pub(super) async fn plan_counters(inner: &Inner, plan: PlanId) -> Result<RunCounters, StoreError> {
    let rows = fetch(inner, PLAN_COUNTERS, &[Value::Text(plan.to_string())]).await?;
    rows.iter()
        .map(|row| Ok((text(row, 0, "status")?, int(row, 1, "count")?)))
        .collect()
}

/// Looks at those of the plan that were submitted as held, and not at the held ones of all plans.
pub(super) const PLAN_HELD: &str = "SELECT count(*) FROM runs r
    CROSS JOIN LATERAL (SELECT not_before FROM run_delayed WHERE seq = r.seq OFFSET 0) d
    WHERE r.plan_id = $1 AND r.held = 1 AND d.not_before IS NULL";

pub(super) async fn plan_held(inner: &Inner, plan: PlanId) -> Result<i64, StoreError> {
    let rows = fetch(inner, PLAN_HELD, &[Value::Text(plan.to_string())]).await?;
    Ok(rows
        .first()
        .map(|row| int(row, 0, "held"))
        .transpose()?
        .unwrap_or_default())
}

pub(super) async fn position(inner: &Inner, id: RunId) -> Result<Option<u64>, StoreError> {
    let sql = "
        SELECT (SELECT count(*) FROM run_ready o WHERE o.class_id = w.class_id AND (o.rank, o.seq) < (w.rank, w.seq))
            + (SELECT count(*) FROM run_delayed o
                WHERE o.class_id = w.class_id AND (o.rank, o.seq) < (w.rank, w.seq) AND o.not_before IS NOT NULL)
        FROM runs r CROSS JOIN LATERAL (
            SELECT q.class_id, q.rank, q.seq FROM run_ready q
            WHERE q.class_id = r.class_id AND q.rank = -r.priority AND q.seq = r.seq
            UNION ALL SELECT d.class_id, d.rank, d.seq FROM run_delayed d WHERE d.seq = r.seq) w
        WHERE r.id = $1";
    let rows = fetch(inner, sql, &[Value::Text(id.to_string())]).await?;
    rows.first().map(|row| int(row, 0, "position")).transpose()
}
