//! Plans of tests over the sim driver and real stores: what follows from the ends of tests, whoever settles it and however
//! often servers go away meanwhile.

#![allow(clippy::unwrap_used, reason = "test code")]

mod world;

use ostler_contracts::{PlanCounters, PlanStatus, PlanView, TestView};
use ostler_control::{Control, PlanFormat, PlanQuery, TestIdentity, TestQuery};
use ostler_domain::{DriverKind, PlanId, RunStatus, ServerId, TestRecord};
use ostler_driver_sim::{Program, SimControl, SimDriver};
use ostler_sandbox::Driver;
use ostler_store::{Filter, Store, StoreExt};
use ostler_store_postgres::PostgresStore;
use ostler_test_kit::Postgres;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use world::me;

const LIMIT: Duration = Duration::from_secs(60);

/// What the programs of tests did.
#[derive(Default)]
struct Seen {
    /// Names in the order in which they began.
    begun: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct World {
    dir: tempfile::TempDir,
    driver: Arc<dyn Driver>,
    sim: SimControl,
    server_id: ServerId,
    seen: Arc<Seen>,
    /// A database of PostgreSQL, and the server that it is on; SQLite without.
    database: Option<(String, Postgres)>,
}

struct Server {
    control: Control,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// `test NAME FAILURES SECONDS`: takes so long, and fails as often as that before it succeeds.
fn program(seen: &Arc<Seen>) -> Program {
    let seen = Arc::clone(seen);
    Program::new(move |invocation| {
        let seen = Arc::clone(&seen);
        async move {
            let argument = |at: usize| invocation.argv.get(at).cloned().unwrap_or_default();
            let name = argument(1);
            let before = {
                let mut begun = seen.begun.lock().unwrap();
                begun.push(name.clone());
                begun.iter().filter(|begun| **begun == name).count() - 1
            };
            let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most.fetch_max(now, Ordering::SeqCst);
            let seconds = argument(3).parse().unwrap_or(0.0);
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            seen.now.fetch_sub(1, Ordering::SeqCst);
            i32::from(before < argument(2).parse().unwrap_or(0))
        }
    })
}

impl World {
    fn new(database: Option<Postgres>) -> Self {
        let sim = SimControl::new();
        let seen = Arc::new(Seen::default());
        sim.program("test", program(&seen));
        Self {
            dir: tempfile::tempdir().unwrap(),
            driver: Arc::new(SimDriver::new(sim.clone())),
            sim,
            server_id: ServerId::new(),
            seen,
            database: database.map(|postgres| (postgres.database(), postgres)),
        }
    }

    async fn start(&self) -> Server {
        let store: Option<Arc<dyn Store>> = match &self.database {
            None => None,
            Some((url, _)) => {
                let store = PostgresStore::connect(url, ostler_store_postgres::Options::default())
                    .await
                    .unwrap();
                store.migrate_up(None).await.unwrap();
                Some(Arc::new(store))
            }
        };
        let control = world::server(self.dir.path(), self.server_id, |parts| {
            parts.drivers = BTreeMap::from([(DriverKind::Sim, Arc::clone(&self.driver))]).into();
            if let Some(store) = store {
                parts.store = store;
            }
        })
        .await;
        let (stop, task) = world::execute(&control, ("small", DriverKind::Sim, 0), 4).await;
        control.settle_plans().await.unwrap();
        Server { control, stop, task }
    }

    fn begun(&self) -> Vec<String> {
        self.seen.begun.lock().unwrap().clone()
    }
}

impl Server {
    async fn submit(&self, text: &str) -> PlanId {
        let plan = self
            .control
            .submit_plan(&me(), text.to_owned(), PlanFormat::Toml)
            .await;
        plan.unwrap_or_else(|error| panic!("{error}")).id
    }

    async fn until(&self, id: PlanId, what: impl Fn(&PlanView) -> bool) -> PlanView {
        let end = Instant::now() + LIMIT;
        loop {
            let plan = self.control.plan(&me(), id).await.unwrap();
            if what(&plan) {
                return plan;
            }
            assert!(Instant::now() < end, "it did not come to that: {plan:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ended(&self, id: PlanId) -> PlanView {
        self.until(id, |plan| plan.finished_at.is_some()).await
    }

    async fn tests(&self, id: PlanId, superseded: bool) -> Vec<TestView> {
        let query = TestQuery {
            superseded,
            limit: Some(1000),
            ..TestQuery::default()
        };
        let mut tests = self.control.plan_tests(&me(), id, query).await.unwrap();
        tests.sort_by_key(|test| (test.index, test.ordinal));
        tests
    }

    async fn states(&self, id: PlanId) -> Vec<(String, RunStatus)> {
        let tests = self.tests(id, false).await;
        tests.into_iter().map(|test| (test.name, test.status)).collect()
    }

    /// The kinds of the events of a plan, with what each is about.
    async fn events(&self, id: PlanId) -> Vec<(String, String)> {
        let mut after = 0;
        let mut found = Vec::new();
        loop {
            let page = self.control.store().events(None, after, 500).await.unwrap();
            let Some(last) = page.last() else { return found };
            after = last.seq;
            let of_plan = page.into_iter().filter(|e| e.event.subject == id.to_string());
            found.extend(of_plan.map(|e| {
                let about = e.event.data["run_id"].as_str().unwrap_or_default().to_owned();
                (e.event.kind, about)
            }));
        }
    }

    /// What must hold of every plan that ended: the counters, the history, the events and the runs say the same.
    async fn assert_consistent(&self, id: PlanId) -> PlanView {
        let plan = self.control.plan(&me(), id).await.unwrap();
        assert!(plan.finished_at.is_some());
        let runs = self.tests(id, true).await;
        let latest: Vec<&TestView> = runs.iter().filter(|run| !run.superseded).collect();
        assert_eq!(
            latest.len(),
            plan.tests as usize,
            "each test has one result: {runs:?}"
        );
        let mut counters = PlanCounters::default();
        for run in &latest {
            match run.status {
                RunStatus::Succeeded => counters.succeeded += 1,
                RunStatus::Failed => counters.failed += 1,
                RunStatus::TimedOut => counters.timed_out += 1,
                RunStatus::Cancelled => counters.cancelled += 1,
                RunStatus::Skipped => counters.skipped += 1,
                RunStatus::Lost => counters.lost += 1,
                live => panic!("{} is {live}", run.name),
            }
            let failed = matches!(
                run.status,
                RunStatus::Failed | RunStatus::TimedOut | RunStatus::Lost
            );
            counters.tolerated += u32::from(run.tolerated && failed);
        }
        assert_eq!(plan.counters, counters);
        let records: Vec<TestRecord> = self
            .control
            .store()
            .list(Filter::by("plan_id", id))
            .await
            .unwrap();
        let told: HashMap<_, _> = records
            .iter()
            .map(|r| (r.run_id, (r.status, r.superseded)))
            .collect();
        let wanted: HashMap<_, _> = runs
            .iter()
            .map(|r| (r.run_id, (r.status, r.superseded)))
            .collect();
        assert_eq!(told, wanted, "there is a row of the history for each run");
        let events = self.events(id).await;
        let mut finished: Vec<String> = events
            .iter()
            .filter(|(kind, _)| kind == "test.finished")
            .map(|(_, run)| run.clone())
            .collect();
        finished.sort();
        let mut all: Vec<String> = runs.iter().map(|run| run.run_id.to_string()).collect();
        all.sort();
        assert_eq!(finished, all, "each end is told once");
        let ends = events.iter().filter(|(kind, _)| kind == "plan.finished").count();
        assert_eq!(ends, 1);
        assert_eq!(events.last().unwrap().0, "plan.finished");
        plan
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.control.store().close().await;
    }

    /// As after a kill: nothing is told, nothing is waited for.
    async fn vanish(self) {
        self.task.abort();
        let _ = self.task.await;
        self.control.store().close().await;
    }
}

fn states(wanted: &[(&str, RunStatus)]) -> Vec<(String, RunStatus)> {
    wanted
        .iter()
        .map(|(name, status)| ((*name).to_owned(), *status))
        .collect()
}

async fn tests_run_after_what_they_need(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "order"
            [[tests]]
            name = "link"
            run = ["test", "link", 0, 0]
            needs = ["unit", "docs"]
            [[tests]]
            name = "unit"
            run = ["test", "unit", 0, 0.1]
            needs = ["build"]
            [[tests]]
            name = "docs"
            run = ["test", "docs", 0, 0]
            needs = ["build"]
            priority = 5
            [[tests]]
            name = "build"
            run = ["test", "build", 0, 0.05]
            "#,
        )
        .await;
    let waiting = server.control.explain_plan(&me(), id).await.unwrap();
    assert!(
        waiting
            .waiting
            .iter()
            .any(|wait| wait.reason.contains("they need `build`")),
        "{waiting:?}"
    );
    let plan = server.ended(id).await;
    assert_eq!((plan.status, plan.counters.succeeded), (PlanStatus::Passed, 4));
    let begun = world.begun();
    assert_eq!(
        (begun.len(), begun[0].as_str(), begun[3].as_str()),
        (4, "build", "link")
    );
    server.assert_consistent(id).await;
    let open = PlanQuery {
        status: Some(PlanStatus::Running),
        ..PlanQuery::default()
    };
    assert!(server.control.plans(&me(), open).await.unwrap().is_empty());
    server.stop().await;
    assert!(world.sim.ids().is_empty());
}

async fn a_failure_is_tried_again_and_a_pass_then_is_flaky(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "retries"
            [defaults]
            retries = 2
            [[tests]]
            name = "sometimes"
            run = ["test", "sometimes", 1, 0]
            [[tests]]
            name = "never"
            run = ["test", "never", 100, 0]
            [[tests]]
            name = "after"
            run = ["test", "after", 0, 0]
            needs = ["sometimes"]
            "#,
        )
        .await;
    let plan = server.ended(id).await;
    assert_eq!(plan.status, PlanStatus::Failed);
    assert_eq!((plan.counters.succeeded, plan.counters.failed), (2, 1));
    let runs: Vec<(String, u32, bool, bool)> = server
        .tests(id, true)
        .await
        .into_iter()
        .map(|test| (test.name, test.ordinal, test.superseded, test.flaky))
        .collect();
    let mut runs: Vec<(&str, u32, bool, bool)> = runs
        .iter()
        .map(|(name, o, s, f)| (name.as_str(), *o, *s, *f))
        .collect();
    runs.sort_unstable();
    assert_eq!(
        runs,
        [
            ("after", 1, false, false),
            ("never", 1, true, false),
            ("never", 2, true, false),
            ("never", 3, false, false),
            ("sometimes", 1, true, false),
            ("sometimes", 2, false, true),
        ]
    );
    server.assert_consistent(id).await;
    let flaky = server.control.flaky_tests(&me(), None).await.unwrap();
    assert_eq!(flaky.len(), 1, "{flaky:?}");
    assert_eq!(
        (flaky[0].name.as_str(), flaky[0].failed, flaky[0].runs),
        ("sometimes", 1, 2)
    );
    let identity = TestIdentity::Names {
        plan: "retries".into(),
        test: "never".into(),
    };
    let history = server.control.test_history(&me(), identity, None).await.unwrap();
    assert_eq!((history.runs.len(), history.pass_rate), (3, Some(0.0)));
    server.stop().await;
}

async fn what_needs_a_failure_is_skipped_unless_the_failure_is_tolerated(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "skips"
            [[tests]]
            name = "bad"
            run = ["test", "bad", 9, 0.05]
            [[tests]]
            name = "second"
            run = ["test", "second", 0, 0]
            needs = ["bad"]
            [[tests]]
            name = "third"
            run = ["test", "third", 0, 0]
            needs = ["second"]
            [[tests]]
            name = "known"
            run = ["test", "known", 9, 0]
            allow_failure = true
            [[tests]]
            name = "beside"
            run = ["test", "beside", 0, 0]
            needs = ["known"]
            "#,
        )
        .await;
    let plan = server.ended(id).await;
    assert_eq!(plan.status, PlanStatus::Failed);
    assert_eq!(
        server.states(id).await,
        states(&[
            ("bad", RunStatus::Failed),
            ("second", RunStatus::Skipped),
            ("third", RunStatus::Skipped),
            ("known", RunStatus::Failed),
            ("beside", RunStatus::Succeeded),
        ])
    );
    let why = server.tests(id, false).await[2].error.clone();
    assert_eq!(why.as_deref(), Some("it needs `second`, which was skipped"));
    server.assert_consistent(id).await;
    // Of a plan that has ended, what did not pass is executed again, without what did.
    let again = server.control.rerun_plan(&me(), id, true).await.unwrap();
    assert_eq!(
        (again.tests, again.labels["rerun-of"].as_str()),
        (4, id.to_string().as_str())
    );
    let again = server.ended(again.id).await;
    assert_eq!((again.status, again.counters.skipped), (PlanStatus::Failed, 2));
    let all = server.control.rerun_plan(&me(), id, false).await.unwrap();
    assert_eq!(all.tests, 5);
    server.ended(all.id).await;
    server.assert_consistent(all.id).await;
    let quiet = "name = 'known'\n[[tests]]\nname = 'q'\nrun = ['test', 'q', 9, 0]\nquarantined = true";
    let id = server.submit(quiet).await;
    assert_eq!(server.ended(id).await.status, PlanStatus::Passed);
    let error = server.control.rerun_plan(&me(), id, true).await;
    assert_eq!(error.unwrap().tests, 1, "a tolerated failure did not pass");
    server.stop().await;
}

async fn a_cancelled_plan_ends_with_all_that_it_has(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "cancel"
            [[tests]]
            name = "long"
            matrix = { n = [1, 2, 3, 4, 5, 6] }
            run = ["test", "long", 0, 600]
            [[tests]]
            name = "then"
            run = ["test", "then", 0, 0]
            needs = ["long"]
            "#,
        )
        .await;
    let plan = server.until(id, |plan| plan.counters.running == 4).await;
    assert_eq!((plan.counters.queued, plan.counters.held), (2, 1));
    let refused = server.control.rerun_plan(&me(), id, true).await.unwrap_err();
    assert!(refused.to_string().contains("still being executed"), "{refused}");
    server.control.cancel_plan(&me(), id).await.unwrap();
    let plan = server.ended(id).await;
    assert_eq!((plan.status, plan.counters.cancelled), (PlanStatus::Cancelled, 7));
    server.assert_consistent(id).await;
    let plan = server.control.cancel_plan(&me(), id).await.unwrap();
    assert_eq!(plan.status, PlanStatus::Cancelled, "too late is no error");
    server.stop().await;
    assert!(world.sim.ids().is_empty());
}

async fn the_first_failure_cancels_what_did_not_begin(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "fast"
            fail_fast = true
            max_parallel = 1
            [[tests]]
            name = "tolerated"
            run = ["test", "tolerated", 9, 0]
            allow_failure = true
            [[tests]]
            name = "good"
            run = ["test", "good", 1, 0]
            retries = 1
            [[tests]]
            name = "bad"
            run = ["test", "bad", 9, 0]
            [[tests]]
            name = "rest"
            matrix = { n = [1, 2, 3] }
            run = ["test", "rest", 0, 0]
            "#,
        )
        .await;
    let plan = server.ended(id).await;
    assert_eq!(plan.status, PlanStatus::Failed);
    let counters = plan.counters;
    assert_eq!(
        (counters.succeeded, counters.failed, counters.cancelled),
        (1, 2, 3)
    );
    assert_eq!(world.begun(), ["tolerated", "good", "good", "bad"]);
    server.assert_consistent(id).await;
    server.stop().await;
}

async fn no_more_run_at_a_time_than_the_plan_allows(world: World) {
    let server = world.start().await;
    let id = server
        .submit(
            r#"
            name = "narrow"
            max_parallel = 2
            [[tests]]
            name = "t"
            matrix = { n = [1, 2, 3, 4, 5, 6, 7, 8] }
            run = ["test", "t", 0, 0.03]
            [[tests]]
            name = "urgent"
            priority = 10
            run = ["test", "urgent", 0, 0.03]
            "#,
        )
        .await;
    // Whoever else settles must not make room that is not there.
    while server
        .control
        .plan(&me(), id)
        .await
        .unwrap()
        .finished_at
        .is_none()
    {
        let (a, b) = tokio::join!(server.control.settle_plan(id), server.control.settle_plan(id));
        a.unwrap();
        b.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let plan = server.assert_consistent(id).await;
    assert_eq!((plan.status, plan.counters.succeeded), (PlanStatus::Passed, 9));
    // On a busy machine one may end before the next begins.
    assert!(world.seen.most.load(Ordering::SeqCst) <= 2);
    assert!(world.begun()[..2].contains(&"urgent".to_owned()));
    server.stop().await;
}

const MIXED: &str = r#"
name = "mixed"
max_parallel = 3
[defaults]
retries = 1
[[tests]]
name = "build"
run = ["test", "build", 0, 0.02]
[[tests]]
name = "unit"
matrix = { n = [1, 2, 3, 4, 5] }
run = ["test", "unit-${matrix.n}", 0, 0.01]
needs = ["build"]
[[tests]]
name = "flaky"
run = ["exit", 1]
needs = ["build"]
[[tests]]
name = "after-flaky"
run = ["test", "after-flaky", 0, 0]
needs = ["flaky"]
[[tests]]
name = "last"
run = ["test", "last", 0, 0]
needs = ["unit"]
"#;

/// The one result that MIXED can have.
async fn assert_mixed(server: &Server, id: PlanId) {
    let plan = server.assert_consistent(id).await;
    assert_eq!(plan.status, PlanStatus::Failed);
    let counters = plan.counters;
    assert_eq!(
        (counters.succeeded, counters.failed, counters.skipped),
        (7, 1, 1),
        "{counters:?}"
    );
    let ordinals: Vec<u32> = server
        .tests(id, true)
        .await
        .into_iter()
        .filter(|test| test.name == "flaky")
        .map(|test| test.ordinal)
        .collect();
    assert_eq!(ordinals, [1, 2], "tried again once");
}

async fn many_who_settle_do_each_step_once(world: World) {
    let server = world.start().await;
    let id = server.submit(MIXED).await;
    let settling: Vec<JoinHandle<()>> = (0..4)
        .map(|_| {
            let control = server.control.clone();
            tokio::spawn(async move {
                while control.plan(&me(), id).await.unwrap().finished_at.is_none() {
                    control.settle_plan(id).await.unwrap();
                }
            })
        })
        .collect();
    for one in settling {
        one.await.unwrap();
    }
    assert_mixed(&server, id).await;
    server.stop().await;
}

async fn a_plan_goes_on_however_often_its_server_is_killed(world: World) {
    let mut server = world.start().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(server.submit(MIXED).await);
    }
    let cancelled = server.submit(MIXED).await;
    let mut kills = 0_u64;
    loop {
        // Each time somewhat later, so that the kills fall between different steps.
        tokio::time::sleep(Duration::from_millis(7 + (kills * 13) % 80)).await;
        if kills == 3 {
            // Whatever of this is written is enough.
            let control = server.control.clone();
            let cancel = tokio::spawn(async move { control.cancel_plan(&me(), cancelled).await.map(drop) });
            tokio::time::sleep(Duration::from_millis(5)).await;
            cancel.abort();
        }
        let open = PlanQuery {
            status: Some(PlanStatus::Running),
            ..PlanQuery::default()
        };
        let open = server.control.plans(&me(), open).await.unwrap();
        if open.is_empty() || kills == 40 {
            break;
        }
        server.vanish().await;
        kills += 1;
        server = world.start().await;
    }
    assert!(kills >= 3, "only {kills} kills");
    for id in ids {
        server.ended(id).await;
        assert_mixed(&server, id).await;
    }
    server.ended(cancelled).await;
    server.assert_consistent(cancelled).await;
    server.stop().await;
}

async fn a_plan_that_cannot_be_is_refused_with_the_places_of_its_mistakes(world: World) {
    let server = world.start().await;
    let submit = |text: &'static str, format| {
        let control = server.control.clone();
        async move {
            control
                .submit_plan(&me(), text.to_owned(), format)
                .await
                .unwrap_err()
        }
    };
    let error = submit(
        "name = 'x'\n[[tests]]\nname = 't'\nrum = 'true'\n",
        PlanFormat::Toml,
    )
    .await;
    let details = error.details().unwrap();
    assert_eq!(details["errors"][0]["line"], 4, "{details}");
    assert_eq!(
        details["errors"][0]["suggestion"], "did you mean `run`?",
        "{details}"
    );
    assert_eq!(error.code(), ostler_contracts::ErrorCode::InvalidRequest);
    let huge = r#"{"name": "x", "tests": [{"name": "t", "run": "true", "requires": {"cpus": 64}}]}"#;
    let error = submit(huge, PlanFormat::Json).await;
    assert_eq!(error.code(), ostler_contracts::ErrorCode::Unprocessable);
    let text = error.to_string();
    assert!(
        text.contains("small: the number of CPUs is 1, less than 64"),
        "{text}"
    );
    assert!(
        server
            .control
            .plans(&me(), PlanQuery::default())
            .await
            .unwrap()
            .is_empty()
    );
    server.stop().await;
}

macro_rules! on_both_stores {
    ($($name:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::World::new(None)).await;
            })*
        }

        mod on_postgresql {
            use ostler_test_kit::{Postgres, require};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                require!(Postgres);
                super::$name(super::World::new(Some(Postgres::shared()))).await;
            })*
        }
    };
}

on_both_stores! {
    tests_run_after_what_they_need,
    a_failure_is_tried_again_and_a_pass_then_is_flaky,
    what_needs_a_failure_is_skipped_unless_the_failure_is_tolerated,
    a_cancelled_plan_ends_with_all_that_it_has,
    the_first_failure_cancels_what_did_not_begin,
    no_more_run_at_a_time_than_the_plan_allows,
    many_who_settle_do_each_step_once,
    a_plan_goes_on_however_often_its_server_is_killed,
    a_plan_that_cannot_be_is_refused_with_the_places_of_its_mistakes,
}
