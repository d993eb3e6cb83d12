//! Reading: filters over rows, events, lists of runs.

use super::samples::*;
use crate::{Change, Event, Filter, NewEvent, Op, RunFilter, Store, StoreExt};
use ostler_domain as d;
use ostler_domain::{RunStatus, ServerId, TaskStatus, TenantId};
use serde_json::json;
use std::sync::Arc;

/// Four tasks with attempts 0 to 3; the odd ones have an epic.
async fn four_tasks(store: &dyn Store) -> (d::Project, Vec<d::Task>) {
    let home = project(some_tenant(store).await);
    let tasks: Vec<d::Task> = (0..4)
        .map(|n| d::Task {
            attempts: n,
            title: if n < 2 { "low".into() } else { "high".into() },
            ..task(&home, n % 2 == 1)
        })
        .collect();
    let mut changes = vec![Change::insert(&home)];
    changes.extend(tasks.iter().map(Change::insert));
    store.commit(changes).await.unwrap();
    (home, tasks)
}

/// Every comparison, null, `IN`, an empty `IN`, and all of them together.
pub async fn filters_select_rows(store: Arc<dyn Store>) {
    let store = &*store;
    let (home, tasks) = four_tasks(store).await;
    let all = || Filter::<d::Task>::by("project_id", home.id).order_by("attempts");
    let cases: Vec<(Filter<d::Task>, &[u32])> = vec![
        (all(), &[0, 1, 2, 3]),
        (all().and("attempts", Op::Eq, 2u32), &[2]),
        (all().and("attempts", Op::Ne, 2u32), &[0, 1, 3]),
        (all().and("attempts", Op::Lt, 2u32), &[0, 1]),
        (all().and("attempts", Op::Le, 2u32), &[0, 1, 2]),
        (all().and("attempts", Op::Gt, 2u32), &[3]),
        (all().and("epic", Op::Eq, None::<String>), &[0, 2]),
        (all().and("epic", Op::Ne, None::<String>), &[1, 3]),
        (all().and("status", Op::Eq, TaskStatus::Active), &[1, 3]),
        (all().and("auto", Op::Eq, true), &[1, 3]),
        (
            all().and("description", Op::Eq, AWKWARD.to_owned()),
            &[0, 1, 2, 3],
        ),
        (all().within("attempts", [3u32, 0, 17]), &[0, 3]),
        (all().within("attempts", Vec::<u32>::new()), &[]),
        (
            all()
                .within("id", [tasks[1].id, tasks[2].id, d::TaskId::new()])
                .and("title", Op::Eq, "high".to_owned()),
            &[2],
        ),
        (Filter::by("project_id", d::ProjectId::new()), &[]),
    ];
    for (filter, expected) in cases {
        let rows = store.list(filter.clone()).await.unwrap();
        let found: Vec<u32> = rows.iter().map(|t| t.attempts).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    assert_eq!(store.get(tasks[3].id).await.unwrap().as_ref(), Some(&tasks[3]));
    assert_eq!(store.get::<d::Task, _>(d::TaskId::new()).await.unwrap(), None);
}

/// Orders by several columns, each up or down, ties broken by the key; then the limit.
pub async fn filters_order_and_limit(store: Arc<dyn Store>) {
    let store = &*store;
    let (home, tasks) = four_tasks(store).await;
    let all = || Filter::<d::Task>::by("project_id", home.id);
    let cases: Vec<(Filter<d::Task>, &[usize])> = vec![
        (all().order_by_desc("attempts"), &[3, 2, 1, 0]),
        (all().order_by("title").order_by_desc("attempts"), &[3, 2, 1, 0]),
        (all().order_by_desc("title").order_by("attempts"), &[0, 1, 2, 3]),
        (all().order_by("title"), &[2, 3, 0, 1]),
        (all(), &[0, 1, 2, 3]),
        (all().order_by_desc("attempts").limit(2), &[3, 2]),
        (all().limit(0), &[]),
    ];
    for (filter, expected) in cases {
        let rows = store.list(filter.clone()).await.unwrap();
        let wanted: Vec<d::Task> = expected.iter().map(|n| tasks[*n].clone()).collect();
        assert_eq!(rows, wanted, "{filter:?}");
    }
}

/// Numbers rise in the order of commits; the reader gets those of one tenant or all, page by page.
pub async fn events_are_in_order_and_by_tenant(store: Arc<dyn Store>) {
    let store = &*store;
    assert_eq!(store.last_event().await.unwrap(), 0);
    assert_eq!(store.events(None, 0, 10).await.unwrap(), Vec::new());
    let (a, b) = (some_tenant(store).await, some_tenant(store).await);
    let event = |tenant_id: Option<TenantId>, subject: &str| NewEvent {
        tenant_id,
        kind: "task.updated".into(),
        subject: subject.into(),
        data: json!({"text": AWKWARD, "n": [1, null]}),
        at: at(42),
    };
    let sent = [
        event(Some(a), "1"),
        event(Some(b), "2"),
        event(None, "3"),
        event(Some(a), "4"),
    ];
    for pair in sent.chunks(2) {
        store
            .commit(pair.iter().cloned().map(Change::Event).collect())
            .await
            .unwrap();
    }
    let all = store.events(None, 0, 10).await.unwrap();
    assert_eq!(all.iter().map(|e| e.event.clone()).collect::<Vec<_>>(), sent);
    assert!(all.windows(2).all(|w| w[0].seq < w[1].seq), "{all:?}");
    assert_eq!(store.last_event().await.unwrap(), all[3].seq);

    let subjects = |events: Vec<Event>| events.into_iter().map(|e| e.event.subject).collect::<Vec<_>>();
    assert_eq!(subjects(store.events(Some(a), 0, 10).await.unwrap()), ["1", "4"]);
    assert_eq!(subjects(store.events(Some(b), 0, 10).await.unwrap()), ["2"]);
    assert_eq!(
        subjects(store.events(None, all[0].seq, 2).await.unwrap()),
        ["2", "3"]
    );
    assert_eq!(
        subjects(store.events(Some(a), all[0].seq, 10).await.unwrap()),
        ["4"]
    );
    assert_eq!(
        subjects(store.events(None, all[3].seq, 10).await.unwrap()),
        Vec::<String>::new()
    );
}

/// Each condition of a list of runs, the pages, and the default limit.
pub async fn runs_are_listed_newest_first(store: Arc<dyn Store>) {
    let store = &*store;
    let (a, b) = (some_tenant(store).await, some_tenant(store).await);
    let full = full_run(a, "listed");
    let mut runs = vec![full.clone()];
    runs.extend((0..60).map(|_| run(b, "listed", 0)));
    runs.push(d::NewRun {
        kind: d::RunKind::Check,
        ..run(a, "listed", 0)
    });
    let seqs = store.enqueue(runs.clone()).await.unwrap();
    let taken = claim_of(store, ServerId::new(), "listed", 1).await;
    assert_eq!(ids(&taken), [runs[1].id]);

    let any = RunFilter::default;
    let newest_first: Vec<_> = runs.iter().rev().map(|r| r.id).collect();
    let cases: Vec<(RunFilter, Vec<d::RunId>)> = vec![
        (any(), newest_first[..50].to_vec()),
        (RunFilter { limit: 1000, ..any() }, newest_first.clone()),
        (
            RunFilter {
                before_seq: Some(seqs[3]),
                limit: 2,
                ..any()
            },
            vec![runs[2].id, runs[1].id],
        ),
        (
            RunFilter {
                tenant_id: Some(a),
                ..any()
            },
            vec![runs[61].id, full.id],
        ),
        (
            RunFilter {
                project_id: full.project_id,
                ..any()
            },
            vec![full.id],
        ),
        (
            RunFilter {
                task_id: full.task_id,
                ..any()
            },
            vec![full.id],
        ),
        (
            RunFilter {
                subtask_id: full.subtask_id,
                ..any()
            },
            vec![full.id],
        ),
        (
            RunFilter {
                kind: Some(d::RunKind::Check),
                ..any()
            },
            vec![runs[61].id],
        ),
        (
            RunFilter {
                status: Some(RunStatus::Running),
                ..any()
            },
            vec![runs[1].id],
        ),
        (
            RunFilter {
                tenant_id: Some(a),
                status: Some(RunStatus::Queued),
                kind: Some(d::RunKind::Worker),
                ..any()
            },
            vec![full.id],
        ),
        (
            RunFilter {
                tenant_id: Some(a),
                status: Some(RunStatus::Running),
                ..any()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let found = store.runs(filter.clone()).await.unwrap();
        assert_eq!(ids(&found), expected, "{filter:?}");
    }
}
