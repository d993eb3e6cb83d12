//! Row-level security, for backends that have it: in the scope of a tenant nothing of another can be read, changed, removed
//! or made, whatever is asked for. The store is asked here as a use case would that forgot to look whose a row is.

use super::samples::{self, *};
use crate::{
    Cancelled, Change, ClaimRuns, CredentialCheck, Event, NewEvent, Record, RequestScope, RunCounters,
    RunFilter, SandboxStamp, Scope, Store, StoreError, TABLES, Table, Value, as_tenant,
};
use ostler_domain as d;
use ostler_domain::{NewRun, RunId, RunStatus, ServerId, TenantId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tables in which a tenant's request changes nothing of its own.
const READ_ONLY: &[&str] = &["tenants", "sandbox_usage"];
/// Tables that it only adds to.
const APPENDED: &[&str] = &["audit_log"];

/// One row in each table of tenants, each after those that it refers to.
fn rows_of(tenant: &d::Tenant) -> Vec<Change> {
    let id = tenant.id;
    let (part, role) = (department(id), role(Some(id)));
    let user = user(id, Some(part.id));
    let assignment = d::RoleAssignment {
        user_id: user.id,
        role_id: role.id,
        tenant_id: id,
    };
    let home = project(id);
    let task = task(&home, true);
    let piece = subtask(&task, 1, true);
    let mut token = token(id, true);
    token.user_id = Some(user.id);
    vec![
        Change::insert(tenant),
        Change::insert(&part),
        Change::insert(&user),
        Change::insert(&role),
        Change::insert(&assignment),
        Change::insert(&credential(id)),
        Change::insert(&audit_entry(id, true)),
        Change::insert(&token),
        Change::insert(&home),
        Change::insert(&task),
        Change::insert(&piece),
        Change::insert(&merge_request(&piece, 1, true)),
        Change::insert(&issue(&home, "os-1", Some(&task))),
        Change::insert(&sandbox(Some(id), None)),
        Change::insert(&usage(at(1), Some(id))),
        Change::insert(&agent_session(id, &format!("subject of {}", task.id))),
        Change::insert(&kept_reply(id)),
        Change::insert(&plan(id, true)),
        Change::insert(&test_record(id, true)),
        Change::insert(&quarantined(id, true)),
        Change::insert(&artifact(id, true)),
    ]
}

fn rows_of_platform() -> Vec<Change> {
    vec![
        Change::insert(&credential_check()),
        Change::insert(&pool("p", true)),
        Change::insert(&host("local", true)),
        Change::insert(&samples::role(None)),
        Change::insert(&d::Sandbox {
            pool: "p".into(),
            ..sandbox(None, None)
        }),
    ]
}

fn row(change: &Change) -> (&'static Table, Vec<Value>) {
    match change {
        Change::Insert { table, values } => (table, values.clone()),
        other => panic!("{other:?}"),
    }
}

/// Where a row says whose it is.
fn owner_at(table: &Table) -> usize {
    let column = if table.name == "tenants" {
        "id"
    } else {
        "tenant_id"
    };
    table.position(column).unwrap()
}

async fn all(store: &dyn Store, table: &'static Table) -> Result<Vec<Vec<Value>>, StoreError> {
    let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        columns.join(", "),
        table.name,
        table.key.join(", ")
    );
    store.select(table, sql, Vec::new()).await
}

fn updated(table: &'static Table, mut values: Vec<Value>) -> Change {
    let at = table.position("version").unwrap();
    let Value::Int(expected) = values[at] else {
        panic!()
    };
    values[at] = Value::Int(expected + 1);
    Change::Update {
        table,
        values,
        expected,
    }
}

fn deleted(table: &'static Table, values: &[Value]) -> Change {
    let key = table
        .key
        .iter()
        .map(|c| values[table.position(c).unwrap()].clone());
    Change::Delete {
        table,
        key: key.collect(),
    }
}

/// The database refused what the role has no right to.
fn is_refused<T: std::fmt::Debug>(done: &Result<T, StoreError>) -> bool {
    matches!(done, Err(StoreError::Engine { message })
        if message.contains("row-level security") || message.contains("permission denied"))
}

/// A run in each state, and an event.
struct Work {
    waiting: NewRun,
    delayed: NewRun,
    running: NewRun,
    ended: NewRun,
}

impl Work {
    fn runs(&self) -> [&NewRun; 4] {
        [&self.waiting, &self.delayed, &self.running, &self.ended]
    }

    async fn of(store: &dyn Store, tenant: TenantId, server: ServerId) -> Self {
        let class = |name: &str| format!("{name} of {tenant}");
        let plan_id = Some(d::PlanId::new());
        let of_plan = |name: &str| NewRun {
            plan_id,
            ..run(tenant, &class(name), 0)
        };
        let mut delayed = of_plan("delayed");
        delayed.not_before = Some(at(i64::MAX));
        let work = Self {
            waiting: of_plan("waiting"),
            delayed,
            running: of_plan("running"),
            ended: of_plan("ended"),
        };
        let runs = work.runs().map(Clone::clone);
        store.enqueue(runs.into()).await.unwrap();
        claim_of(store, server, &class("running"), 1).await;
        let ended = claim_of(store, server, &class("ended"), 1).await;
        let end = finish(ended[0].submitted.id, ended[0].attempt, RunStatus::Succeeded);
        assert_eq!(store.finish(vec![end]).await.unwrap(), [true]);
        store.commit(vec![event(Some(tenant))]).await.unwrap();
        work
    }
}

fn event(tenant_id: Option<TenantId>) -> Change {
    Change::Event(NewEvent {
        tenant_id,
        kind: "x".into(),
        subject: "y".into(),
        data: serde_json::Value::Null,
        at: at(1),
    })
}

/// Everything that is kept of a tenant, as the owner sees it.
async fn snapshot(
    store: &dyn Store,
    tenant: TenantId,
) -> (Vec<Vec<Value>>, Vec<d::Run>, Vec<Event>, RunCounters) {
    let mut rows = Vec::new();
    for table in TABLES {
        let own = Value::Text(tenant.to_string());
        let found = all(store, table).await.unwrap();
        rows.extend(found.into_iter().filter(|row| row.contains(&own)));
    }
    let filter = RunFilter {
        tenant_id: Some(tenant),
        ..RunFilter::default()
    };
    (
        rows,
        store.runs(filter).await.unwrap(),
        store.events(Some(tenant), 0, 100).await.unwrap(),
        store.counters(Some(tenant)).await.unwrap(),
    )
}

/// Nothing of another tenant is within reach, in any table, and everything of one's own is.
pub async fn tenants_are_out_of_each_others_reach(store: Arc<dyn Store>) {
    let store = &*store;
    let (mine, other) = (samples::tenant(), samples::tenant());
    let server = ServerId::new();
    let (my_rows, other_rows, platform) = (rows_of(&mine), rows_of(&other), rows_of_platform());
    let named = |changes: &[Change]| -> BTreeSet<&str> { changes.iter().map(|c| row(c).0.name).collect() };
    let known: BTreeSet<&str> = named(&my_rows).union(&named(&platform)).copied().collect();
    let tables: BTreeSet<&str> = TABLES.iter().map(|table| table.name).collect();
    assert_eq!(known, tables, "every table has a row here");
    for rows in [&platform, &my_rows, &other_rows] {
        store.commit(rows.clone()).await.unwrap();
    }
    let (my_work, other_work) = (
        Work::of(store, mine.id, server).await,
        Work::of(store, other.id, server).await,
    );
    let before = snapshot(store, other.id).await;
    assert_eq!((before.1.len(), before.2.len()), (4, 1));

    as_tenant(mine.id, async {
        rows_are_apart(store, &mine, &my_rows, &other, &other_rows).await;
        platform_is_out_of_reach(store, &platform).await;
        queue_is_apart(store, mine.id, &my_work, other.id, &other_work, server).await;
    })
    .await;
    assert_eq!(snapshot(store, other.id).await, before);

    RequestScope::new()
        .enter(async {
            assert_eq!(Scope::current(), Scope::Nobody);
            for change in &my_rows {
                let (table, _) = row(change);
                let seen = all(store, table).await.unwrap();
                assert!(
                    seen.iter().all(|row| row[owner_at(table)] == Value::Null),
                    "{}",
                    table.name
                );
            }
            assert_eq!(store.runs(RunFilter::default()).await.unwrap(), []);
            assert_eq!(store.events(None, 0, 100).await.unwrap(), []);
        })
        .await;
}

async fn rows_are_apart(
    store: &dyn Store,
    mine: &d::Tenant,
    my_rows: &[Change],
    other: &d::Tenant,
    other_rows: &[Change],
) {
    let own = Value::Text(mine.id.to_string());
    let foreign = Value::Text(other.id.to_string());
    for (my_row, other_row) in my_rows.iter().zip(other_rows) {
        let (table, my_values) = row(my_row);
        let (_, other_values) = row(other_row);
        let name = table.name;
        let at = owner_at(table);
        let seen = all(store, table).await.unwrap();
        assert!(
            seen.iter().any(|row| row[at] == own),
            "{name}: one's own is not seen"
        );
        let strange = seen.iter().find(|row| row[at] != own && row[at] != Value::Null);
        assert_eq!(strange, None, "{name}: of another tenant");
        // It is there, is not seen, and stays.
        if table.versioned {
            let change = updated(table, other_values.clone());
            let done = store.commit(vec![change]).await;
            assert!(
                matches!(done, Err(StoreError::Conflict { .. })) || is_refused(&done),
                "{name}: {done:?}"
            );
            let mut given_away = my_values.clone();
            given_away[at] = foreign.clone();
            let change = updated(table, given_away);
            assert!(
                name == "tenants" || is_refused(&store.commit(vec![change]).await),
                "{name}: given away"
            );
        }
        let done = store.commit(vec![deleted(table, &other_values)]).await;
        assert!(done.is_ok() || is_refused(&done), "{name}: {done:?}");
    }
    // New rows: those of another tenant are refused before anything else is looked at, one's own are made, changed and
    // removed.
    for change in rows_of(other) {
        let done = store.commit(vec![change.clone()]).await;
        assert!(is_refused(&done), "{}: {done:?}", row(&change).0.name);
    }
    let mut fresh: Vec<Change> = rows_of(mine);
    fresh.retain(|change| !READ_ONLY.contains(&row(change).0.name));
    store.commit(fresh.clone()).await.unwrap();
    for change in fresh.iter().rev() {
        let (table, values) = row(change);
        if table.versioned {
            store.commit(vec![updated(table, values.clone())]).await.unwrap();
        }
        if !APPENDED.contains(&table.name) {
            store.commit(vec![deleted(table, &values)]).await.unwrap();
            assert!(!all(store, table).await.unwrap().contains(&values));
        }
    }
}

async fn platform_is_out_of_reach(store: &dyn Store, platform: &[Change]) {
    for change in platform {
        let (table, values) = row(change);
        let seen = all(store, table).await;
        match table.name {
            "pools" | "roles" => assert!(seen.unwrap().contains(&values)),
            "sandboxes" => assert!(!seen.unwrap().contains(&values)),
            _ => assert!(is_refused(&seen), "{}: {seen:?}", table.name),
        }
        let done = store.commit(vec![updated(table, values.clone())]).await;
        assert!(
            matches!(done, Err(StoreError::Conflict { .. })) || is_refused(&done),
            "{}: {done:?}",
            table.name
        );
        let mut fresh = values.clone();
        fresh[0] = Value::Text("another".into());
        if table == CredentialCheck::TABLE {
            fresh[0] = Value::Int(2);
        }
        let values = fresh;
        let done = store.commit(vec![Change::Insert { table, values }]).await;
        assert!(is_refused(&done), "{}: {done:?}", table.name);
    }
    // A role for all is seen, and can still not be removed.
    let (roles, values) = platform
        .iter()
        .map(row)
        .find(|(table, _)| table.name == "roles")
        .unwrap();
    store.commit(vec![deleted(roles, &values)]).await.unwrap();
    assert!(all(store, roles).await.unwrap().contains(&values));
}

async fn queue_is_apart(
    store: &dyn Store,
    mine: TenantId,
    my_work: &Work,
    other: TenantId,
    other_work: &Work,
    server: ServerId,
) {
    let seen = store.runs(RunFilter::default()).await.unwrap();
    let seen: BTreeSet<RunId> = seen.into_iter().map(|run| run.submitted.id).collect();
    assert_eq!(seen, my_work.runs().map(|run| run.id).into());
    for (status, of) in [
        (RunStatus::Queued, 2),
        (RunStatus::Running, 1),
        (RunStatus::Succeeded, 1),
    ] {
        let filter = RunFilter {
            status: Some(status),
            ..RunFilter::default()
        };
        assert_eq!(store.runs(filter).await.unwrap().len(), of, "{status}");
    }
    for theirs in other_work.runs() {
        assert_eq!(store.run(theirs.id).await.unwrap(), None);
        assert_eq!(store.position(theirs.id).await.unwrap(), None);
        let cancelled = store.request_cancel(theirs.id, at(9)).await.unwrap();
        assert_eq!(cancelled, Cancelled::Unknown);
        assert_eq!(store.release(vec![theirs.id]).await.unwrap(), 0);
        let skipped = store.skip(vec![theirs.id], "no".into(), at(9)).await.unwrap();
        assert_eq!(skipped, [false]);
        store
            .commit(vec![
                Change::CancelRun(theirs.id),
                Change::ReleaseRun(theirs.id),
                Change::SkipRun {
                    id: theirs.id,
                    reason: "no".into(),
                    at: at(9),
                },
            ])
            .await
            .unwrap();
        let counted = store.plan_counters(theirs.plan_id.unwrap()).await.unwrap();
        assert_eq!(counted.values().sum::<i64>(), 0);
        let again = NewRun {
            id: RunId::new(),
            ..theirs.clone()
        };
        assert!(is_refused(&store.enqueue(vec![again.clone()]).await));
        let with_own = vec![
            Change::enqueue(run(mine, "x", 0)),
            Change::enqueue(again),
            event(Some(mine)),
        ];
        assert!(is_refused(&store.commit(with_own).await));
    }
    let counted = store.counters(None).await.unwrap();
    assert_eq!(counted, store.counters(Some(mine)).await.unwrap());
    assert_eq!(counted.values().sum::<i64>(), 4);
    assert_eq!(
        store.counters(Some(other)).await.unwrap().values().sum::<i64>(),
        0
    );
    let events = store.events(None, 0, 100).await.unwrap();
    assert!(events.iter().all(|event| event.event.tenant_id == Some(mine)));
    assert_eq!(store.last_event().await.unwrap(), events.last().unwrap().seq);
    assert_eq!(store.events(Some(other), 0, 100).await.unwrap(), []);
    for owner in [Some(other), None] {
        assert!(is_refused(&store.commit(vec![event(owner)]).await), "{owner:?}");
    }
    // What only the server itself does.
    let claim = ClaimRuns {
        server_id: server,
        classes: (1..100).collect(),
        limit: 10,
        now: at(10),
        picks: Vec::new(),
        sandbox: None,
    };
    assert!(is_refused(&store.claim(claim).await));
    let end = |run: &NewRun| finish(run.id, 1, RunStatus::Failed);
    for run in [&my_work.running, &other_work.running] {
        assert!(is_refused(&store.finish(vec![end(run)]).await));
        assert!(is_refused(&store.requeue(vec![requeue(run.id, 1)]).await));
        let taken = store.assign_sandbox(run.id, 1, d::SandboxId::new()).await;
        assert!(is_refused(&taken));
    }
    assert!(is_refused(&store.heartbeat(server, at(1)).await));
    assert!(is_refused(&store.silent_servers(at(1)).await));
    assert!(is_refused(
        &store.prune(d::UsageSample::TABLE, "at", at(i64::MAX)).await
    ));
    let warm = claim_sandbox("p", server, mine);
    assert_eq!(
        store.claim_sandbox(warm, None).await.unwrap(),
        None,
        "nobody's is not seen"
    );
    let counts = store.sandbox_counts().await.unwrap();
    assert_eq!(counts.iter().map(|count| count.count).sum::<u32>(), 1);
    let theirs = all(store, d::Sandbox::TABLE).await.unwrap();
    assert_eq!(theirs.len(), 1);
    store
        .stamp_sandboxes(vec![d::SandboxId::new()], SandboxStamp::Used, at(3))
        .await
        .unwrap();
    // One's own runs, all the way that requests take them.
    let mut delayed = run(mine, "y", 0);
    delayed.not_before = Some(at(i64::MAX));
    let waiting = run(mine, "y", 0);
    store
        .enqueue(vec![delayed.clone(), waiting.clone()])
        .await
        .unwrap();
    for run in [&delayed, &waiting] {
        assert_eq!(store.position(run.id).await.unwrap(), Some(0));
        assert_eq!(
            store.request_cancel(run.id, at(9)).await.unwrap(),
            Cancelled::AtOnce
        );
        let ended = store.run(run.id).await.unwrap().unwrap();
        assert_eq!(ended.status, RunStatus::Cancelled);
    }
    let held = [true, true].map(|held| NewRun {
        held,
        plan_id: my_work.waiting.plan_id,
        ..run(mine, "y", 0)
    });
    store.enqueue(held.to_vec()).await.unwrap();
    assert_eq!(store.release(vec![held[0].id]).await.unwrap(), 1);
    let skipped = store
        .skip(held.iter().map(|run| run.id).collect(), "no".into(), at(9))
        .await;
    assert_eq!(skipped.unwrap(), [true, true]);
    let counted = store
        .plan_counters(my_work.waiting.plan_id.unwrap())
        .await
        .unwrap();
    assert_eq!(counted.get(&RunStatus::Skipped), Some(&2));
    let running = my_work.running.id;
    let both = vec![Change::CancelRun(running), event(Some(mine))];
    store.commit(both).await.unwrap();
    assert!(store.run(running).await.unwrap().unwrap().cancel_requested);
}
