//! What must hold, each as a function of its own.

use crate::common::me;
use crate::model::{MAX, Need, PLACES, PlanShape, TIMEOUT_MS, TestShape};
use crate::programs::{Execution, Over, What, output};
use crate::world::{LIMIT, Server, World};
use ostler_contracts::{PlanCounters, PlanStatus, PlanView, TestView};
use ostler_control::{LogStream, TestQuery};
use ostler_domain::{
    Clock, PlanId, Run, RunStatus, Sandbox, SandboxId, SandboxStatus, SystemClock, TenantId, TestPlan,
    TestSpec,
};
use ostler_store::{Filter, RunCounters, RunFilter, Store, StoreExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How much later than asked for something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// What a server says, and what is kept, while nothing moves.
pub(crate) struct Seen {
    runs: Vec<Run>,
    counters: [RunCounters; 2],
    plans: Vec<(TestPlan, PlanView, Vec<TestView>)>,
    sandboxes: HashMap<SandboxId, Sandbox>,
    executions: Vec<Execution>,
}

/// All runs that are kept, oldest first.
pub(crate) async fn runs(store: &dyn Store) -> Vec<Run> {
    let filter = RunFilter {
        after_seq: Some(0),
        limit: 100_000,
        ..RunFilter::default()
    };
    store.runs(filter).await.unwrap()
}

fn test(run: &Run) -> &TestSpec {
    run.submitted.spec.test.as_ref().unwrap()
}

/// The name that the program of a run was given.
fn program(run: &Run) -> &str {
    &run.submitted.spec.commands[0].argv[1]
}

fn is_superseded(run: &Run) -> bool {
    run.outcome.test.as_ref().is_some_and(|test| test.superseded)
}

fn failed(status: RunStatus) -> bool {
    matches!(status, RunStatus::Failed | RunStatus::TimedOut | RunStatus::Lost)
}

impl Seen {
    /// Asks the server about everything at a moment at which nothing moves.
    async fn of(world: &World, server: &Server) -> Self {
        let end = Instant::now() + LIMIT;
        loop {
            let runs = runs(&*server.store).await;
            world.waiting.note(&runs, SystemClock.now());
            let mut plans = Vec::new();
            for plan in world.plans(server).await {
                let query = TestQuery {
                    superseded: true,
                    limit: Some(1000),
                    ..TestQuery::default()
                };
                let view = server.control.plan(&me(), plan.id).await.unwrap();
                let tests = server.control.plan_tests(&me(), plan.id, query).await.unwrap();
                plans.push((plan, view, tests));
            }
            let store = server.control.store();
            let own = store.counters(Some(TenantId::DEFAULT)).await.unwrap();
            let all = store.counters(None).await.unwrap();
            let executions = world.ledger.all();
            let sandboxes: Vec<Sandbox> = server.store.list(Filter::all()).await.unwrap();
            let plans_now = world.plans(server).await;
            if self::runs(&*server.store).await == runs
                && plans_now.iter().eq(plans.iter().map(|(plan, ..)| plan))
            {
                return Self {
                    runs,
                    counters: [own, all],
                    plans,
                    sandboxes: sandboxes
                        .into_iter()
                        .map(|sandbox| (sandbox.id, sandbox))
                        .collect(),
                    executions,
                };
            }
            assert!(Instant::now() < end, "it never comes to rest");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn of_plan(&self, plan: PlanId) -> impl Iterator<Item = &Run> {
        self.runs
            .iter()
            .filter(move |run| run.submitted.plan_id == Some(plan))
    }

    fn latest(&self, plan: PlanId) -> impl Iterator<Item = &Run> {
        self.of_plan(plan).filter(|run| !is_superseded(run))
    }

    /// The execution that the last attempt at a run was.
    fn execution(&self, run: &Run) -> Option<&Execution> {
        let sandbox = run.sandbox_id?;
        let of_run = |one: &&Execution| one.sandbox == sandbox && one.name == program(run);
        self.executions.iter().find(of_run)
    }
}

/// What must hold after every step. `None` if the server died meanwhile.
pub(crate) async fn hold(world: &World, server: &Server) -> Option<()> {
    // Programs do not end by themselves meanwhile, so that it comes to rest.
    world.ledger.open(false);
    let seen = server.fuse.alive(Seen::of(world, server)).await;
    world.ledger.open(true);
    let seen = seen?;
    counters_equal_reality(&seen);
    status_equals_the_database(&seen);
    allocation_satisfies_every_requirement(world, &seen);
    the_runner_fits_the_environment(world, &seen);
    no_more_is_taken_than_there_is(world, &seen);
    // Of these, those who saw them broken complain: see `store::Watched::check_order` (priority, and first in first out
    // at equal priority) and `programs::Ledger::begin` (isolation: never two tests in a sandbox at a time).
    world.ledger.complaints.assert_none();
    Some(())
}

/// What must hold once every plan has ended.
pub(crate) async fn hold_at_the_end(world: &World, server: &Server) -> Option<()> {
    let seen = server.fuse.alive(Seen::of(world, server)).await?;
    a_submitted_plan_is_processed(world, &seen);
    nothing_is_lost_or_run_twice(world, &seen);
    ends_are_what_happened(world, &seen);
    time_outs_are_enforced(world, &seen);
    server.fuse.alive(capture_is_complete(world, server, &seen)).await
}

fn counters_equal_reality(seen: &Seen) {
    let mut real = RunCounters::new();
    for run in &seen.runs {
        *real.entry(run.status).or_default() += 1;
    }
    for counters in &seen.counters {
        let mut counters = counters.clone();
        counters.retain(|_, count| *count != 0);
        assert_eq!(counters, real, "the counters differ from what is there");
    }
}

fn status_equals_the_database(seen: &Seen) {
    for (plan, view, tests) in &seen.plans {
        let mut real = PlanCounters::default();
        for run in seen.latest(plan.id) {
            let counter = match run.status {
                RunStatus::Queued if run.submitted.held => &mut real.held,
                RunStatus::Queued => &mut real.queued,
                RunStatus::Running => &mut real.running,
                RunStatus::Succeeded => &mut real.succeeded,
                RunStatus::Failed => &mut real.failed,
                RunStatus::TimedOut => &mut real.timed_out,
                RunStatus::Cancelled => &mut real.cancelled,
                RunStatus::Lost => &mut real.lost,
                RunStatus::Skipped => &mut real.skipped,
            };
            *counter += 1;
            real.tolerated += u32::from(failed(run.status) && test(run).is_tolerated());
        }
        assert_eq!(view.counters, real, "of the plan {}", plan.name);
        let status = match plan.finished_at {
            None => PlanStatus::Running,
            Some(_) => real.status(),
        };
        assert_eq!(view.status, status, "{plan:?}");
        assert_eq!(view.tests as usize, seen.latest(plan.id).count(), "{plan:?}");
        let mut told: Vec<_> = tests
            .iter()
            .map(|test| (test.seq, test.run_id, test.status, test.attempt))
            .collect();
        told.sort_unstable();
        let real: Vec<_> = seen
            .of_plan(plan.id)
            .map(|run| (run.seq, run.submitted.id, run.status, run.attempt))
            .collect();
        assert_eq!(told, real, "of the plan {}", plan.name);
    }
}

fn need(world: &World, name: &str) -> Need {
    world.known().tests[name].need
}

/// In what place an execution found itself.
fn place<'a>(seen: &Seen, execution: &Execution) -> &'a crate::model::Place {
    let sandbox = seen.sandboxes.get(&execution.sandbox);
    let sandbox = sandbox.unwrap_or_else(|| panic!("there is no record of the sandbox of {execution:?}"));
    PLACES.iter().find(|place| place.pool == sandbox.pool).unwrap()
}

fn allocation_satisfies_every_requirement(world: &World, seen: &Seen) {
    for execution in &seen.executions {
        let (need, place) = (need(world, &execution.name), place(seen, execution));
        assert!(
            need.met_by(place),
            "{execution:?} needs {need:?} and was in {}",
            place.pool
        );
    }
}

fn the_runner_fits_the_environment(world: &World, seen: &Seen) {
    for execution in &seen.executions {
        assert_eq!(execution.kind, place(seen, execution).kind, "{execution:?}");
        if let Need::Kind(kind, _) = need(world, &execution.name) {
            assert_eq!(execution.kind, kind, "{execution:?}");
        }
    }
}

fn no_more_is_taken_than_there_is(world: &World, seen: &Seen) {
    let running = seen.executions.iter().filter(|one| one.over.is_none()).count();
    assert!(
        running <= world.slots as usize,
        "{running} tests are executed at once"
    );
    let mut live: BTreeMap<&str, u32> = BTreeMap::new();
    for sandbox in seen.sandboxes.values() {
        if sandbox.status != SandboxStatus::Destroyed {
            *live.entry(&sandbox.pool).or_default() += 1;
        }
    }
    for (pool, live) in live {
        let max = world.known().max.get(pool).copied().unwrap_or(MAX);
        assert!(live <= max, "the pool {pool} has {live} sandboxes of {max}");
    }
}

fn a_submitted_plan_is_processed(world: &World, seen: &Seen) {
    let known = world.known();
    for (name, confirmed) in &known.plans {
        let first = seen.plans.iter().find(|(plan, ..)| plan.name == *name);
        assert!(first.is_some() || !confirmed, "{name} is not there");
    }
    for id in &known.confirmed {
        assert!(
            seen.plans.iter().any(|(plan, ..)| plan.id == *id),
            "{id} is not there"
        );
    }
    for (plan, ..) in &seen.plans {
        assert!(plan.finished_at.is_some(), "{plan:?} has not ended");
        let tests: BTreeSet<u32> = seen.of_plan(plan.id).map(|run| test(run).index).collect();
        assert_eq!(tests.len(), plan.tests as usize, "{plan:?} is not whole");
    }
}

fn nothing_is_lost_or_run_twice(world: &World, seen: &Seen) {
    for (plan, ..) in &seen.plans {
        let mut tests: BTreeMap<u32, Vec<&Run>> = BTreeMap::new();
        for run in seen.of_plan(plan.id) {
            tests.entry(test(run).index).or_default().push(run);
        }
        for runs in tests.values_mut() {
            runs.sort_by_key(|run| run.submitted.ordinal);
            for (ordinal, run) in (1..).zip(runs.iter()) {
                assert_eq!(run.submitted.ordinal, ordinal, "{runs:?}");
                assert!(run.status.is_terminal(), "{run:?}");
                let last = ordinal as usize == runs.len();
                assert_eq!(is_superseded(run), !last, "there is one result: {runs:?}");
                assert!(ordinal <= test(run).retries + 1, "{runs:?}");
            }
            let last = runs[runs.len() - 1];
            let cut_short = world.known().cancelled.contains(&plan.id) || plan.fail_fast;
            if matches!(last.status, RunStatus::Failed | RunStatus::TimedOut) && !cut_short {
                assert_eq!(
                    last.submitted.ordinal,
                    test(last).retries + 1,
                    "it is tried again: {last:?}"
                );
            }
        }
    }
    for execution in &seen.executions {
        assert!(execution.over.is_some(), "{execution:?} is still going on");
        if matches!(execution.over, Some((_, Over::Exited(_)))) {
            let of = |run: &&Run| program(run) == execution.name && run.sandbox_id == Some(execution.sandbox);
            let runs: Vec<&Run> = seen.runs.iter().filter(of).collect();
            let others: Vec<_> = seen
                .executions
                .iter()
                .filter(|one| one.name == execution.name)
                .collect();
            assert_eq!(
                runs.len(),
                1,
                "this came to its end and is the result of no run: {execution:?}; {others:#?}"
            );
        }
    }
}

fn ends_are_what_happened(world: &World, seen: &Seen) {
    for run in &seen.runs {
        let shape = world.known().tests[program(run)].clone();
        let plan = run.submitted.plan_id.unwrap();
        let execution = seen.execution(run);
        let exited = execution.and_then(|one| match one.over {
            Some((_, Over::Exited(code))) => Some(code),
            _ => None,
        });
        let need_failed = |name: &String| {
            let need = seen.latest(plan).find(|other| test(other).name == *name).unwrap();
            let tolerated = failed(need.status) && test(need).is_tolerated();
            need.status != RunStatus::Succeeded && !tolerated
        };
        let needs = &test(run).needs;
        match run.status {
            RunStatus::Succeeded => assert_eq!(exited, Some(0), "{run:?}"),
            // A sandbox of any test may have been ended.
            RunStatus::Failed => assert_eq!(exited, run.outcome.exit_code, "{run:?}"),
            RunStatus::TimedOut => assert!(!shape.what.ends_by_itself(), "{run:?}"),
            RunStatus::Cancelled => {
                let (plan, ..) = seen.plans.iter().find(|(one, ..)| one.id == plan).unwrap();
                let asked = world.known().cancelled.contains(&plan.id);
                assert!(asked || plan.fail_fast, "{run:?}");
            }
            RunStatus::Skipped => assert!(needs.iter().any(need_failed), "{run:?}"),
            RunStatus::Queued | RunStatus::Running | RunStatus::Lost => panic!("{run:?}"),
        }
        if run.attempt > 0 {
            assert!(!needs.iter().any(need_failed), "{run:?} needs what did not pass");
        }
    }
}

fn time_outs_are_enforced(world: &World, seen: &Seen) {
    let limit = Duration::from_millis(TIMEOUT_MS);
    let most = limit + Duration::from_secs(1) + SLACK + world.known().away;
    for run in &seen.runs {
        let what = world.known().tests[program(run)].what;
        let Some(execution) = seen.execution(run) else {
            continue;
        };
        let (over, how) = execution.over.unwrap();
        let took = over.duration_since(execution.begun);
        if matches!(what, What::Hang | What::Stubborn) {
            assert_eq!(how, Over::Killed);
            assert!(took <= most, "{run:?} was ended after {took:?}");
        }
        if run.status == RunStatus::TimedOut {
            let took = run.finished_at.unwrap().since(run.started_at.unwrap());
            assert!(took >= limit, "{run:?} was ended after {took:?}");
        }
    }
}

/// Adjacent pieces of a stream are one.
pub(crate) fn joined(pieces: Vec<(LogStream, Vec<u8>)>) -> Vec<(LogStream, Vec<u8>)> {
    let mut all: Vec<(LogStream, Vec<u8>)> = Vec::new();
    for (stream, bytes) in pieces {
        match all.last_mut() {
            Some((last, before)) if *last == stream => before.extend(bytes),
            _ => all.push((stream, bytes)),
        }
    }
    all
}

/// Whether this is how `whole` begins.
fn begins(part: &[(LogStream, Vec<u8>)], whole: &[(LogStream, Vec<u8>)]) -> bool {
    let Some(((stream, bytes), before)) = part.split_last() else {
        return true;
    };
    let Some((of, all)) = whole.get(before.len()) else {
        return false;
    };
    before == &whole[..before.len()] && stream == of && all.starts_with(bytes)
}

async fn capture_is_complete(world: &World, server: &Server, seen: &Seen) {
    for run in &seen.runs {
        let Some(execution) = seen.execution(run) else {
            continue;
        };
        let log = server.control.run_log(&me(), run.submitted.id).await.unwrap();
        let mut records = Vec::new();
        // Where nothing was written there is none.
        if let Some(mut log) = log {
            while let batch = log.next_batch().unwrap()
                && !batch.is_empty()
            {
                records.extend(batch);
            }
        }
        let mut pieces = Vec::new();
        for (seq, record) in (1..).zip(records) {
            assert_eq!(record.seq, seq, "the log of {run:?} has a gap");
            if record.attempt == run.attempt && record.stream != LogStream::Ostler {
                pieces.push((record.stream, record.bytes));
            }
        }
        let bytes = world.known().tests[program(run)].bytes;
        let (kept, written) = (joined(pieces), joined(output(program(run), bytes)));
        let sizes = |pieces: &[(LogStream, Vec<u8>)]| -> Vec<(LogStream, usize)> {
            pieces
                .iter()
                .map(|(stream, bytes)| (*stream, bytes.len()))
                .collect()
        };
        let (kept_sizes, sizes) = (sizes(&kept), sizes(&written));
        // What a sandbox that crashes did not hand over is gone with it.
        let whole = match run.status {
            RunStatus::Succeeded => true,
            RunStatus::Failed => run.outcome.exit_code.is_some(),
            RunStatus::TimedOut => execution.wrote,
            _ => false,
        };
        if whole {
            assert!(kept == written, "{run:?}: kept is {kept_sizes:?} of {sizes:?}");
        } else {
            assert!(
                begins(&kept, &written),
                "{run:?}: kept is {kept_sizes:?} of {sizes:?}"
            );
        }
    }
}

/// After a stop nothing is executed, and all that was is on the queue again.
pub(crate) async fn nothing_runs_after_a_stop(world: &World, server: &Server) {
    let runs = runs(&*server.store).await;
    let running: Vec<&Run> = runs
        .iter()
        .filter(|run| run.status == RunStatus::Running)
        .collect();
    assert!(
        running.is_empty(),
        "the server was stopped, and these are being executed: {running:?}"
    );
    let end = Instant::now() + Duration::from_secs(5);
    while let Some(one) = world.ledger.running().first() {
        assert!(
            Instant::now() < end,
            "the server was stopped, and goes on with {one:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// After all that happened there is as much room as at the beginning, and nothing is left.
pub(crate) async fn resources_return(world: &World, server: &Server) {
    for place in &PLACES {
        server.set_pool(place.pool, MAX, 0).await.unwrap();
    }
    let probe = TestShape {
        what: What::Pass,
        need: Need::Nothing,
        priority: 0,
        retries: 0,
        ms: 0,
        bytes: 0,
        after: None,
        allow_failure: false,
    };
    let slots = world.slots as usize;
    let plan = PlanShape {
        tests: vec![probe; slots],
        max_parallel: None,
        fail_fast: false,
    };
    let end = Instant::now() + LIMIT;
    world.ledger.open(false);
    world.submit(server, &plan).await.unwrap();
    while world.ledger.running().len() < slots {
        assert!(
            Instant::now() < end,
            "not as many run at once as at the beginning"
        );
        // As the rounds of a server do, which there are not here.
        server.fill_pools().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.ledger.open(true);
    world.all_ended(server).await.unwrap();
    loop {
        server.fill_pools().await.unwrap();
        let live = Filter::<Sandbox>::all().and("status", ostler_store::Op::Ne, SandboxStatus::Destroyed);
        let live: Vec<Sandbox> = server.store.list(live).await.unwrap();
        let ids: BTreeSet<SandboxId> = live.iter().map(|sandbox| sandbox.id).collect();
        let idle = live.iter().all(|sandbox| sandbox.status == SandboxStatus::Warm);
        if idle && ids == world.sandboxes() {
            return;
        }
        assert!(
            Instant::now() < end,
            "these are left: {live:?}; {:?}",
            world.sandboxes()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
