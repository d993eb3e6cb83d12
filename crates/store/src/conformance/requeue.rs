//! What comes back to the queue, what waits for its time, and where a run stands.

use super::samples::*;
use crate::{ClaimRuns, RequeueRun, Store};
use ostler_domain::{NewRun, Run, RunId, RunOutcome, RunStatus, SandboxId, ServerId, Timestamp};
use std::sync::Arc;

/// Back at its old place in the order, without server and sandbox, with the next attempt number.
pub async fn requeued_runs_keep_their_place(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let runs: Vec<NewRun> = (0..3).map(|_| run(owner, "back", 0)).collect();
    store.enqueue(runs.clone()).await.unwrap();
    let first = claim_of(store, server, "back", 2).await;
    store
        .assign_sandbox(runs[0].id, 1, SandboxId::new())
        .await
        .unwrap();
    let later = run(owner, "back", 0);
    store.enqueue(vec![later.clone()]).await.unwrap();
    assert_eq!(
        store.requeue(vec![requeue(runs[0].id, 1)]).await.unwrap(),
        [Some(RunStatus::Queued)]
    );
    let waiting = store.run(runs[0].id).await.unwrap().unwrap();
    let expected = Run {
        status: RunStatus::Queued,
        server_id: None,
        sandbox_id: None,
        ..first[0].clone()
    };
    assert_eq!(waiting, expected);
    assert_eq!(ids(&store.running(server).await.unwrap()), [runs[1].id]);
    let other = ServerId::new();
    let again = claim_of(store, other, "back", 10).await;
    assert_eq!(ids(&again), [runs[0].id, runs[2].id, later.id]);
    assert_eq!(again[0].attempt, 2);
    assert_eq!(again[0].server_id, Some(other));
    assert_eq!(
        store
            .finish(vec![
                finish(runs[0].id, 1, RunStatus::Failed),
                finish(runs[0].id, 2, RunStatus::Succeeded)
            ])
            .await
            .unwrap(),
        [false, true]
    );
}

/// A counted attempt that was the last allowed makes the run `lost`, with the reason as its error.
pub async fn runs_are_lost_at_their_limit(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    for max_attempts in [1, 3] {
        let submitted = NewRun {
            max_attempts,
            ..run(owner, "limit", 0)
        };
        let id = submitted.id;
        store.enqueue(vec![submitted]).await.unwrap();
        for attempt in 1..max_attempts {
            assert_eq!(claim_of(store, server, "limit", 1).await[0].attempt, attempt);
            assert_eq!(
                store.requeue(vec![requeue(id, attempt)]).await.unwrap(),
                [Some(RunStatus::Queued)]
            );
        }
        let last = claim_of(store, server, "limit", 1).await;
        assert_eq!(
            store.requeue(vec![requeue(id, max_attempts)]).await.unwrap(),
            [Some(RunStatus::Lost)]
        );
        let expected = Run {
            status: RunStatus::Lost,
            finished_at: Some(at(3000)),
            outcome: RunOutcome {
                error: Some("the server went away".into()),
                ..RunOutcome::default()
            },
            ..last[0].clone()
        };
        assert_eq!(store.run(id).await.unwrap(), Some(expected));
        assert_eq!(claim_of(store, server, "limit", 1).await, Vec::new());
    }
}

/// An attempt that does not count uses up none of the allowed ones, yet its number is not given again.
pub async fn uncounted_attempts_cost_nothing(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let submitted = NewRun {
        max_attempts: 2,
        ..run(owner, "free", 0)
    };
    let id = submitted.id;
    store.enqueue(vec![submitted]).await.unwrap();
    let plan = [
        (false, RunStatus::Queued),
        (false, RunStatus::Queued),
        (true, RunStatus::Queued),
        (false, RunStatus::Queued),
        (true, RunStatus::Lost),
    ];
    for (attempt, (counts, expected)) in (1..).zip(plan) {
        assert_eq!(claim_of(store, server, "free", 1).await[0].attempt, attempt);
        let back = RequeueRun {
            counts,
            ..requeue(id, attempt)
        };
        assert_eq!(
            store.requeue(vec![back]).await.unwrap(),
            [Some(expected)],
            "attempt {attempt}"
        );
    }
}

/// Whoever asked for the end gets it, rather than another attempt or `lost`.
pub async fn a_requested_end_wins_over_a_requeue(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    for max_attempts in [1, 5] {
        let submitted = NewRun {
            max_attempts,
            ..run(owner, "asked", 0)
        };
        let id = submitted.id;
        store.enqueue(vec![submitted]).await.unwrap();
        let claimed = claim_of(store, server, "asked", 1).await;
        store.request_cancel(id, at(2500)).await.unwrap();
        assert_eq!(
            store.requeue(vec![requeue(id, 1)]).await.unwrap(),
            [Some(RunStatus::Cancelled)]
        );
        let expected = Run {
            status: RunStatus::Cancelled,
            cancel_requested: true,
            finished_at: Some(at(3000)),
            ..claimed[0].clone()
        };
        assert_eq!(store.run(id).await.unwrap(), Some(expected));
        assert_eq!(claim_of(store, server, "asked", 1).await, Vec::new());
    }
}

/// `not_before`, of a submission and of a requeue: others go on, and once due the run has its place in the order.
pub async fn delayed_runs_wait_and_hold_up_nobody(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server_id = ServerId::new();
    let delayed = |priority, until| NewRun {
        not_before: Some(at(until)),
        ..run(owner, "delay", priority)
    };
    let (late, soon) = (delayed(9, 300), delayed(9, 200));
    let plain: Vec<NewRun> = (0..4).map(|_| run(owner, "delay", 0)).collect();
    let elsewhere = NewRun {
        not_before: Some(at(150)),
        ..run(owner, "elsewhere", 0)
    };
    let mut all = vec![late.clone(), soon.clone(), elsewhere];
    all.extend(plain.clone());
    store.enqueue(all).await.unwrap();
    let class = class_id(store, "delay").await;
    let other = class_id(store, "elsewhere").await;
    let claim = |now: i64, limit| async move {
        let claimed = store
            .claim(ClaimRuns {
                server_id,
                classes: vec![class],
                limit,
                now: at(now),
                picks: Vec::new(),
                sandbox: None,
            })
            .await;
        ids(&claimed.unwrap())
    };
    let due = |classes: Vec<i64>, now: i64| async move { store.next_due(&classes, at(now)).await.unwrap() };

    assert_eq!(due(vec![class], 100).await, Some(at(200)));
    assert_eq!(due(vec![class, other], 100).await, Some(at(150)));
    assert_eq!(due(vec![class], 200).await, Some(at(300)));
    assert_eq!(due(vec![class], 300).await, None);
    assert_eq!(due(vec![], 100).await, None);

    assert_eq!(claim(199, 1).await, [plain[0].id]);
    assert_eq!(claim(200, 1).await, [soon.id]);
    assert_eq!(claim(300, 2).await, [late.id, plain[1].id]);
    assert_eq!(due(vec![class], 0).await, None);

    let back = |id: RunId, attempt, not_before: Option<Timestamp>| RequeueRun {
        not_before,
        ..requeue(id, attempt)
    };
    store
        .requeue(vec![back(soon.id, 1, Some(at(400))), back(late.id, 1, None)])
        .await
        .unwrap();
    assert_eq!(
        store.run(soon.id).await.unwrap().unwrap().submitted.not_before,
        Some(at(400))
    );
    assert_eq!(
        store.run(late.id).await.unwrap().unwrap().submitted.not_before,
        None
    );
    assert_eq!(due(vec![class], 300).await, Some(at(400)));
    assert_eq!(claim(0, 2).await, [late.id, plain[2].id]);
    assert_eq!(claim(400, 10).await, [soon.id, plain[3].id]);
}

/// How many of the same class go before, whatever the other classes do; nothing for one that is not waiting.
pub async fn positions_count_who_goes_before(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let delayed = NewRun {
        not_before: Some(at(9_000_000)),
        ..run(owner, "line", 7)
    };
    let runs = [
        run(owner, "line", 0),
        run(owner, "line", 5),
        run(owner, "line", 0),
        run(owner, "line", -5),
        delayed.clone(),
        run(owner, "line", 5),
        run(owner, "elsewhere", 99),
    ];
    store.enqueue(runs.to_vec()).await.unwrap();
    let expected = [3, 1, 4, 5, 0, 2, 0];
    for (run, before) in runs.iter().zip(expected) {
        assert_eq!(store.position(run.id).await.unwrap(), Some(before), "{run:?}");
    }
    let claimed = claim_of(store, ServerId::new(), "line", 1).await;
    assert_eq!(ids(&claimed), [runs[1].id]);
    store.request_cancel(delayed.id, at(1)).await.unwrap();
    for (run, before) in runs.iter().zip([Some(1), None, Some(2), Some(3), None, Some(0)]) {
        assert_eq!(store.position(run.id).await.unwrap(), before, "{run:?}");
    }
    assert_eq!(store.position(RunId::new()).await.unwrap(), None);
}
