//! The life of servers and of the store itself: heartbeats, hints, migrations, the close.

use super::samples::*;
use crate::{Change, Filter, Hint, NewEvent, RunFilter, Store, StoreError, StoreExt, Table, Value};
use ostler_domain as d;
use ostler_domain::{RunId, RunStatus, SandboxId, ServerId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Only servers with running runs are silent; a heartbeat at or after the limit is life, none at all is not.
pub async fn silent_servers_are_found(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let [mute, old, alive, idle] = [(); 4].map(|()| ServerId::new());
    let runs: Vec<d::NewRun> = (0..4).map(|_| run(owner, "beat", 0)).collect();
    store.enqueue(runs.clone()).await.unwrap();
    for server in [mute, old, alive] {
        claim_of(store, server, "beat", 1).await;
    }
    claim_of(store, mute, "beat", 1).await;
    store.heartbeat(old, at(99)).await.unwrap();
    store.heartbeat(alive, at(5)).await.unwrap();
    store.heartbeat(alive, at(100)).await.unwrap();
    store.heartbeat(alive, at(50)).await.unwrap();
    store.heartbeat(idle, at(1)).await.unwrap();
    let silent = |before: i64| async move {
        let mut found = store.silent_servers(at(before)).await.unwrap();
        let distinct: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(found.len(), distinct.len(), "each once");
        found.sort();
        found
    };
    let sorted = |mut servers: Vec<ServerId>| {
        servers.sort();
        servers
    };
    assert_eq!(silent(99).await, [mute]);
    assert_eq!(silent(100).await, sorted(vec![mute, old]));
    assert_eq!(silent(101).await, sorted(vec![mute, old, alive]));
    let ends = [&runs[0], &runs[3]].map(|r| finish(r.id, 1, RunStatus::Lost));
    assert_eq!(store.finish(ends.to_vec()).await.unwrap(), [true, true]);
    assert_eq!(silent(100).await, [old]);
}

/// Waits for `wanted`, passing over others, since hints may be false.
async fn await_hint(hints: &mut Receiver<Hint>, wanted: Hint) {
    let wait = async {
        loop {
            match hints.recv().await {
                Ok(hint) if hint == wanted => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("the hints ended before {wanted:?}"),
            }
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok(),
        "no {wanted:?} came"
    );
}

/// Each kind of change is told, and what it tells of can be read by then.
pub async fn hints_arrive(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let submitted = run(owner, "hint", 0);
    let id = submitted.id;

    let mut hints = store.hints();
    store.enqueue(vec![submitted]).await.unwrap();
    await_hint(&mut hints, Hint::RunsQueued).await;
    claim_of(store, server, "hint", 1).await;
    let mut hints = store.hints();
    store.requeue(vec![requeue(id, 1)]).await.unwrap();
    await_hint(&mut hints, Hint::RunsQueued).await;
    claim_of(store, server, "hint", 1).await;
    let mut hints = store.hints();
    store.request_cancel(id, at(1)).await.unwrap();
    await_hint(&mut hints, Hint::CancelRequested).await;
    let mut hints = store.hints();
    store
        .finish(vec![finish(id, 2, RunStatus::Cancelled)])
        .await
        .unwrap();
    await_hint(&mut hints, Hint::RunsFinished).await;

    let waiting = run(owner, "hint", 0);
    let mut hints = store.hints();
    store
        .commit(vec![Change::enqueue(waiting.clone())])
        .await
        .unwrap();
    await_hint(&mut hints, Hint::RunsQueued).await;
    let mut hints = store.hints();
    store.commit(vec![Change::CancelRun(waiting.id)]).await.unwrap();
    await_hint(&mut hints, Hint::RunsFinished).await;

    let mut hints = store.hints();
    store
        .commit(vec![Change::Event(NewEvent {
            tenant_id: None,
            kind: "k".into(),
            subject: "s".into(),
            data: serde_json::Value::Null,
            at: at(1),
        })])
        .await
        .unwrap();
    await_hint(&mut hints, Hint::Events).await;
    assert_eq!(store.events(None, 0, 1).await.unwrap().len(), 1);

    for change in [
        Change::insert(&pool("p", false)),
        Change::insert(&d::Sandbox {
            server_id: server,
            ..sandbox(None, None)
        }),
    ] {
        let mut hints = store.hints();
        store.commit(vec![change]).await.unwrap();
        await_hint(&mut hints, Hint::Pools).await;
    }
    let mut hints = store.hints();
    let claimed = store
        .claim_sandbox(claim_sandbox("default", server, owner), None)
        .await;
    assert!(claimed.unwrap().is_some());
    await_hint(&mut hints, Hint::Pools).await;
}

/// All down and up again, then one by one; the status follows, and the schema works afterwards.
pub async fn migrations_go_down_and_up_again(store: Arc<dyn Store>) {
    let store = &*store;
    let known = store.migrations().await.unwrap();
    let numbers: Vec<i64> = known.iter().map(|m| m.version).collect();
    assert_eq!(numbers, (1..=known.len() as i64).collect::<Vec<_>>());
    assert!(!known.is_empty());
    assert!(known.iter().all(|m| m.applied && !m.name.is_empty()), "{known:?}");
    let backwards: Vec<i64> = numbers.iter().rev().copied().collect();
    let applied = |upto: i64| async move {
        for migration in store.migrations().await.unwrap() {
            assert_eq!(migration.applied, migration.version <= upto, "{migration:?}");
        }
    };
    some_tenant(store).await;
    store
        .enqueue(vec![run(d::TenantId::DEFAULT, "m", 0)])
        .await
        .unwrap();
    assert_eq!(store.migrate_up(None).await.unwrap(), Vec::<i64>::new());
    assert_eq!(store.migrate_down(0).await.unwrap(), backwards);
    applied(0).await;
    let result = store.list(Filter::<d::Tenant>::all()).await;
    assert!(matches!(result, Err(StoreError::Schema { .. })), "{result:?}");
    assert_eq!(store.migrate_down(0).await.unwrap(), Vec::<i64>::new());
    for number in &numbers {
        assert_eq!(store.migrate_up(Some(*number)).await.unwrap(), [*number]);
        applied(*number).await;
    }
    for number in &backwards {
        assert_eq!(store.migrate_down(number - 1).await.unwrap(), [*number]);
        applied(number - 1).await;
    }
    assert_eq!(store.migrate_up(None).await.unwrap(), numbers);
    applied(i64::MAX).await;

    // Nothing of before is left, and everything works.
    assert_eq!(store.list(Filter::<d::Tenant>::all()).await.unwrap(), Vec::new());
    assert_eq!(store.classes().await.unwrap(), Vec::new());
    let owner = some_tenant(store).await;
    let submitted = run(owner, "m", 0);
    store.enqueue(vec![submitted.clone()]).await.unwrap();
    let claimed = claim_of(store, ServerId::new(), "m", 5).await;
    assert_eq!(ids(&claimed), [submitted.id]);
    assert_eq!(
        store.counters(None).await.unwrap().get(&RunStatus::Running),
        Some(&1)
    );
}

/// What was accepted before the close is answered; what comes after is refused, and closing twice is harmless.
pub async fn a_closed_store_refuses(store: Arc<dyn Store>) {
    let owner = some_tenant(&*store).await;
    let pending: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.enqueue(vec![run(owner, "closing", 0)]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let closed = tokio::time::timeout(Duration::from_secs(20), store.close()).await;
    assert!(closed.is_ok(), "the close must end");
    for task in pending {
        let result = task.await.unwrap();
        assert!(
            matches!(result, Ok(_) | Err(StoreError::Unavailable { .. })),
            "{result:?}"
        );
    }
    store.close().await;
    let refused = |name: &str, result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Unavailable { .. })),
            "{name}: {result:?}"
        );
    };
    let tenants: &'static Table = <d::Tenant as crate::Record>::TABLE;
    let (id, server) = (RunId::new(), ServerId::new());
    refused("commit", store.commit(vec![Change::CancelRun(id)]).await);
    let rows: Result<Vec<Vec<Value>>, _> = store
        .select(
            tenants,
            "SELECT id, name, created_at FROM tenants".into(),
            Vec::new(),
        )
        .await;
    refused("select", rows.map(drop));
    refused("enqueue", store.enqueue(vec![run(owner, "x", 0)]).await.map(drop));
    refused(
        "assign",
        store.assign_sandbox(id, 1, SandboxId::new()).await.map(drop),
    );
    refused("runs", store.runs(RunFilter::default()).await.map(drop));
    refused("counters", store.counters(None).await.map(drop));
    refused("heartbeat", store.heartbeat(server, at(1)).await);
    refused("migrations", store.migrations().await.map(drop));
}
