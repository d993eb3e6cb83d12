//! What a row points to, and what goes with it.

use super::samples::{self, *};
use crate::{Change, Filter, Store, StoreError, StoreExt};
use ostler_domain as d;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A row cannot point to nothing, and a tenant that still owns something stays.
pub async fn references_must_exist(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let home = project(tenant.id);
    let parent = task(&home, false);
    let held = sandbox(Some(tenant.id), None);
    let kept = artifact(tenant.id, true);
    for change in [
        Change::insert(&token(tenant.id, false)),
        Change::insert(&home),
        Change::insert(&parent),
        Change::insert(&issue(&home, "os-1", None)),
        Change::insert(&held),
        Change::insert(&agent_session(tenant.id, "x")),
        Change::insert(&plan(tenant.id, true)),
        Change::insert(&test_record(tenant.id, true)),
        Change::insert(&quarantined(tenant.id, true)),
        Change::insert(&kept),
    ] {
        let result = store.commit(vec![change.clone()]).await;
        assert!(
            matches!(result, Err(StoreError::Reference { .. })),
            "{change:?}: {result:?}"
        );
    }
    store.commit(vec![Change::insert(&tenant)]).await.unwrap();
    for row in [
        Change::insert(&home),
        Change::insert(&held),
        Change::insert(&kept),
    ] {
        let undo = match &row {
            Change::Insert { table, .. } if table.name == "projects" => Change::delete(&home),
            Change::Insert { table, .. } if table.name == "artifacts" => Change::delete(&kept),
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
        Change::insert(&plan(tenant.id, true)),
        Change::insert(&test_record(tenant.id, true)),
        Change::insert(&quarantined(tenant.id, true)),
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
    // Tokens, sessions, plans, their history and the list of quarantined tests go with their tenant.
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
    assert_eq!(
        store.list(Filter::<d::TestPlan>::all()).await.unwrap(),
        Vec::new()
    );
    assert_eq!(
        store.list(Filter::<d::TestRecord>::all()).await.unwrap(),
        Vec::new()
    );
    assert_eq!(
        store.list(Filter::<d::QuarantinedTest>::all()).await.unwrap(),
        Vec::new()
    );
}
