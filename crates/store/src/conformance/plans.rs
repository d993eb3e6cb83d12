//! Plans of tests: runs that are held, released and skipped, what an end brings with it, and what a scheduler asks.

use super::samples::*;
use crate::{
    Change, ClaimRuns, FinishRun, Head, Hint, LEVELS, NewEvent, Pick, RunCounters, RunFilter, Store,
    StoreError, StoreExt,
};
use ostler_domain::{
    NewRun, PlanId, RunId, RunOutcome, RunStatus, SandboxId, ServerId, TenantId, TestRecord, TestResult,
    Timestamp,
};
use std::collections::BTreeSet;
use std::sync::Arc;

fn held(owner: TenantId, class: &str, priority: i32) -> NewRun {
    NewRun {
        held: true,
        ..run(owner, class, priority)
    }
}

/// What is counted, without the states in which nothing is.
fn present(mut counters: RunCounters) -> RunCounters {
    counters.retain(|_, n| *n != 0);
    counters
}

async fn state(store: &dyn Store, id: RunId) -> (RunStatus, bool) {
    let run = store.run(id).await.unwrap().unwrap();
    (run.status, run.submitted.held)
}

/// Nobody is given a held run and it holds up nobody; released, it has the place that it would have had anyway.
pub async fn held_runs_wait_until_they_are_released(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let first = held(owner, "held", 9);
    let dated = NewRun {
        not_before: Some(at(5000)),
        ..held(owner, "held", 9)
    };
    let (plain, last, never) = (
        run(owner, "held", 0),
        held(owner, "held", 0),
        held(owner, "held", 9),
    );
    let all = [&first, &dated, &plain, &last, &never].map(Clone::clone);
    let seqs = store.enqueue(all.to_vec()).await.unwrap();
    let class = class_id(store, "held").await;
    let kept = store.run(first.id).await.unwrap().unwrap();
    assert_eq!(kept.submitted, first);
    assert_eq!(
        store.run(dated.id).await.unwrap().unwrap().submitted,
        dated,
        "with its not_before"
    );
    let queued = present(store.counters(Some(owner)).await.unwrap());
    assert_eq!(queued, [(RunStatus::Queued, 5)].into());
    let filter = RunFilter {
        status: Some(RunStatus::Queued),
        ..RunFilter::default()
    };
    assert_eq!(store.runs(filter).await.unwrap().len(), 5);

    // Not even long after its not_before.
    assert_eq!(store.next_due(&[class], at(0)).await.unwrap(), None);
    assert_eq!(store.position(plain.id).await.unwrap(), Some(0));
    let heads = store.heads(&[class], at(9000)).await.unwrap();
    assert_eq!(heads.iter().map(|h| h.seq).collect::<Vec<_>>(), [seqs[2]]);
    let claim = |now: i64| {
        store.claim(ClaimRuns {
            server_id: server,
            classes: vec![class],
            picks: Vec::new(),
            limit: 10,
            now: at(now),
            sandbox: None,
        })
    };
    assert_eq!(ids(&claim(9000).await.unwrap()), [plain.id]);

    let mut hints = store.hints();
    let wanted = vec![last.id, first.id, dated.id, plain.id, first.id, RunId::new()];
    assert_eq!(store.release(wanted.clone()).await.unwrap(), 3);
    let told = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while !matches!(hints.recv().await, Ok(Hint::RunsQueued)) {}
    });
    told.await.unwrap();
    assert_eq!(store.release(wanted).await.unwrap(), 0);
    assert_eq!(store.release(Vec::new()).await.unwrap(), 0);
    assert_eq!(state(store, first.id).await, (RunStatus::Queued, false));
    assert_eq!(state(store, never.id).await, (RunStatus::Queued, true));
    assert_eq!(store.next_due(&[class], at(0)).await.unwrap(), Some(at(5000)));
    let claimed = claim(4999).await.unwrap();
    assert_eq!(ids(&claimed), [first.id, last.id]);
    assert!(claimed.iter().all(|run| !run.submitted.held));
    assert_eq!(ids(&claim(5000).await.unwrap()), [dated.id]);
    assert_eq!(claim(i64::MAX).await.unwrap(), Vec::new());

    // Back on the queue it is not held again.
    assert_eq!(
        store.requeue(vec![requeue(first.id, 1)]).await.unwrap(),
        [Some(RunStatus::Queued)]
    );
    assert_eq!(state(store, first.id).await, (RunStatus::Queued, false));
    assert_eq!(ids(&claim(5000).await.unwrap()), [first.id]);

    // A held one can be cancelled, and released within a commit.
    let cancelled = store.request_cancel(never.id, at(9)).await.unwrap();
    assert_eq!(cancelled, crate::Cancelled::AtOnce);
    assert_eq!(store.release(vec![never.id]).await.unwrap(), 0);
    let fresh = held(owner, "held", 0);
    store
        .commit(vec![
            Change::enqueue(fresh.clone()),
            Change::ReleaseRun(fresh.id),
            Change::ReleaseRun(never.id),
            Change::ReleaseRun(RunId::new()),
        ])
        .await
        .unwrap();
    assert_eq!(ids(&claim(5000).await.unwrap()), [fresh.id]);
    assert_eq!(state(store, never.id).await, (RunStatus::Cancelled, false));
}

/// What waits, held or not, is ended with the reason; what does not is left alone.
pub async fn skipped_runs_were_never_started(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let (running, ended) = (run(owner, "skip", 9), run(owner, "skip", 8));
    let waiting = run(owner, "skip", 0);
    let delayed = NewRun {
        not_before: Some(at(9_000_000)),
        ..run(owner, "skip", 0)
    };
    let kept_back = held(owner, "skip", 0);
    let all = [&running, &ended, &waiting, &delayed, &kept_back].map(Clone::clone);
    store.enqueue(all.to_vec()).await.unwrap();
    claim_of(store, server, "skip", 2).await;
    store
        .finish(vec![finish(ended.id, 1, RunStatus::Succeeded)])
        .await
        .unwrap();
    let before = [
        store.run(running.id).await.unwrap(),
        store.run(ended.id).await.unwrap(),
    ];
    let mut hints = store.hints();
    let ids_of: Vec<RunId> = all
        .iter()
        .map(|run| run.id)
        .chain([waiting.id, RunId::new()])
        .collect();
    let done = store
        .skip(ids_of.clone(), "`build` failed".into(), at(4000))
        .await;
    assert_eq!(done.unwrap(), [false, false, true, true, true, false, false]);
    let told = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while !matches!(hints.recv().await, Ok(Hint::RunsFinished)) {}
    });
    told.await.unwrap();
    let again = store.skip(ids_of, "again".into(), at(4001)).await.unwrap();
    assert_eq!(again, [false; 7]);
    for skipped in [&waiting, &delayed, &kept_back] {
        let kept = store.run(skipped.id).await.unwrap().unwrap();
        assert_eq!(
            (
                kept.status,
                kept.attempt,
                kept.cancel_requested,
                kept.submitted.held
            ),
            (RunStatus::Skipped, 0, false, false)
        );
        assert_eq!((kept.started_at, kept.finished_at), (None, Some(at(4000))));
        let expected = RunOutcome {
            error: Some("`build` failed".into()),
            ..RunOutcome::default()
        };
        assert_eq!(kept.outcome, expected);
        assert_eq!(
            store.request_cancel(kept.submitted.id, at(1)).await.unwrap(),
            crate::Cancelled::TooLate
        );
    }
    let after = [
        store.run(running.id).await.unwrap(),
        store.run(ended.id).await.unwrap(),
    ];
    assert_eq!(after, before);
    assert_eq!(claim_of(store, server, "skip", 10).await, Vec::new());
    let nothing = store.skip(Vec::new(), String::new(), at(1)).await;
    assert_eq!(nothing.unwrap(), Vec::<bool>::new());

    let skip = |run: &NewRun, reason: &str| Change::SkipRun {
        id: run.id,
        reason: reason.into(),
        at: at(5000),
    };
    let (one, other, third) = (
        held(owner, "skip", 0),
        held(owner, "skip", 0),
        held(owner, "skip", 0),
    );
    store
        .commit(vec![
            Change::enqueue(one.clone()),
            Change::enqueue(other.clone()),
            Change::enqueue(third.clone()),
            skip(&one, "a"),
            skip(&other, "a"),
            skip(&third, "b"),
            skip(&running, "c"),
        ])
        .await
        .unwrap();
    for (run, reason) in [(&one, "a"), (&other, "a"), (&third, "b")] {
        let kept = store.run(run.id).await.unwrap().unwrap();
        assert_eq!(kept.status, RunStatus::Skipped);
        assert_eq!(kept.outcome.error.as_deref(), Some(reason));
    }
    let counted = present(store.counters(Some(owner)).await.unwrap());
    let expected = [
        (RunStatus::Running, 1),
        (RunStatus::Succeeded, 1),
        (RunStatus::Skipped, 6),
    ];
    assert_eq!(counted, expected.into());
    let filter = RunFilter {
        status: Some(RunStatus::Skipped),
        ..RunFilter::default()
    };
    assert_eq!(store.runs(filter).await.unwrap().len(), 6);
}

fn said(owner: TenantId, subject: &str) -> Change {
    Change::Event(NewEvent {
        tenant_id: Some(owner),
        kind: "run.ended".into(),
        subject: subject.into(),
        data: serde_json::Value::Null,
        at: at(1),
    })
}

/// Rows, runs and events of an end are there if and only if the end is.
pub async fn what_follows_is_committed_with_the_end(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let tests: Vec<NewRun> = (0..3).map(|_| run(owner, "then", 0)).collect();
    let after = held(owner, "then", 0);
    store.enqueue(tests.clone()).await.unwrap();
    store.enqueue(vec![after.clone()]).await.unwrap();
    claim_of(store, server, "then", 3).await;
    let mut row = test_record(owner, true);
    row.run_id = tests[0].id;
    let retry = run(owner, "then of the end", 5);
    let with = |id: RunId, attempt: u32, then: Vec<Change>| FinishRun {
        then,
        ..finish(id, attempt, RunStatus::Failed)
    };
    let what = vec![
        Change::insert(&row),
        Change::enqueue(retry.clone()),
        Change::ReleaseRun(after.id),
        said(owner, "first"),
    ];
    // Of an attempt that is over nothing follows.
    let stale = vec![
        with(tests[0].id, 2, what.clone()),
        with(RunId::new(), 1, what.clone()),
    ];
    assert_eq!(store.finish(stale).await.unwrap(), [false, false]);
    assert_eq!(store.run(retry.id).await.unwrap(), None);
    assert_eq!(store.last_event().await.unwrap(), 0);

    let ends = vec![
        with(tests[0].id, 1, what.clone()),
        with(tests[0].id, 1, vec![said(owner, "never")]),
        with(tests[1].id, 1, vec![said(owner, "second")]),
        with(tests[2].id, 7, vec![said(owner, "never")]),
    ];
    assert_eq!(store.finish(ends).await.unwrap(), [true, false, true, false]);
    let found: Vec<TestRecord> = store.list(crate::Filter::all()).await.unwrap();
    assert_eq!(found, [row.clone()]);
    let events = store.events(Some(owner), 0, 10).await.unwrap();
    let subjects: Vec<&str> = events.iter().map(|e| e.event.subject.as_str()).collect();
    assert_eq!(subjects, ["first", "second"]);
    assert_eq!(state(store, after.id).await, (RunStatus::Queued, false));
    assert_eq!(
        ids(&claim_of(store, server, "then of the end", 9).await),
        [retry.id]
    );

    // What cannot be done keeps the end, and those beside it, from being one.
    let more = run(owner, "then", 0);
    store.enqueue(vec![more.clone()]).await.unwrap();
    claim_of(store, server, "then", 9).await;
    let counters = store.counters(None).await.unwrap();
    let ends = vec![
        with(more.id, 1, vec![said(owner, "third")]),
        with(tests[2].id, 1, vec![said(owner, "third"), Change::enqueue(retry)]),
    ];
    let refused = store.finish(ends).await;
    assert!(
        matches!(refused, Err(StoreError::Duplicate { .. })),
        "{refused:?}"
    );
    let ends = vec![with(more.id, 1, vec![said(owner, "third"), Change::insert(&row)])];
    let refused = store.finish(ends).await;
    assert!(
        matches!(refused, Err(StoreError::Duplicate { .. })),
        "{refused:?}"
    );
    assert_eq!(state(store, more.id).await.0, RunStatus::Running);
    assert_eq!(state(store, tests[2].id).await.0, RunStatus::Running);
    assert_eq!(store.events(Some(owner), 0, 10).await.unwrap(), events);
    assert_eq!(store.counters(None).await.unwrap(), counters);
    let again = store.finish(vec![with(more.id, 1, Vec::new())]).await;
    assert_eq!(again.unwrap(), [true]);
}

/// An end whose outcome says that another run takes its place.
fn replaced(id: RunId) -> FinishRun {
    let mut end = finish(id, 1, RunStatus::Failed);
    end.outcome.test = Some(Box::new(TestResult {
        superseded: true,
        ..TestResult::default()
    }));
    end
}

/// The counts of a plan in every state that its runs go through, and its runs page by page.
pub async fn the_tests_of_a_plan_are_counted_once(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let (plan, other) = (PlanId::new(), PlanId::new());
    let of = |plan_id: PlanId, run: NewRun| NewRun {
        plan_id: Some(plan_id),
        ..run
    };
    let tests: Vec<NewRun> = (0..4).map(|_| of(plan, run(owner, "plan", 0))).collect();
    let kept_back = of(plan, held(owner, "plan", 0));
    let later = NewRun {
        not_before: Some(at(9_000_000)),
        ..of(plan, run(owner, "plan", 0))
    };
    let mut all = tests.clone();
    all.extend([
        kept_back.clone(),
        run(owner, "plan", -9),
        of(other, run(owner, "plan", -9)),
        later.clone(),
    ]);
    let counted = async || present(store.plan_counters(plan).await.unwrap());
    assert_eq!(counted().await, RunCounters::new());
    store.enqueue(all).await.unwrap();
    assert_eq!(counted().await, [(RunStatus::Queued, 6)].into());
    claim_of(store, server, "plan", 3).await;
    assert_eq!(
        counted().await,
        [(RunStatus::Queued, 3), (RunStatus::Running, 3)].into()
    );
    let retry = of(plan, run(owner, "plan", 3));
    let end = FinishRun {
        then: vec![Change::enqueue(retry.clone())],
        ..replaced(tests[0].id)
    };
    let ends = vec![end, finish(tests[1].id, 1, RunStatus::Succeeded)];
    assert_eq!(store.finish(ends).await.unwrap(), [true, true]);
    store.requeue(vec![requeue(tests[2].id, 1)]).await.unwrap();
    assert_eq!(
        counted().await,
        [(RunStatus::Queued, 5), (RunStatus::Succeeded, 1)].into()
    );
    store.skip(vec![kept_back.id], "no".into(), at(1)).await.unwrap();
    store.request_cancel(later.id, at(1)).await.unwrap();
    assert_eq!(ids(&claim_of(store, server, "plan", 1).await), [retry.id]);
    let expected = [
        (RunStatus::Queued, 2),
        (RunStatus::Running, 1),
        (RunStatus::Succeeded, 1),
        (RunStatus::Cancelled, 1),
        (RunStatus::Skipped, 1),
    ];
    assert_eq!(counted().await, expected.into());
    // Replaced after its end; of one that has not ended it is no matter.
    store
        .commit(vec![
            Change::SupersedeRun(later.id),
            Change::SupersedeRun(retry.id),
            Change::SupersedeRun(tests[2].id),
            Change::SupersedeRun(RunId::new()),
        ])
        .await
        .unwrap();
    let expected = [
        (RunStatus::Queued, 2),
        (RunStatus::Running, 1),
        (RunStatus::Succeeded, 1),
        (RunStatus::Skipped, 1),
    ];
    assert_eq!(counted().await, expected.into());
    assert_eq!(
        present(store.plan_counters(other).await.unwrap()),
        [(RunStatus::Queued, 1)].into()
    );

    let more = [true, true, false].map(|held| NewRun {
        held,
        ..of(PlanId::from_u128(7), run(owner, "plan", 0))
    });
    store.enqueue(more.to_vec()).await.unwrap();
    let waits = async || store.plan_held(PlanId::from_u128(7)).await.unwrap();
    let held_ones = RunFilter {
        plan_id: Some(PlanId::from_u128(7)),
        held_only: true,
        ..RunFilter::default()
    };
    assert_eq!(waits().await, 2);
    let found = store.runs(held_ones.clone()).await.unwrap();
    assert_eq!(ids(&found), [more[1].id, more[0].id]);
    store.release(vec![more[0].id, more[2].id]).await.unwrap();
    assert_eq!(waits().await, 1);
    assert_eq!(ids(&store.runs(held_ones).await.unwrap()), [more[1].id]);
    assert_eq!(store.plan_held(plan).await.unwrap(), 0);

    // Its runs, all and those that count, newest first and in the order of the plan.
    let in_order = [
        tests[0].id,
        tests[1].id,
        tests[2].id,
        tests[3].id,
        kept_back.id,
        later.id,
        retry.id,
    ];
    let any = || RunFilter {
        plan_id: Some(plan),
        ..RunFilter::default()
    };
    let newest: Vec<RunId> = in_order.iter().rev().copied().collect();
    assert_eq!(ids(&store.runs(any()).await.unwrap()), newest);
    let latest = RunFilter {
        latest_only: true,
        ..any()
    };
    let expected = [retry.id, kept_back.id, tests[3].id, tests[2].id, tests[1].id];
    assert_eq!(ids(&store.runs(latest).await.unwrap()), expected);
    let mut pages = Vec::new();
    let mut after = 0;
    loop {
        let page = RunFilter {
            after_seq: Some(after),
            limit: 3,
            ..any()
        };
        let page = store.runs(page).await.unwrap();
        let Some(last) = page.last() else {
            break;
        };
        after = last.seq;
        pages.extend(ids(&page));
    }
    assert_eq!(pages, in_order);
}

/// The first of each priority, the highest sixteen of each class, whatever stands behind it.
pub async fn heads_are_told_of_each_priority(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let submitted = |class: &str, priority: i32, created_at: i64| NewRun {
        created_at: at(created_at),
        ..run(owner, class, priority)
    };
    let runs = [
        submitted("heads a", 0, 7),
        submitted("heads a", 5, 8),
        submitted("heads a", 0, 6),
        submitted("heads b", i32::MIN, 9),
        submitted("heads b", i32::MAX, 10),
        NewRun {
            not_before: Some(at(500)),
            ..submitted("heads a", 7, 11)
        },
        held(owner, "heads a", 9),
        submitted("heads a", 5, 12),
    ];
    let seqs = store.enqueue(runs.to_vec()).await.unwrap();
    let (a, b) = (class_id(store, "heads a").await, class_id(store, "heads b").await);
    let head = |class: i64, n: usize| Head {
        class,
        priority: runs[n].priority,
        seq: seqs[n],
        created_at: runs[n].created_at,
    };
    let heads = |classes: Vec<i64>, now: i64| async move { store.heads(&classes, at(now)).await.unwrap() };
    let of_b = [head(b, 4), head(b, 3)];
    let before = [head(a, 1), head(a, 0)];
    let mut both: Vec<Head> = before.iter().chain(&of_b).copied().collect();
    both.sort_by_key(|h| (h.class, -i64::from(h.priority)));
    assert_eq!(heads(vec![b, a, i64::MAX, a], 499).await, both);
    assert_eq!(heads(vec![a], 499).await, before);
    assert_eq!(heads(vec![], 499).await, []);
    // One that has come due is there at once.
    let after = [head(a, 5), head(a, 1), head(a, 0)];
    assert_eq!(heads(vec![a], 500).await, after);
    store.request_cancel(runs[1].id, at(1)).await.unwrap();
    let next = [head(a, 5), head(a, 7), head(a, 0)];
    assert_eq!(heads(vec![a], 500).await, next);
    claim_of(store, server, "heads a", 3).await;
    assert_eq!(heads(vec![a], 500).await, [head(a, 2)]);

    let many: Vec<NewRun> = (0..40).map(|n| run(owner, "heads many", n % 20)).collect();
    store.enqueue(many).await.unwrap();
    let class = class_id(store, "heads many").await;
    let levels: Vec<i32> = heads(vec![class], 500).await.iter().map(|h| h.priority).collect();
    let expected: Vec<i32> = (0..20).rev().take(LEVELS as usize).collect();
    assert_eq!(levels, expected);
}

/// Exactly what the picks name, in their order as far as the limit goes, with the sandbox where there is one.
pub async fn picks_take_what_they_name(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let high: Vec<NewRun> = (0..4).map(|_| run(owner, "pick a", 9)).collect();
    let low: Vec<NewRun> = (0..4).map(|_| run(owner, "pick a", -1)).collect();
    let other: Vec<NewRun> = (0..2).map(|_| run(owner, "pick b", 0)).collect();
    let late = NewRun {
        not_before: Some(at(700)),
        ..run(owner, "pick b", 1)
    };
    let all = [high.clone(), low.clone(), other.clone(), vec![late.clone()]].concat();
    store.enqueue(all).await.unwrap();
    let (a, b) = (class_id(store, "pick a").await, class_id(store, "pick b").await);
    let claim = |picks: &[(i64, i32, u32)], limit: u32, now: i64, sandbox: Option<SandboxId>| {
        let picks = picks
            .iter()
            .map(|(class, priority, limit)| Pick {
                class: *class,
                priority: *priority,
                limit: *limit,
            })
            .collect();
        let claim = ClaimRuns {
            server_id: server,
            // Not looked at.
            classes: vec![a, b],
            picks,
            limit,
            now: at(now),
            sandbox,
        };
        async move { store.claim(claim).await.unwrap() }
    };
    let sandbox = SandboxId::new();
    let got = claim(&[(a, -1, 2), (b, 0, 9)], 100, 600, Some(sandbox)).await;
    assert_eq!(ids(&got), [other[0].id, other[1].id, low[0].id, low[1].id]);
    for run in &got {
        assert_eq!(
            (run.sandbox_id, run.attempt, run.status),
            (Some(sandbox), 1, RunStatus::Running)
        );
        assert_eq!(
            store.run(run.submitted.id).await.unwrap().as_ref(),
            Some(run),
            "as it is kept"
        );
    }
    // The first picks go first when the limit is short; the same named twice is one, where it stands first.
    let got = claim(&[(a, -1, 1), (a, 9, 2), (a, -1, 5)], 3, 600, None).await;
    assert_eq!(ids(&got), [high[0].id, low[2].id, low[3].id]);
    assert!(got.iter().all(|run| run.sandbox_id.is_none()));
    for nothing in [(a, 8, 5), (b, 0, 5), (b, 1, 5), (i64::MAX, 0, 5), (a, 9, 0)] {
        assert_eq!(claim(&[nothing], 100, 600, None).await, Vec::new(), "{nothing:?}");
    }
    assert_eq!(claim(&[(a, 9, 5)], 0, 600, None).await, Vec::new());
    assert_eq!(ids(&claim(&[(b, 1, 5)], 100, 700, None).await), [late.id]);
    let left = claim(&[(a, 9, 5), (a, -1, 5)], 100, 700, None).await;
    assert_eq!(ids(&left), [high[1].id, high[2].id, high[3].id]);
    let counted = present(store.counters(Some(owner)).await.unwrap());
    assert_eq!(counted, [(RunStatus::Running, 11)].into());
    // Without picks the sandbox is noted, too.
    let one = run(owner, "pick a", 0);
    store.enqueue(vec![one.clone()]).await.unwrap();
    let got = claim(&[], 100, 700, Some(sandbox)).await;
    assert_eq!(got[0].sandbox_id, Some(sandbox));
    assert_eq!(store.run(one.id).await.unwrap().as_ref(), got.first());
}

/// Several who pick the same at the same time: each run is given once.
pub async fn concurrent_picks_never_double(store: Arc<dyn Store>) {
    const RUNS: usize = 600;
    let owner = some_tenant(&*store).await;
    let runs: Vec<NewRun> = (0..RUNS).map(|n| run(owner, "crowd", (n % 2) as i32)).collect();
    store.enqueue(runs).await.unwrap();
    let class = class_id(&*store, "crowd").await;
    let mut tasks = tokio::task::JoinSet::new();
    for limit in 1..9 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let server_id = ServerId::new();
            let mut got = Vec::new();
            loop {
                let heads = store.heads(&[class], Timestamp(1000)).await.unwrap();
                if heads.is_empty() {
                    return got;
                }
                let pick = |head: &Head| Pick {
                    class,
                    priority: head.priority,
                    limit,
                };
                let claim = ClaimRuns {
                    server_id,
                    classes: Vec::new(),
                    picks: heads.iter().map(pick).collect(),
                    limit: 5,
                    now: at(1000),
                    sandbox: Some(SandboxId::new()),
                };
                let claimed = store.claim(claim).await.unwrap();
                assert!(claimed.len() <= 5);
                got.extend(ids(&claimed));
            }
        });
    }
    let got: Vec<RunId> = tasks.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<RunId> = got.iter().copied().collect();
    assert_eq!((got.len(), distinct.len()), (RUNS, RUNS));
}

/// Equal requirements of two tenants are two classes.
pub async fn classes_belong_to_one_tenant(store: Arc<dyn Store>) {
    let store = &*store;
    let owners = [some_tenant(store).await, some_tenant(store).await];
    let server = ServerId::new();
    let runs = owners.map(|owner| run(owner, "shared", 0));
    // Together and apart, new and known.
    store.enqueue(runs.to_vec()).await.unwrap();
    let more = owners.map(|owner| run(owner, "shared", 0));
    store.enqueue(vec![more[1].clone()]).await.unwrap();
    store.enqueue(vec![more[0].clone()]).await.unwrap();
    let classes = store.classes().await.unwrap();
    let of = |owner: TenantId| {
        let wanted = class_named("shared");
        let found: Vec<i64> = classes
            .iter()
            .filter(|c| c.tenant_id == owner && c.requirements == wanted)
            .map(|c| c.id)
            .collect();
        assert_eq!(found.len(), 1, "{classes:?}");
        found[0]
    };
    assert_eq!(classes.len(), 2);
    assert_eq!(store.position(more[0].id).await.unwrap(), Some(1));
    for ((owner, first), second) in owners.iter().zip(&runs).zip(&more) {
        let claim = ClaimRuns {
            server_id: server,
            classes: vec![of(*owner)],
            picks: Vec::new(),
            limit: 10,
            now: at(1000),
            sandbox: None,
        };
        let claimed = store.claim(claim).await.unwrap();
        assert_eq!(ids(&claimed), [first.id, second.id]);
        assert!(
            claimed
                .iter()
                .all(|r| r.submitted.requirements == first.requirements)
        );
    }
}
