//! Rows: kept exactly, guarded by versions, unique values and references, committed whole or not at all.

use super::samples::{self, *};
use crate::{
    Change, Filter, NewEvent, Record, RunFilter, SandboxBrief, SandboxStamp, Store, StoreError, StoreExt,
    Told,
};
use ostler_domain as d;
use ostler_domain::{SandboxStatus, ServerId};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

/// The row with the key of `record`.
async fn stored<R: Record>(store: &dyn Store, record: &R) -> Option<R> {
    let values = record.to_values();
    let mut filter = Filter::<R>::all();
    for column in R::TABLE.key {
        let value = values[R::TABLE.position(column).unwrap()].clone();
        filter.conditions.push((column, crate::Op::Eq, value));
    }
    store.first(filter).await.unwrap()
}

/// Inserts `first`, changes it to `second` (which has the same key), deletes it, and reads after each.
async fn round_trip<R: Record + PartialEq + Debug>(store: &dyn Store, first: R, second: Option<R>) {
    assert_eq!(stored(store, &first).await, None);
    store.commit(vec![Change::insert(&first)]).await.unwrap();
    assert_eq!(stored(store, &first).await.as_ref(), Some(&first));
    if let Some(changed) = second {
        store.commit(vec![Change::update(&changed)]).await.unwrap();
        let read = stored(store, &first).await.unwrap();
        assert_eq!(
            read.version(),
            changed.version() + 1,
            "{}: the store counts",
            R::TABLE.name
        );
        let mut expected = changed.to_values();
        expected[R::TABLE.position("version").unwrap()] = crate::Value::Int(read.version());
        assert_eq!(read.to_values(), expected, "{}", R::TABLE.name);
    }
    store.commit(vec![Change::delete(&first)]).await.unwrap();
    assert_eq!(stored(store, &first).await, None);
    store
        .commit(vec![Change::delete(&first)])
        .await
        .expect("deleting what is not there is no error");
}

/// Every record comes back exactly, with all optional fields set and with none, before and after a change.
pub async fn records_round_trip(store: Arc<dyn Store>) {
    let store = &*store;
    let first = samples::tenant();
    let second = d::Tenant {
        id: first.id,
        ..samples::tenant()
    };
    round_trip(store, first, Some(second)).await;
    let owner = some_tenant(store).await;
    let home = project(owner);
    let parent = task(&home, true);
    let piece = subtask(&parent, 1, true);
    store
        .commit(vec![
            Change::insert(&home),
            Change::insert(&parent),
            Change::insert(&piece),
        ])
        .await
        .unwrap();

    let first = project(owner);
    let second = d::Project {
        id: first.id,
        ..project(owner)
    };
    round_trip(store, first, Some(second)).await;
    let first = agent_session(owner, "tsk_1");
    let second = crate::AgentSession {
        expires_at: at(99),
        ..first.clone()
    };
    round_trip(store, first, Some(second)).await;
    round_trip(store, kept_reply(owner), None).await;
    access_round_trips(store, owner).await;

    for full in [true, false] {
        let first = token(owner, full);
        let second = d::ApiToken {
            id: first.id,
            ..token(owner, !full)
        };
        round_trip(store, first, Some(second)).await;
        let first = task(&home, full);
        let second = d::Task {
            id: first.id,
            ..task(&home, !full)
        };
        round_trip(store, first, Some(second)).await;
        let first = subtask(&parent, 2, full);
        let second = d::Subtask {
            id: first.id,
            ..subtask(&parent, 3, !full)
        };
        round_trip(store, first, Some(second)).await;
        let first = merge_request(&piece, 1, full);
        let second = d::MergeRequest {
            id: first.id,
            ..merge_request(&piece, 2, !full)
        };
        round_trip(store, first, Some(second)).await;
        round_trip(store, pool("p", full), Some(pool("p", !full))).await;
        let owned = |full: bool| issue(&home, "os-1", full.then_some(&parent));
        round_trip(store, owned(full), Some(owned(!full))).await;
        let held = |full: bool| sandbox(full.then_some(owner), full.then_some(1 << 31));
        let first = held(full);
        let second = d::Sandbox {
            id: first.id,
            ..held(!full)
        };
        round_trip(store, first, Some(second)).await;
        round_trip(store, host("local", full), Some(host("local", !full))).await;
        round_trip(store, usage(at(1), full.then_some(owner)), None).await;
    }
}

async fn access_round_trips(store: &dyn Store, owner: d::TenantId) {
    let part = department(owner);
    let (somebody, some_role) = (user(owner, None), role(Some(owner)));
    let changes = [
        Change::insert(&part),
        Change::insert(&somebody),
        Change::insert(&some_role),
    ];
    store.commit(changes.into()).await.unwrap();

    let first = department(owner);
    let second = d::Department {
        id: first.id,
        ..department(owner)
    };
    round_trip(store, first, Some(second)).await;
    for (before, after) in [(None, Some(part.id)), (Some(part.id), None)] {
        let first = user(owner, before);
        let second = d::User {
            id: first.id,
            ..user(owner, after)
        };
        round_trip(store, first, Some(second)).await;
    }
    for tenant in [Some(owner), None] {
        let first = role(tenant);
        let second = d::Role {
            id: first.id,
            permissions: d::Permissions::default(),
            ..role(tenant)
        };
        round_trip(store, first, Some(second)).await;
    }
    let assignment = d::RoleAssignment {
        user_id: somebody.id,
        role_id: some_role.id,
        tenant_id: owner,
    };
    round_trip(store, assignment, None).await;
    let first = token(owner, true);
    let second = d::ApiToken {
        user_id: Some(somebody.id),
        ..first.clone()
    };
    round_trip(store, first, Some(second)).await;
    let first = credential(owner);
    let second = d::Credential {
        id: first.id,
        kind: d::CredentialKind::GithubToken,
        ..credential(owner)
    };
    round_trip(store, first, Some(second)).await;
    let second = crate::CredentialCheck {
        key_id: "another".into(),
        ..credential_check()
    };
    round_trip(store, credential_check(), Some(second)).await;
}

/// What the audit log holds stays, whatever becomes of what it tells of.
pub async fn the_audit_log_is_append_only(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let entries = [audit_entry(tenant.id, true), audit_entry(tenant.id, false)];
    let mut changes = vec![Change::insert(&tenant)];
    changes.extend(entries.iter().map(Change::insert));
    store.commit(changes).await.unwrap();
    let mut values = entries[0].to_values();
    values[1] = crate::Value::Int(0);
    let table = d::AuditEntry::TABLE;
    for change in [
        Change::delete(&entries[0]),
        Change::Update {
            table,
            values,
            expected: 0,
        },
    ] {
        // The tenant must come back with it.
        let result = store.commit(vec![Change::delete(&tenant), change]).await;
        assert!(result.is_err(), "{result:?}");
    }
    assert!(stored(store, &tenant).await.is_some());
    store.commit(vec![Change::delete(&tenant)]).await.unwrap();
    let left: Vec<d::AuditEntry> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert_eq!(left, entries, "in the order in which they were made");
}

/// What goes with a user and with a tenant, and what cannot go while it is used.
pub async fn access_goes_with_its_owner(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let part = department(tenant.id);
    let people = [user(tenant.id, Some(part.id)), user(tenant.id, None)];
    let (own, built_in) = (role(Some(tenant.id)), role(None));
    let mut changes = vec![
        Change::insert(&tenant),
        Change::insert(&part),
        Change::insert(&own),
        Change::insert(&built_in),
        Change::insert(&credential(tenant.id)),
    ];
    for somebody in &people {
        changes.push(Change::insert(somebody));
        let held = d::ApiToken {
            user_id: Some(somebody.id),
            ..token(tenant.id, false)
        };
        changes.push(Change::insert(&held));
        for role in [&own, &built_in] {
            changes.push(Change::insert(&d::RoleAssignment {
                user_id: somebody.id,
                role_id: role.id,
                tenant_id: tenant.id,
            }));
        }
    }
    store.commit(changes).await.unwrap();
    for used in [
        Change::delete(&part),
        Change::delete(&own),
        Change::delete(&built_in),
    ] {
        let result = store.commit(vec![used]).await;
        assert!(matches!(result, Err(StoreError::Reference { .. })), "{result:?}");
    }
    store.commit(vec![Change::delete(&people[0])]).await.unwrap();
    let left: Vec<d::ApiToken> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert_eq!(
        left.iter().map(|t| t.user_id).collect::<Vec<_>>(),
        [Some(people[1].id)]
    );
    store.commit(vec![Change::delete(&part)]).await.unwrap();
    store.commit(vec![Change::delete(&tenant)]).await.unwrap();
    let assigned: Vec<d::RoleAssignment> = store.list(Filter::all()).await.unwrap();
    let sealed: Vec<d::Credential> = store.list(Filter::all()).await.unwrap();
    let tokens: Vec<d::ApiToken> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert!(assigned.is_empty() && sealed.is_empty() && tokens.is_empty());
    let roles: Vec<d::Role> = store.list(Filter::all()).await.unwrap();
    assert_eq!(roles, [built_in], "those that Ostler brings along are nobody's");
}

/// A zero byte, which programs print and PostgreSQL has no text for, keeps nothing from being stored.
pub async fn zero_bytes_are_replaced(store: Arc<dyn Store>) {
    let owner = some_tenant(&*store).await;
    let mut row = project(owner);
    row.name = "a\0b".into();
    store.commit(vec![Change::insert(&row)]).await.unwrap();
    let found = store
        .first(Filter::<d::Project>::by("name", row.name.clone()))
        .await
        .unwrap();
    assert_eq!(found.unwrap().name, "a\u{fffd}b");
}

/// An update with another version than the stored one changes nothing.
pub async fn stale_updates_conflict(store: Arc<dyn Store>) {
    let owner = some_tenant(&*store).await;
    let mut row = project(owner);
    store.commit(vec![Change::insert(&row)]).await.unwrap();
    let stale = row.clone();
    row.name = "a new name".into();
    store.commit(vec![Change::update(&row)]).await.unwrap();
    let mut late = stale;
    late.name = "too late".into();
    match store.commit(vec![Change::update(&late)]).await {
        Err(StoreError::Conflict { table, key }) => {
            assert_eq!(table, "projects");
            assert!(key.contains(&late.id.to_string()), "{key}");
        }
        other => panic!("a stale update must conflict: {other:?}"),
    }
    assert_eq!(stored(&*store, &row).await.unwrap().name, "a new name");
    let absent = project(owner);
    let result = store.commit(vec![Change::update(&absent)]).await;
    assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
}

async fn assert_duplicate(store: &dyn Store, change: Change, table: &str, columns: &str) {
    match store.commit(vec![change]).await {
        Err(StoreError::Duplicate { table: t, columns: c }) => {
            assert_eq!((t.as_str(), c.as_str()), (table, columns));
        }
        other => panic!("{table} ({columns}) must be unique: {other:?}"),
    }
}

/// Each unique value is guarded, and the error says where.
pub async fn duplicates_name_table_and_columns(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    store.commit(vec![Change::insert(&tenant)]).await.unwrap();
    let twin = d::Tenant {
        name: "another name".into(),
        ..tenant.clone()
    };
    assert_duplicate(store, Change::insert(&twin), "tenants", "id").await;
    let namesake = d::Tenant {
        id: d::TenantId::new(),
        ..tenant.clone()
    };
    assert_duplicate(store, Change::insert(&namesake), "tenants", "name").await;

    let home = project(tenant.id);
    let parent = task(&home, false);
    let piece = subtask(&parent, 1, false);
    let request = merge_request(&piece, 1, false);
    let pool = pool("p", false);
    let token = token(tenant.id, false);
    let held = sandbox(Some(tenant.id), Some(77));
    store
        .commit(vec![
            Change::insert(&home),
            Change::insert(&parent),
            Change::insert(&piece),
            Change::insert(&request),
            Change::insert(&pool),
            Change::insert(&token),
            Change::insert(&held),
        ])
        .await
        .unwrap();
    let mut other = project(tenant.id);
    other.name.clone_from(&home.name);
    assert_duplicate(store, Change::insert(&other), "projects", "tenant_id, name").await;
    let mut other = project(tenant.id);
    other.source.clone_from(&home.source);
    assert_duplicate(store, Change::insert(&other), "projects", "tenant_id, source").await;
    let other = subtask(&parent, 1, false);
    assert_duplicate(store, Change::insert(&other), "subtasks", "project_id, number").await;
    let other = merge_request(&piece, 1, false);
    assert_duplicate(
        store,
        Change::insert(&other),
        "merge_requests",
        "project_id, number",
    )
    .await;
    assert_duplicate(store, Change::insert(&pool), "pools", "name").await;
    let mut other = samples::token(tenant.id, false);
    other.hash.clone_from(&token.hash);
    assert_duplicate(store, Change::insert(&other), "api_tokens", "hash").await;

    // A vsock context id is free again once its sandbox is gone, and an update is guarded like an insert.
    let mut other = sandbox(None, Some(77));
    assert_duplicate(store, Change::insert(&other), "sandboxes", "vsock_cid").await;
    other.vsock_cid = None;
    store.commit(vec![Change::insert(&other)]).await.unwrap();
    other.vsock_cid = Some(77);
    assert_duplicate(store, Change::update(&other), "sandboxes", "vsock_cid").await;
    let mut gone = held;
    gone.status = SandboxStatus::Destroyed;
    store
        .commit(vec![Change::update(&gone), Change::update(&other)])
        .await
        .unwrap();

    // The same name in another tenant is another project.
    let elsewhere = d::Project {
        name: home.name.clone(),
        source: home.source.clone(),
        ..project(some_tenant(store).await)
    };
    store.commit(vec![Change::insert(&elsewhere)]).await.unwrap();
}

/// A row cannot point to nothing, and a tenant that still owns something stays.
pub async fn references_must_exist(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let home = project(tenant.id);
    let parent = task(&home, false);
    let held = sandbox(Some(tenant.id), None);
    for change in [
        Change::insert(&token(tenant.id, false)),
        Change::insert(&home),
        Change::insert(&parent),
        Change::insert(&issue(&home, "os-1", None)),
        Change::insert(&held),
        Change::insert(&agent_session(tenant.id, "x")),
    ] {
        let result = store.commit(vec![change.clone()]).await;
        assert!(
            matches!(result, Err(StoreError::Reference { .. })),
            "{change:?}: {result:?}"
        );
    }
    store.commit(vec![Change::insert(&tenant)]).await.unwrap();
    for row in [Change::insert(&home), Change::insert(&held)] {
        let undo = match &row {
            Change::Insert { table, .. } if table.name == "projects" => Change::delete(&home),
            _ => Change::delete(&held),
        };
        store.commit(vec![row]).await.unwrap();
        let result = store.commit(vec![Change::delete(&tenant)]).await;
        assert!(matches!(result, Err(StoreError::Reference { .. })), "{result:?}");
        store.commit(vec![undo]).await.unwrap();
    }
    store.commit(vec![Change::delete(&tenant)]).await.unwrap();
}

/// What goes with a project, a task, a subtask and a tenant; and that nothing else does.
pub async fn rows_go_with_their_owner(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let (home, other) = (project(tenant.id), project(tenant.id));
    let tasks = [task(&home, false), task(&home, false), task(&other, false)];
    let pieces = [
        subtask(&tasks[0], 1, false),
        subtask(&tasks[1], 2, false),
        subtask(&tasks[2], 1, false),
    ];
    let requests = [
        merge_request(&pieces[0], 1, false),
        merge_request(&pieces[1], 2, false),
        merge_request(&pieces[2], 1, false),
    ];
    let issues = [
        issue(&home, "os-1", Some(&tasks[0])),
        issue(&home, "os-2", None),
        issue(&other, "os-1", Some(&tasks[2])),
    ];
    let mut changes = vec![
        Change::insert(&tenant),
        Change::insert(&token(tenant.id, false)),
        Change::insert(&agent_session(tenant.id, "x")),
        Change::insert(&home),
        Change::insert(&other),
    ];
    changes.extend(tasks.iter().map(Change::insert));
    changes.extend(pieces.iter().map(Change::insert));
    changes.extend(requests.iter().map(Change::insert));
    changes.extend(issues.iter().map(Change::insert));
    let run = d::NewRun {
        project_id: Some(home.id),
        ..run(tenant.id, "a", 0)
    };
    changes.push(Change::enqueue(run.clone()));
    store.commit(changes).await.unwrap();

    // A merge request goes with its subtask.
    store.commit(vec![Change::delete(&pieces[1])]).await.unwrap();
    let left: Vec<d::MergeRequest> = store.list(Filter::all()).await.unwrap();
    assert_eq!(
        left.iter().map(|r| r.id).collect::<BTreeSet<_>>(),
        [requests[0].id, requests[2].id].into()
    );
    // Everything of a task goes with it.
    store.commit(vec![Change::delete(&tasks[0])]).await.unwrap();
    let left: Vec<d::Subtask> = store.list(Filter::all()).await.unwrap();
    assert_eq!(left, pieces[2..]);
    let left: Vec<d::MergeRequest> = store.list(Filter::all()).await.unwrap();
    assert_eq!(left, requests[2..]);
    let left: Vec<d::Issue> = store.list(Filter::by("project_id", home.id)).await.unwrap();
    assert_eq!(left, issues[1..2]);
    // Everything of a project goes with it, but for the history of its runs.
    store.commit(vec![Change::delete(&home)]).await.unwrap();
    let left: Vec<d::Task> = store.list(Filter::all()).await.unwrap();
    assert_eq!(left, tasks[2..]);
    let left: Vec<d::Issue> = store.list(Filter::all()).await.unwrap();
    assert_eq!(left, issues[2..]);
    assert!(store.run(run.id).await.unwrap().is_some());
    // Tokens and sessions go with their tenant.
    store
        .commit(vec![Change::delete(&other), Change::delete(&tenant)])
        .await
        .unwrap();
    assert_eq!(
        store.list(Filter::<d::ApiToken>::all()).await.unwrap(),
        Vec::new()
    );
    assert_eq!(
        store.list(Filter::<crate::AgentSession>::all()).await.unwrap(),
        Vec::new()
    );
}

/// When the last change of a list fails, nothing of it is kept: no row, no run, no class in use, no event, no count.
pub async fn a_commit_is_all_or_nothing(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let (home, taken) = (project(owner), project(owner));
    let waiting = run(owner, "old", 0);
    store
        .commit(vec![Change::insert(&taken), Change::enqueue(waiting.clone())])
        .await
        .unwrap();
    let before = store.counters(Some(owner)).await.unwrap();
    let newest = store.last_event().await.unwrap();
    let new_run = run(owner, "new", 0);
    let mut stale = taken.clone();
    stale.version = 9;
    for last in [
        Change::insert(&taken),
        Change::update(&stale),
        Change::enqueue(waiting.clone()),
    ] {
        store
            .commit(vec![
                Change::insert(&home),
                Change::enqueue(new_run.clone()),
                Change::CancelRun(waiting.id),
                Change::Event(NewEvent {
                    tenant_id: Some(owner),
                    kind: "project.added".into(),
                    subject: home.id.to_string(),
                    data: json!({}),
                    at: at(1),
                }),
                Change::delete(&taken),
                Change::insert(&taken),
                last,
            ])
            .await
            .unwrap_err();
        assert_eq!(stored(store, &home).await, None);
        assert_eq!(stored(store, &taken).await.as_ref(), Some(&taken));
        assert_eq!(store.run(new_run.id).await.unwrap(), None);
        assert_eq!(
            store.run(waiting.id).await.unwrap().unwrap().status,
            d::RunStatus::Queued
        );
        assert_eq!(store.counters(Some(owner)).await.unwrap(), before);
        assert_eq!(store.last_event().await.unwrap(), newest);
        assert_eq!(store.events(Some(owner), newest, 10).await.unwrap(), Vec::new());
    }
    // The same without the fault goes through, and the new class is there.
    store
        .commit(vec![Change::insert(&home), Change::enqueue(new_run.clone())])
        .await
        .unwrap();
    let claimed = claim_of(store, ServerId::new(), "new", 5).await;
    assert_eq!(ids(&claimed), [new_run.id]);
    let listed = store
        .runs(RunFilter {
            tenant_id: Some(owner),
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(ids(&listed), [new_run.id, waiting.id]);
}

/// The oldest warm member of the pool on that server, with the new holder's values; no other is touched.
pub async fn sandboxes_are_claimed_oldest_first(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let member = |created: i64| d::Sandbox {
        server_id: server,
        created_at: at(created),
        reason: None,
        ..sandbox(None, None)
    };
    let (young, old) = (member(30), member(10));
    let twin = d::Sandbox {
        id: d::SandboxId::new(),
        ..member(20)
    };
    let earlier_twin = d::Sandbox {
        id: d::SandboxId::from_u128(1),
        ..twin.clone()
    };
    let elsewhere = d::Sandbox {
        server_id: ServerId::new(),
        ..member(1)
    };
    let other_pool = d::Sandbox {
        pool: "other".into(),
        ..member(1)
    };
    let starting = d::Sandbox {
        status: SandboxStatus::Provisioning,
        ..member(1)
    };
    let all = [young, old, twin, earlier_twin, elsewhere, other_pool, starting];
    store
        .commit(all.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let [young, old, twin, earlier_twin, elsewhere, other_pool, starting] = all;
    for expected in [old, earlier_twin, twin, young] {
        let department = d::DepartmentId::new();
        let mut claim = claim_sandbox("default", server, owner);
        claim.department_id = Some(department);
        let claimed = store.claim_sandbox(claim, None).await.unwrap().unwrap();
        let wanted = d::Sandbox {
            tenant_id: Some(owner),
            department_id: Some(department),
            status: SandboxStatus::Running,
            config: json!({"held": true}),
            tool_allowlist: Some(vec!["git".into()]),
            for_run: true,
            claimed_at: Some(at(5000)),
            used_at: Some(at(5000)),
            version: 2,
            ..expected
        };
        assert_eq!(claimed, wanted);
        assert_eq!(stored(store, &claimed).await, Some(wanted));
    }
    // What tells of a claim is written with it, and only with one that comes about.
    let told: Told = Arc::new(move |sandbox: &d::Sandbox| {
        vec![Change::Event(NewEvent {
            tenant_id: sandbox.tenant_id,
            kind: "told".into(),
            subject: sandbox.id.to_string(),
            data: json!({"version": sandbox.version}),
            at: at(5000),
        })]
    });
    let since = store.last_event().await.unwrap();
    let none = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(told.clone()))
        .await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(store.last_event().await.unwrap(), since);
    let one_more = d::Sandbox {
        server_id: server,
        ..sandbox(None, None)
    };
    store.commit(vec![Change::insert(&one_more)]).await.unwrap();
    let wrong: Told = Arc::new(|sandbox: &d::Sandbox| vec![Change::insert(sandbox)]);
    let twice = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(wrong))
        .await;
    assert!(matches!(twice, Err(StoreError::Duplicate { .. })), "{twice:?}");
    assert_eq!(stored(store, &one_more).await, Some(one_more.clone()));
    let claimed = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(told))
        .await;
    let claimed = claimed.unwrap().unwrap();
    assert_eq!(claimed.id, one_more.id);
    let events = store.events(Some(owner), since, 10).await.unwrap();
    let events: Vec<_> = events
        .into_iter()
        .map(|e| (e.event.kind, e.event.subject, e.event.data))
        .collect();
    assert_eq!(
        events,
        [("told".to_owned(), claimed.id.to_string(), json!({"version": 2}))]
    );
    // A part of the rows, by a condition that is written out.
    let briefs = Filter::<SandboxBrief>::by("id", claimed.id).unlike("status", "destroyed");
    let brief = SandboxBrief {
        id: claimed.id,
        tenant_id: claimed.tenant_id,
        driver: claimed.driver,
        host: claimed.host.clone(),
        server_id: claimed.server_id,
        status: claimed.status,
        paused: claimed.paused,
        failures: claimed.failures,
    };
    assert_eq!(store.list(briefs).await.unwrap(), [brief]);
    let none = Filter::<SandboxBrief>::by("id", claimed.id).unlike("status", "running");
    assert_eq!(store.list(none).await.unwrap(), []);
    for untouched in [elsewhere, other_pool, starting] {
        assert_eq!(stored(store, &untouched).await, Some(untouched));
    }
}

/// Sixteen claimers, forty sandboxes: each is given once.
pub async fn concurrent_claims_of_sandboxes_never_double(store: Arc<dyn Store>) {
    let owner = some_tenant(&*store).await;
    let server = ServerId::new();
    let members: Vec<d::Sandbox> = (0..40)
        .map(|n| d::Sandbox {
            server_id: server,
            created_at: at(n),
            ..sandbox(None, None)
        })
        .collect();
    store
        .commit(members.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let claimers: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut got = Vec::new();
                while let Some(sandbox) = store
                    .claim_sandbox(claim_sandbox("default", server, owner), None)
                    .await
                    .unwrap()
                {
                    got.push(sandbox.id);
                }
                got
            })
        })
        .collect();
    let mut got = Vec::new();
    for claimer in claimers {
        got.extend(claimer.await.unwrap());
    }
    got.sort();
    let mut expected: Vec<_> = members.iter().map(|m| m.id).collect();
    expected.sort();
    assert_eq!(got, expected);
}

/// Sandboxes are stamped without a new version, counted by where and how they are, and samples of their use are pruned.
pub async fn sandboxes_are_stamped_counted_and_pruned(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let of = |host: &str, status: SandboxStatus| d::Sandbox {
        server_id: server,
        host: host.into(),
        status,
        ..sandbox(Some(owner), None)
    };
    let all = [
        of("a", SandboxStatus::Running),
        of("a", SandboxStatus::Running),
        of("b", SandboxStatus::Running),
        of("a", SandboxStatus::Warm),
        of("a", SandboxStatus::Destroyed),
    ];
    store
        .commit(all.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let counts: Vec<_> = store
        .sandbox_counts()
        .await
        .unwrap()
        .into_iter()
        .filter(|c| c.server_id == server)
        .map(|c| (c.host, c.status, c.count))
        .collect();
    assert_eq!(
        counts,
        [
            ("a".to_owned(), SandboxStatus::Running, 2),
            ("a".to_owned(), SandboxStatus::Warm, 1),
            ("b".to_owned(), SandboxStatus::Running, 1),
        ]
    );

    let ids = vec![all[0].id, all[3].id];
    for (what, when) in [(SandboxStamp::Checked, at(99)), (SandboxStamp::Used, at(98))] {
        store.stamp_sandboxes(ids.clone(), what, when).await.unwrap();
    }
    for (n, before) in all.iter().enumerate() {
        let mut wanted = before.clone();
        if n == 0 || n == 3 {
            (wanted.checked_at, wanted.used_at) = (Some(at(99)), Some(at(98)));
        }
        assert_eq!(stored(store, before).await, Some(wanted));
    }

    let samples: Vec<d::UsageSample> = (1..=4).map(|n| usage(at(n), Some(owner))).collect();
    store
        .commit(samples.iter().map(Change::insert).collect())
        .await
        .unwrap();
    assert_eq!(store.prune(d::UsageSample::TABLE, "at", at(3)).await.unwrap(), 2);
    let left: Vec<d::UsageSample> = store.list(Filter::all().order_by("at")).await.unwrap();
    assert_eq!(left, samples[2..]);
}
