//! Rows come back exactly as they were stored.

use super::access::access_round_trips;
use super::samples::{self, *};
use crate::{Change, Filter, Record, Store, StoreExt};
use ostler_domain as d;
use std::fmt::Debug;
use std::sync::Arc;

/// The row with the key of `record`.
pub(super) async fn stored<R: Record>(store: &dyn Store, record: &R) -> Option<R> {
    let values = record.to_values();
    let mut filter = Filter::<R>::all();
    for column in R::TABLE.key {
        let value = values[R::TABLE.position(column).unwrap()].clone();
        filter.conditions.push((column, crate::Op::Eq, value));
    }
    store.first(filter).await.unwrap()
}

/// Inserts `first`, changes it to `second` (which has the same key), deletes it, and reads after each.
pub(super) async fn round_trip<R: Record + PartialEq + Debug>(
    store: &dyn Store,
    first: R,
    second: Option<R>,
) {
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
        let first = plan(owner, full);
        let second = d::TestPlan {
            id: first.id,
            ..plan(owner, !full)
        };
        round_trip(store, first, Some(second)).await;
        round_trip(store, test_record(owner, full), None).await;
        round_trip(store, quarantined(owner, full), None).await;
        round_trip(store, artifact(owner, full), None).await;
    }

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
