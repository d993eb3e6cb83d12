//! What is told of tests besides their results: figures that equal the database at any moment, what became worse, what is
//! flaky or in quarantine, whose fault a failure was, and files whose time is over.

#![allow(clippy::unwrap_used, reason = "test code")]

mod world;

use bytes::Bytes;
use ostler_artifacts::{ArtifactSettings, ArtifactStore};
use ostler_contracts::{PlanCounters, PlanStatus, PlanView, TestView};
use ostler_control::{Control, PlanFormat, TestIdentity, TestQuery};
use ostler_domain::{
    Artifact, ArtifactId, Clock, DriverKind, FailureClass, Measure, PlanId, RunId, RunStatus, ServerId,
    SystemClock, TenantId, TestRecord, Timestamp,
};
use ostler_driver_sim::{Program, SimControl, SimDriver};
use ostler_sandbox::{Driver, ExitInfo};
use ostler_store::{Change, Filter, RunFilter, StoreExt};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use world::me;

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    dir: tempfile::TempDir,
    sim: SimControl,
    driver: Arc<dyn Driver>,
    server_id: ServerId,
}

struct Server {
    control: Control,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// `test CODE SECONDS`.
fn program() -> Program {
    Program::new(|invocation| async move {
        let argument = |at: usize| invocation.argv.get(at).cloned().unwrap_or_default();
        let seconds = argument(2).parse().unwrap_or(0.0);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        argument(1).parse().unwrap_or(0)
    })
}

impl World {
    fn new() -> Self {
        let sim = SimControl::new();
        sim.program("test", program());
        Self {
            dir: tempfile::tempdir().unwrap(),
            driver: Arc::new(SimDriver::new(sim.clone())),
            sim,
            server_id: ServerId::new(),
        }
    }

    async fn start(&self, attempts: u32) -> Server {
        let control = world::server(self.dir.path(), self.server_id, |parts| {
            parts.drivers = BTreeMap::from([(DriverKind::Sim, Arc::clone(&self.driver))]).into();
            parts.work.run_attempts = attempts;
        })
        .await;
        let (stop, task) = world::execute(&control, ("small", DriverKind::Sim, 0), 4).await;
        control.settle_plans().await.unwrap();
        Server { control, stop, task }
    }
}

impl Server {
    async fn submit(&self, text: &str) -> PlanId {
        let text = text.to_owned();
        let plan = self.control.submit_plan(&me(), text, PlanFormat::Yaml).await;
        plan.unwrap_or_else(|error| panic!("{error}")).id
    }

    async fn ended(&self, id: PlanId) -> PlanView {
        let end = Instant::now() + LIMIT;
        loop {
            let plan = self.control.plan(&me(), id).await.unwrap();
            if plan.finished_at.is_some() {
                return plan;
            }
            assert!(Instant::now() < end, "it does not end: {plan:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn tests(&self, id: PlanId) -> Vec<TestView> {
        let query = TestQuery {
            limit: Some(1000),
            ..TestQuery::default()
        };
        let mut tests = self.control.plan_tests(&me(), id, query).await.unwrap();
        tests.sort_by_key(|test| test.index);
        tests
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.control.store().close().await;
    }
}

/// The rows of a plan, and what they say.
async fn rows(server: &Server, plan: PlanId) -> (Vec<(RunId, RunStatus, u32)>, PlanCounters) {
    let filter = RunFilter {
        plan_id: Some(plan),
        limit: 1000,
        ..RunFilter::default()
    };
    let mut counters = PlanCounters::default();
    let mut rows = Vec::new();
    for run in server.control.store().runs(filter).await.unwrap() {
        rows.push((run.submitted.id, run.status, run.attempt));
        if run.outcome.test.as_ref().is_some_and(|test| test.superseded) {
            continue;
        }
        let place = match run.status {
            RunStatus::Queued if run.submitted.held => &mut counters.held,
            RunStatus::Queued => &mut counters.queued,
            RunStatus::Running => &mut counters.running,
            RunStatus::Succeeded => &mut counters.succeeded,
            RunStatus::Failed => &mut counters.failed,
            RunStatus::TimedOut => &mut counters.timed_out,
            RunStatus::Cancelled => &mut counters.cancelled,
            RunStatus::Skipped => &mut counters.skipped,
            RunStatus::Lost => &mut counters.lost,
        };
        *place += 1;
    }
    (rows, counters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_equal_the_rows_at_every_step() {
    let world = World::new();
    let server = world.start(3).await;
    let mut text = "name: many\nmax_parallel: 8\ntests:\n".to_owned();
    for n in 0..60 {
        let needs = if n % 7 == 6 {
            format!(", needs: [t{}]", n - 1)
        } else {
            String::new()
        };
        let (code, seconds, retries) = (i32::from(n % 5 == 0), n % 4, n % 2);
        writeln!(
            text,
            "- {{name: t{n}, run: [test, {code}, 0.0{seconds}], retries: {retries}{needs}}}"
        )
        .unwrap();
    }
    let id = server.submit(&text).await;
    let (mut compared, mut seen) = (0, Vec::new());
    loop {
        // No row is ever again as it was: where they are the same before and after, they were the same meanwhile.
        let before = rows(&server, id).await;
        let plan = server.control.plan(&me(), id).await.unwrap();
        let after = rows(&server, id).await;
        let all = plan.counters;
        let sum =
            all.live() + all.succeeded + all.failed + all.timed_out + all.cancelled + all.skipped + all.lost;
        assert_eq!(sum, 60, "each test is counted once: {all:?}");
        if before == after {
            assert_eq!(all, after.1);
            compared += 1;
            if !seen.contains(&all) {
                seen.push(all);
            }
        }
        if plan.finished_at.is_some() {
            break;
        }
    }
    assert!(
        compared > 3 && seen.len() > 2,
        "{compared} samples, {} different",
        seen.len()
    );
    let orchestrator = server.control.orchestrator(&me()).await.unwrap();
    let all = server.control.store().counters(None).await.unwrap();
    let of = |status| all.get(&status).copied().unwrap_or_default();
    assert_eq!((orchestrator.queued, orchestrator.active), (0, 0));
    assert_eq!(orchestrator.completed, all.values().sum::<i64>());
    assert_eq!(orchestrator.failed, of(RunStatus::Failed));
    let metrics = server.control.metrics(&me()).await.unwrap();
    for status in RunStatus::ALL {
        let line = format!("ostler_runs{{status=\"{status}\"}} {}\n", of(*status));
        assert!(metrics.contains(&line), "no `{line}`: {metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_clearly_slower_is_said_with_the_result() {
    let world = World::new();
    let server = world.start(3).await;
    let run = async |seconds: f64| {
        let text = format!("name: p\ntests: [{{name: t, run: [test, 0, {seconds}]}}]");
        let id = server.submit(&text).await;
        server.ended(id).await;
        server.tests(id).await.remove(0).regressions
    };
    for _ in 0..6 {
        assert!(run(0.01).await.is_empty());
    }
    assert_eq!(run(2.5).await, [Measure::Duration]);
    let test = || TestIdentity::Names {
        plan: "p".into(),
        test: "t".into(),
    };
    let history = server.control.test_history(&me(), test(), None).await.unwrap();
    assert!(history.duration.unwrap().regression, "{history:?}");
    let chart = server
        .control
        .test_chart(&me(), test(), Measure::Duration, None)
        .await
        .unwrap();
    assert_eq!(chart.points.len(), 7);
    let (last, before) = chart.points.split_last().unwrap();
    assert!(
        last.regression && last.value > last.high.unwrap() as u64,
        "{last:?}"
    );
    assert!(before.iter().all(|point| !point.regression), "{before:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_is_the_infrastructure_s_fault_and_costs_no_retry_of_the_test() {
    let world = World::new();
    for (attempts, wanted) in [(1, RunStatus::Lost), (3, RunStatus::Succeeded)] {
        let server = world.start(attempts).await;
        let id = server
            .submit("name: p\ntests: [{name: t, run: [test, 0, 1]}, {name: bad, run: [test, 1, 0]}]")
            .await;
        let end = Instant::now() + LIMIT;
        while server.tests(id).await[0].sandbox_id.is_none() {
            assert!(Instant::now() < end, "it does not begin");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The server is killed, and meanwhile its machine is, too.
        server.task.abort();
        let _ = server.task.await;
        server.control.store().close().await;
        for sandbox in world.sim.ids() {
            world.sim.crash(sandbox, ExitInfo::default());
        }
        let server = world.start(attempts).await;
        server.ended(id).await;
        let tests = server.tests(id).await;
        let test = &tests[0];
        assert_eq!((test.status, test.ordinal), (wanted, 1), "{test:?}");
        match wanted {
            RunStatus::Lost => assert_eq!(test.failure, Some(FailureClass::Infrastructure)),
            _ => assert_eq!((test.failure, test.attempt), (None, 2)),
        }
        assert_eq!(tests[1].failure, Some(FailureClass::Test), "{tests:?}");
        server.stop().await;
    }
}

fn record(name: &str, status: RunStatus, revision: &str, at: Timestamp) -> TestRecord {
    TestRecord {
        run_id: RunId::new(),
        tenant_id: TenantId::DEFAULT,
        key: format!("key of {name}"),
        plan_id: PlanId::new(),
        plan: "p".into(),
        name: name.into(),
        ordinal: 1,
        status,
        tolerated: false,
        superseded: false,
        flaky: false,
        duration_us: 1,
        cpu_us: 0,
        peak_memory_bytes: 0,
        revision: Some(revision.into()),
        created_at: at,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_outcomes_on_one_commit_are_flaky_and_quarantine_lasts_until_it_is_lifted() {
    let world = World::new();
    let server = world.start(3).await;
    let now = SystemClock.now();
    let records = [
        record("unstable", RunStatus::Succeeded, "a", now),
        record("unstable", RunStatus::Failed, "a", now),
        record("unstable", RunStatus::TimedOut, "b", now),
        record("broken", RunStatus::Succeeded, "a", now),
        record("broken", RunStatus::Failed, "b", now),
    ];
    server
        .control
        .store()
        .commit(records.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let flaky = server.control.flaky_tests(&me(), None).await.unwrap();
    assert_eq!(flaky.len(), 1, "{flaky:?}");
    assert_eq!(
        (flaky[0].name.as_str(), flaky[0].both, flaky[0].flaky),
        ("unstable", 1, 0)
    );
    assert!(!flaky[0].quarantined);
    let by_key = TestIdentity::Key("key of unstable".into());
    let listed = server
        .control
        .quarantine_test(&me(), by_key, "why".into())
        .await
        .unwrap();
    assert_eq!((listed.plan.as_str(), listed.name.as_str()), ("p", "unstable"));
    assert!(server.control.flaky_tests(&me(), None).await.unwrap()[0].quarantined);

    let text = "name: p\ntests: [{name: bad, run: [test, 1, 0]}]";
    let status = async |id: PlanId| server.ended(id).await.status;
    assert_eq!(status(server.submit(text).await).await, PlanStatus::Failed);
    let bad = || TestIdentity::Names {
        plan: "p".into(),
        test: "bad".into(),
    };
    let listed = server
        .control
        .quarantine_test(&me(), bad(), String::new())
        .await
        .unwrap();
    let id = server.submit(text).await;
    assert_eq!(status(id).await, PlanStatus::Passed);
    assert_eq!(
        server.control.plan(&me(), id).await.unwrap().counters.tolerated,
        1
    );
    server.control.release_test(&me(), &listed.key).await.unwrap();
    assert!(server.control.release_test(&me(), &listed.key).await.is_err());
    assert_eq!(status(server.submit(text).await).await, PlanStatus::Failed);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_whose_time_is_over_go_with_their_records() {
    let dir = tempfile::tempdir().unwrap();
    let control = world::server(dir.path(), ServerId::new(), |_| {}).await;
    let settings = ArtifactSettings {
        keep_days: 10,
        max_total_gb: 1,
        ..ArtifactSettings::default()
    };
    let place = dir.path().join("artifacts");
    let store = ArtifactStore::open(&settings, place.clone()).unwrap();
    let control = control.with_artifacts(store.clone(), settings.clone());
    let day = Duration::from_secs(86_400);
    let now = SystemClock.now();
    let keep = async |age: u32| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, "f", &b"abc"[..]).unwrap();
        let archive = Bytes::from(archive.into_inner().unwrap());
        let stream = futures::stream::iter([Ok::<_, std::io::Error>(archive)]);
        let run = RunId::new();
        let at = now.minus(day * age);
        let kept = store.put(run, settings.limits(None, None), at, stream).await;
        let artifact = Artifact {
            id: ArtifactId::new(),
            tenant_id: TenantId::DEFAULT,
            run_id: run,
            plan_id: None,
            path: "f".into(),
            bytes: 3,
            sha256: kept.files[0].sha256.clone(),
            object: kept.files[0].place.to_string(),
            created_at: kept.created_at,
            expires_at: None,
        };
        let change = vec![Change::insert(&artifact)];
        control.store().commit(change).await.unwrap();
        (run, place.join(&kept.files[0].place.key))
    };
    let left = async || -> Vec<RunId> {
        let all = control
            .store()
            .list(Filter::<Artifact>::all().order_by("created_at"));
        all.await
            .unwrap()
            .into_iter()
            .map(|artifact| artifact.run_id)
            .collect()
    };
    let (old, middle, new) = (keep(11).await, keep(5).await, keep(1).await);
    assert_eq!(left().await.len(), 3);
    assert_eq!(control.expire_artifacts().await.unwrap(), 1, "by age");
    assert_eq!(left().await, [middle.0, new.0]);
    assert!(!old.1.exists() && middle.1.exists() && new.1.exists());
    // All together are too large now.
    let large = std::fs::File::options().write(true).open(&new.1).unwrap();
    large.set_len(1 << 30).unwrap();
    assert_eq!(control.expire_artifacts().await.unwrap(), 1, "by size");
    assert_eq!(left().await, [new.0]);
    assert!(!middle.1.exists() && new.1.exists());
    control.store().close().await;
}
