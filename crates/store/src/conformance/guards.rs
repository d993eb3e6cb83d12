//! Changes are guarded by versions and unique values, and committed whole or not at all.

use super::records::stored;
use super::samples::{self, *};
use crate::{Change, NewEvent, RunFilter, Store, StoreError};
use ostler_domain as d;
use ostler_domain::{SandboxStatus, ServerId};
use serde_json::json;
use std::sync::Arc;

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
