//! The queue: order, claims, the fence, ends.

use super::samples::*;
use crate::{Cancelled, Change, ClaimRuns, Store, StoreError};
use ostler_domain::{NewRun, Run, RunId, RunOutcome, RunStatus, SandboxId, ServerId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A run comes back exactly, in each state that it goes through.
pub async fn runs_round_trip(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    for submitted in [run(owner, "trip", 5), full_run(owner, "trip")] {
        let id = submitted.id;
        assert_eq!(store.run(id).await.unwrap(), None);
        let seqs = store.enqueue(vec![submitted.clone()]).await.unwrap();
        let mut expected = Run {
            submitted: submitted.clone(),
            seq: seqs[0],
            status: RunStatus::Queued,
            attempt: 0,
            cancel_requested: false,
            server_id: None,
            sandbox_id: None,
            started_at: None,
            finished_at: None,
            outcome: RunOutcome::default(),
        };
        assert_eq!(store.run(id).await.unwrap().as_ref(), Some(&expected));

        let classes = store.classes().await.unwrap();
        let class = classes
            .iter()
            .find(|c| c.requirements == submitted.requirements)
            .unwrap();
        let claimed = store
            .claim(ClaimRuns {
                server_id: server,
                classes: vec![class.id],
                limit: 10,
                now: at(1000),
                picks: Vec::new(),
                sandbox: None,
            })
            .await
            .unwrap();
        expected.status = RunStatus::Running;
        expected.attempt = 1;
        expected.server_id = Some(server);
        expected.started_at = Some(at(1000));
        assert_eq!(claimed, std::slice::from_ref(&expected));
        assert_eq!(
            store.running(server).await.unwrap(),
            std::slice::from_ref(&expected)
        );

        let sandbox = SandboxId::new();
        assert!(store.assign_sandbox(id, 1, sandbox).await.unwrap());
        expected.sandbox_id = Some(sandbox);
        assert_eq!(store.run(id).await.unwrap().as_ref(), Some(&expected));

        assert_eq!(
            store
                .finish(vec![finish(id, 1, RunStatus::Failed)])
                .await
                .unwrap(),
            [true]
        );
        expected.status = RunStatus::Failed;
        expected.finished_at = Some(at(2000));
        expected.outcome = outcome();
        assert_eq!(store.run(id).await.unwrap(), Some(expected));
        assert_eq!(store.running(server).await.unwrap(), Vec::new());
    }
    assert_eq!(store.enqueue(Vec::new()).await.unwrap(), Vec::<i64>::new());
}

async fn assert_seen(store: &dyn Store, result: Result<(), StoreError>) {
    match result {
        Err(StoreError::Duplicate { table, columns }) => {
            assert_eq!((table.as_str(), columns.as_str()), ("runs", "id"));
        }
        other => panic!("submitting twice must be seen: {other:?}"),
    }
    assert_eq!(store.runs(crate::RunFilter::default()).await.unwrap().len(), 1);
}

/// The same id twice, in two calls or one, is refused and nothing of the list is kept.
pub async fn submitting_twice_is_seen(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let first = run(owner, "twice", 0);
    store.enqueue(vec![first.clone()]).await.unwrap();
    let other = run(owner, "twice", 0);
    let again = store
        .enqueue(vec![other.clone(), first.clone()])
        .await
        .map(|_| ());
    assert_seen(store, again).await;
    let again = store
        .enqueue(vec![other.clone(), other.clone()])
        .await
        .map(|_| ());
    assert_seen(store, again).await;
    let again = store.commit(vec![Change::enqueue(first.clone())]).await;
    assert_seen(store, again).await;
    // Also when it has ended.
    store.request_cancel(first.id, at(1)).await.unwrap();
    let again = store.enqueue(vec![first]).await.map(|_| ());
    assert_seen(store, again).await;
}

/// Higher priority first, then first submitted first, over several classes at once and whatever the limit.
pub async fn claims_follow_priority_then_submission(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let names = ["a", "b", "c"];
    let priorities = [0, 5, -3, 5, i32::MAX, 0, i32::MIN, 5, 0, -3];
    let runs: Vec<NewRun> = priorities
        .iter()
        .cycle()
        .take(90)
        .enumerate()
        .map(|(n, priority)| run(owner, names[(n / 2) % 3], *priority))
        .collect();
    let mut seqs = Vec::new();
    for part in runs.chunks(7) {
        seqs.extend(store.enqueue(part.to_vec()).await.unwrap());
    }
    assert!(
        seqs.windows(2).all(|w| w[0] < w[1]),
        "numbers must rise: {seqs:?}"
    );
    let mut expected: Vec<&NewRun> = runs.iter().collect();
    expected.sort_by_key(|r| -i64::from(r.priority));
    let expected: Vec<RunId> = expected.iter().map(|r| r.id).collect();

    let mut classes = Vec::new();
    for name in names {
        classes.push(class_id(store, name).await);
    }
    let mut claimed = Vec::new();
    for limit in [0, 1, 2, 30, 1, 1000, 5] {
        let part = store
            .claim(ClaimRuns {
                server_id: server,
                classes: classes.clone(),
                limit,
                now: at(1000),
                picks: Vec::new(),
                sandbox: None,
            })
            .await
            .unwrap();
        assert!(part.len() <= limit as usize);
        claimed.extend(ids(&part));
    }
    assert_eq!(claimed, expected);
}

/// A claim takes nothing of classes that it does not name; an unknown class has no runs.
pub async fn claims_keep_to_their_classes(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let (mine, theirs) = (run(owner, "mine", 0), run(owner, "theirs", 9));
    store.enqueue(vec![theirs.clone(), mine.clone()]).await.unwrap();
    let claim = |classes: Vec<i64>| {
        store.claim(ClaimRuns {
            server_id: server,
            classes,
            limit: 10,
            now: at(1000),
            picks: Vec::new(),
            sandbox: None,
        })
    };
    assert_eq!(claim(vec![]).await.unwrap(), Vec::new());
    assert_eq!(claim(vec![i64::MAX]).await.unwrap(), Vec::new());
    let id = class_id(store, "mine").await;
    assert_eq!(ids(&claim(vec![id, i64::MAX]).await.unwrap()), [mine.id]);
    assert_eq!(claim(vec![id]).await.unwrap(), Vec::new());
    assert_eq!(ids(&claim_of(store, server, "theirs", 1).await), [theirs.id]);
    // Equal requirements are one class, however often they are submitted.
    store
        .enqueue(vec![run(owner, "mine", 0), run(owner, "mine", 0)])
        .await
        .unwrap();
    assert_eq!(class_id(store, "mine").await, id);
}

/// Sixteen claimers and four submitters: each run is given exactly once, with attempt 1, and ends once.
pub async fn concurrent_claims_never_double(store: Arc<dyn Store>) {
    const SUBMITTERS: usize = 4;
    const EACH: usize = 600;
    let owner = some_tenant(&*store).await;
    store
        .enqueue(vec![run(owner, "even", 0), run(owner, "odd", 0)])
        .await
        .unwrap();
    let classes = vec![class_id(&*store, "even").await, class_id(&*store, "odd").await];
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for part in 0..EACH / 20 {
                    let class = if part % 2 == 0 { "even" } else { "odd" };
                    let runs = (0..20).map(|n| run(owner, class, n % 3)).collect();
                    store.enqueue(runs).await.unwrap();
                }
            })
        })
        .collect();
    let total = 2 + SUBMITTERS * EACH;
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let claimers: Vec<_> = (0..16u32)
        .map(|n| {
            let (store, taken, classes) = (Arc::clone(&store), Arc::clone(&taken), classes.clone());
            tokio::spawn(async move {
                let server_id = ServerId::new();
                let mut got: Vec<RunId> = Vec::new();
                while taken.load(std::sync::atomic::Ordering::SeqCst) < total {
                    let claimed = store
                        .claim(ClaimRuns {
                            server_id,
                            classes: classes.clone(),
                            limit: 1 + n,
                            now: at(1000),
                            picks: Vec::new(),
                            sandbox: None,
                        })
                        .await
                        .unwrap();
                    assert!(
                        claimed
                            .iter()
                            .all(|r| r.attempt == 1 && r.server_id == Some(server_id))
                    );
                    taken.fetch_add(claimed.len(), std::sync::atomic::Ordering::SeqCst);
                    got.extend(ids(&claimed));
                    if claimed.is_empty() {
                        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                        continue;
                    }
                    let ends = claimed
                        .iter()
                        .map(|r| finish(r.submitted.id, 1, RunStatus::Succeeded))
                        .collect();
                    let ended = store.finish(ends).await.unwrap();
                    assert!(ended.iter().all(|e| *e));
                }
                got
            })
        })
        .collect();
    for submitter in submitters {
        submitter.await.unwrap();
    }
    let mut got = Vec::new();
    for claimer in claimers {
        got.extend(claimer.await.unwrap());
    }
    let distinct: BTreeSet<RunId> = got.iter().copied().collect();
    assert_eq!((got.len(), distinct.len()), (total, total));
    let counters = store.counters(Some(owner)).await.unwrap();
    assert_eq!(counters.get(&RunStatus::Succeeded), Some(&(total as i64)));
    assert_eq!(counters.get(&RunStatus::Queued).copied().unwrap_or(0), 0);
}

/// A write about an attempt that is over, or not yet begun, changes nothing: not while waiting, running or ended.
pub async fn old_attempts_change_nothing(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let submitted = NewRun {
        max_attempts: 10,
        ..run(owner, "fence", 0)
    };
    let id = submitted.id;
    store.enqueue(vec![submitted]).await.unwrap();
    assert_untouched(store, id, &[0, 1]).await;
    claim_of(store, server, "fence", 1).await;
    assert_untouched(store, id, &[0, 2]).await;
    store.requeue(vec![requeue(id, 1)]).await.unwrap();
    assert_untouched(store, id, &[0, 1, 2]).await;
    claim_of(store, server, "fence", 1).await;
    assert_untouched(store, id, &[0, 1, 3]).await;
    store
        .finish(vec![finish(id, 2, RunStatus::Succeeded)])
        .await
        .unwrap();
    assert_untouched(store, id, &[0, 1, 2, 3]).await;
    assert_untouched(store, RunId::new(), &[0, 1]).await;
}

async fn assert_untouched(store: &dyn Store, id: RunId, attempts: &[u32]) {
    let before = store.run(id).await.unwrap();
    let counters = store.counters(None).await.unwrap();
    for attempt in attempts {
        let attempt = *attempt;
        let assigned = store.assign_sandbox(id, attempt, SandboxId::new()).await;
        assert!(!assigned.unwrap(), "attempt {attempt} of {before:?}");
        let ended = store.finish(vec![finish(id, attempt, RunStatus::Failed)]).await;
        assert_eq!(ended.unwrap(), [false], "attempt {attempt} of {before:?}");
        let again = store.requeue(vec![requeue(id, attempt)]).await;
        assert_eq!(again.unwrap(), [None], "attempt {attempt} of {before:?}");
    }
    assert_eq!(store.run(id).await.unwrap(), before);
    assert_eq!(store.counters(None).await.unwrap(), counters);
}

/// One stale entry of a list does not keep the others from being done; one named twice is ended once.
pub async fn each_end_of_a_list_is_judged_alone(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let runs: Vec<NewRun> = (0..4).map(|_| run(owner, "ends", 0)).collect();
    store.enqueue(runs.clone()).await.unwrap();
    claim_of(store, server, "ends", 3).await;
    let ends = vec![
        finish(runs[0].id, 1, RunStatus::Succeeded),
        finish(runs[1].id, 2, RunStatus::Succeeded),
        finish(RunId::new(), 1, RunStatus::Succeeded),
        finish(runs[3].id, 1, RunStatus::Succeeded),
        finish(runs[2].id, 1, RunStatus::TimedOut),
        finish(runs[0].id, 1, RunStatus::Failed),
    ];
    assert_eq!(
        store.finish(ends).await.unwrap(),
        [true, false, false, false, true, false]
    );
    let again = vec![
        requeue(runs[0].id, 1),
        requeue(runs[1].id, 1),
        requeue(runs[1].id, 1),
    ];
    assert_eq!(
        store.requeue(again).await.unwrap(),
        [None, Some(RunStatus::Queued), None]
    );
    let mut states = Vec::new();
    for run in &runs {
        states.push(store.run(run.id).await.unwrap().unwrap().status);
    }
    assert_eq!(
        states,
        [
            RunStatus::Succeeded,
            RunStatus::Queued,
            RunStatus::TimedOut,
            RunStatus::Queued
        ]
    );
}

/// `queued` and `running` are no ends; such a call changes nothing at all.
pub async fn only_terminal_states_end_a_run(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let runs = [run(owner, "end", 0), run(owner, "end", 0)];
    store.enqueue(runs.to_vec()).await.unwrap();
    let claimed = claim_of(store, ServerId::new(), "end", 2).await;
    for status in [RunStatus::Queued, RunStatus::Running] {
        let ends = vec![
            finish(runs[0].id, 1, RunStatus::Succeeded),
            finish(runs[1].id, 1, status),
        ];
        let result = store.finish(ends).await;
        assert!(matches!(result, Err(StoreError::Engine { .. })), "{result:?}");
    }
    for run in claimed {
        assert_eq!(store.run(run.submitted.id).await.unwrap(), Some(run));
    }
    for status in RunStatus::ALL.iter().filter(|s| s.is_terminal()) {
        let run = run(owner, "end", 0);
        store.enqueue(vec![run.clone()]).await.unwrap();
        claim_of(store, ServerId::new(), "end", 1).await;
        assert_eq!(
            store.finish(vec![finish(run.id, 1, *status)]).await.unwrap(),
            [true]
        );
        assert_eq!(store.run(run.id).await.unwrap().unwrap().status, *status);
    }
}

/// Cancelling a run that waits, is executed, has ended, or does not exist; directly and within a commit.
pub async fn cancelling_answers_by_state(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let (server, other) = (ServerId::new(), ServerId::new());
    let cancel = |id: RunId| store.request_cancel(id, at(4000));
    assert_eq!(cancel(RunId::new()).await.unwrap(), Cancelled::Unknown);

    let waiting = run(owner, "cancel", 0);
    store.enqueue(vec![waiting.clone()]).await.unwrap();
    assert_eq!(cancel(waiting.id).await.unwrap(), Cancelled::AtOnce);
    let kept = store.run(waiting.id).await.unwrap().unwrap();
    assert_eq!((kept.status, kept.attempt), (RunStatus::Cancelled, 0));
    assert!(kept.cancel_requested);
    assert_eq!(kept.finished_at, Some(at(4000)));
    assert_eq!(kept.outcome, RunOutcome::default());
    assert_eq!(cancel(waiting.id).await.unwrap(), Cancelled::TooLate);
    assert_eq!(claim_of(store, server, "cancel", 10).await, Vec::new());

    let delayed = NewRun {
        not_before: Some(at(9000)),
        ..run(owner, "cancel", 0)
    };
    store.enqueue(vec![delayed.clone()]).await.unwrap();
    assert_eq!(cancel(delayed.id).await.unwrap(), Cancelled::AtOnce);
    let class = class_id(store, "cancel").await;
    assert_eq!(store.next_due(&[class], at(0)).await.unwrap(), None);

    let executed = run(owner, "cancel", 0);
    let bystander = run(owner, "cancel", 0);
    store
        .enqueue(vec![executed.clone(), bystander.clone()])
        .await
        .unwrap();
    claim_of(store, server, "cancel", 1).await;
    claim_of(store, other, "cancel", 1).await;
    assert_eq!(store.cancel_requests(server).await.unwrap(), Vec::new());
    assert_eq!(cancel(executed.id).await.unwrap(), Cancelled::Requested);
    assert_eq!(cancel(executed.id).await.unwrap(), Cancelled::Requested);
    let kept = store.run(executed.id).await.unwrap().unwrap();
    assert_eq!(kept.status, RunStatus::Running);
    assert!(kept.cancel_requested);
    assert_eq!(kept.finished_at, None);
    assert_eq!(store.cancel_requests(server).await.unwrap(), [executed.id]);
    assert_eq!(store.cancel_requests(other).await.unwrap(), Vec::new());
    // The end that its server reports is the one that counts.
    store
        .finish(vec![finish(executed.id, 1, RunStatus::Succeeded)])
        .await
        .unwrap();
    assert_eq!(store.cancel_requests(server).await.unwrap(), Vec::new());
    assert_eq!(cancel(executed.id).await.unwrap(), Cancelled::TooLate);
    assert_eq!(
        store.run(executed.id).await.unwrap().unwrap().status,
        RunStatus::Succeeded
    );

    let waiting = run(owner, "cancel", 0);
    store
        .commit(vec![
            Change::enqueue(waiting.clone()),
            Change::CancelRun(waiting.id),
            Change::CancelRun(bystander.id),
            Change::CancelRun(executed.id),
            Change::CancelRun(RunId::new()),
        ])
        .await
        .unwrap();
    let kept = store.run(waiting.id).await.unwrap().unwrap();
    assert_eq!(kept.status, RunStatus::Cancelled);
    assert!(kept.finished_at.is_some());
    assert_eq!(store.cancel_requests(other).await.unwrap(), [bystander.id]);
    let counters = store.counters(Some(owner)).await.unwrap();
    let expected: Vec<(RunStatus, i64)> = vec![
        (RunStatus::Running, 1),
        (RunStatus::Succeeded, 1),
        (RunStatus::Cancelled, 3),
    ];
    assert_eq!(
        counters.into_iter().filter(|(_, n)| *n != 0).collect::<Vec<_>>(),
        expected
    );
}
