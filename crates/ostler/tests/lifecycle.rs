//! The life of sandboxes over real drivers and both stores: filled, claimed, checked, replaced, ended; and crashes.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_agents::{KindSettings, Kinds, Prompts};
use ostler_control::{
    Caller, Control, DriverHost, Drivers, Executor, ExecutorSettings, LOCAL, LogStore, NewAgent, NewCommand,
    Parts, PoolChange, SandboxSettings, WorkSettings,
};
use ostler_domain::{
    CommandSpec, DriverKind, Pool, Requirements, Run, RunStatus, Sandbox, SandboxId, SandboxStatus,
    SandboxTemplate, ServerId, SystemClock,
};
use ostler_driver_docker::{DockerDriver, DockerOptions};
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_driver_qemu::{QemuDriver, QemuOptions};
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories};
use ostler_sandbox::Driver;
use ostler_store::{Filter, Store, StoreExt};
use ostler_store_postgres::PostgresStore;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use ostler_test_kit::{DockerEngine, MachineParts, Postgres, require};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);
const POOL: &str = "life";

fn me() -> Caller {
    Caller::administrator()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A driver with what its sandboxes are started from.
struct Place {
    driver: Arc<dyn Driver>,
    template: SandboxTemplate,
    /// A program that takes longer than the test takes to look.
    long: Vec<String>,
    /// A program that takes a moment.
    short: Vec<String>,
}

/// A server's control plane over one driver.
struct World {
    control: Control,
    driver: Arc<dyn Driver>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    async fn start(dir: &Path, store: Arc<dyn Store>, place: &Place, target: u32) -> Self {
        store.migrate_up(None).await.unwrap();
        let host = DriverHost {
            kind: place.driver.kind(),
            name: LOCAL.into(),
            driver: Arc::clone(&place.driver),
        };
        let control = Control::new(Parts {
            store,
            clock: Arc::new(SystemClock),
            repositories: Repositories::open(&dir.join("repositories"), Git::new(), ForgeOptions::default())
                .unwrap(),
            kinds: Kinds::new(KindSettings::default()),
            prompts: Prompts::embedded().unwrap(),
            work: WorkSettings {
                backoff_first_seconds: 0.01,
                backoff_max_seconds: 0.01,
                ..WorkSettings::default()
            },
            drivers: Drivers::new(vec![host]),
            sandboxes: SandboxSettings {
                health_limit_seconds: 1,
                ..SandboxSettings::default()
            },
            logs: LogStore::open(dir.join("logs"), 1 << 20).unwrap(),
            server_id: ServerId::new(),
        });
        control.ensure_default_tenant().await.unwrap();
        let change = PoolChange {
            template: Some(place.template.clone()),
            target: Some(target),
            max: Some(6),
            ..PoolChange::default()
        };
        control.set_pool(&me(), POOL, change).await.unwrap();
        let settings = ExecutorSettings {
            slots: 2,
            kill_grace_seconds: 1,
            shutdown_seconds: 0,
            ..ExecutorSettings::default()
        };
        let executor = Executor::new(control.clone(), settings);
        executor.recover().await.unwrap();
        let stop = CancellationToken::new();
        let watched = control.clone();
        let until = stop.clone();
        let tasks = vec![
            tokio::spawn(executor.run(stop.clone())),
            tokio::spawn(async move { watched.watch_drivers(until).await }),
        ];
        Self {
            control,
            driver: Arc::clone(&place.driver),
            stop,
            tasks,
        }
    }

    async fn warm(&self) -> u32 {
        let pools = self.control.pools(&me()).await.unwrap();
        pools.iter().find(|(pool, _)| pool.name == POOL).unwrap().1.warm
    }

    async fn sandbox(&self, id: SandboxId) -> Sandbox {
        self.control.sandbox(&me(), id).await.unwrap()
    }

    async fn submit(&self, argv: &[String]) -> Run {
        let new = NewCommand {
            command: CommandSpec {
                argv: argv.to_vec(),
                ..CommandSpec::default()
            },
            requirements: Requirements {
                pool: Some(POOL.into()),
                ..Requirements::default()
            },
            ..NewCommand::default()
        };
        self.control.submit_run(&me(), new).await.unwrap()
    }

    async fn until(&self, run: &Run, what: impl Fn(&Run) -> bool) -> Run {
        let end = Instant::now() + LIMIT;
        loop {
            let run = self.control.run(&me(), run.submitted.id).await.unwrap();
            if what(&run) {
                return run;
            }
            assert!(Instant::now() < end, "it did not come to that: {run:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The sandbox of a run, once its programs run there.
    async fn carried_by(&self, run: &Run) -> SandboxId {
        let running = self.until(run, |run| run.sandbox_id.is_some()).await;
        if self.driver.kind() == DriverKind::Sim {
            tokio::time::sleep(Duration::from_millis(300)).await;
        } else {
            let end = Instant::now() + LIMIT;
            while !said(self, &running).await.contains("started") {
                assert!(Instant::now() < end, "its program did not start");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        running.sandbox_id.unwrap()
    }

    /// Ends everything, and checks that the driver has nothing left.
    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.control.end_sandboxes().await.unwrap();
        assert_eq!(self.driver.list().await.unwrap(), Vec::new());
        self.control.store().close().await;
    }
}

async fn lifecycle(place: &Place, store: Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::start(dir.path(), store, place, 2).await;
    let control = &world.control;

    // The pool is filled, a claim takes a warm one, and the pool is filled again.
    assert_eq!(control.fill_pools().await.unwrap(), 2);
    assert_eq!(world.warm().await, 2);
    let department = control.create_department(&me(), "kernel").await.unwrap();
    let new = NewAgent {
        department_id: Some(department.id),
        pool: Some(POOL.into()),
        config: json!({ "env": { "COLOUR": "green" } }),
        tool_allowlist: Some(words(&["bd ready"])),
        ..NewAgent::default()
    };
    let claimed = control.provision_agent(&me(), new).await.unwrap();
    assert_eq!(claimed.cold_reason, None, "it was cold");
    let names: Vec<&str> = claimed.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["claim", "check"]);
    assert_eq!(world.warm().await, 1);
    assert_eq!(control.fill_pools().await.unwrap(), 1);
    assert_eq!(world.warm().await, 2);

    // A healthy check stamps the time.
    let held = claimed.sandbox;
    let before = world.sandbox(held.id).await.checked_at;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(control.check_health().await.unwrap(), 0);
    let after = world.sandbox(held.id).await.checked_at;
    assert!(after > before, "{before:?}, then {after:?}");

    // Two failures are borne and forgotten; the third in a row is not.
    world.driver.pause(held.id).await.unwrap();
    for failures in 1..=2 {
        assert_eq!(control.check_health().await.unwrap(), 1);
        let found = world.sandbox(held.id).await;
        assert_eq!((found.failures, found.status), (failures, SandboxStatus::Running));
    }
    world.driver.resume(held.id).await.unwrap();
    assert_eq!(control.check_health().await.unwrap(), 0);
    assert_eq!(world.sandbox(held.id).await.failures, 0);
    world.driver.pause(held.id).await.unwrap();
    for _ in 0..3 {
        control.check_health().await.unwrap();
    }
    let lost = world.sandbox(held.id).await;
    assert_eq!(lost.status, SandboxStatus::Destroyed);
    let agents = control.agents(&me()).await.unwrap();
    let [replacement] = &agents[..] else {
        panic!("{agents:#?}");
    };
    assert_ne!(replacement.id, held.id);
    assert!(
        lost.reason
            .as_ref()
            .unwrap()
            .contains(&replacement.id.to_string()),
        "{lost:?}"
    );
    assert_eq!(replacement.department_id, Some(department.id));
    assert_eq!(replacement.config, held.config);
    assert_eq!(replacement.tool_allowlist, held.tool_allowlist);
    assert!(
        !world.driver.list().await.unwrap().contains(&held.id),
        "it is still there"
    );

    // The run of an unhealthy sandbox goes back to the queue, and is finished in another one.
    let run = world.submit(&place.short).await;
    let carrier = world.carried_by(&run).await;
    world.driver.pause(carrier).await.unwrap();
    for _ in 0..3 {
        control.check_health().await.unwrap();
    }
    let ended = world.until(&run, |run| run.status.is_terminal()).await;
    assert_eq!(
        (ended.status, ended.attempt),
        (RunStatus::Succeeded, 2),
        "{ended:?}"
    );
    assert_ne!(ended.sandbox_id, Some(carrier));

    // Ending is repeatable.
    for _ in 0..2 {
        control.destroy_agent(&me(), replacement.id).await.unwrap();
    }
    assert_eq!(
        world.sandbox(replacement.id).await.status,
        SandboxStatus::Destroyed
    );
    world.end().await;
}

/// The end of a sandbox's first process is noticed at once: by the run that it carries, and by who holds it.
async fn crash(place: &Place, store: Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::start(dir.path(), store, place, 0).await;
    let run = world.submit(&place.long).await;
    let carrier = world.carried_by(&run).await;
    let killed = Instant::now();
    kill_first_process(carrier);
    let ended = world.until(&run, |run| run.status.is_terminal()).await;
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        killed.elapsed()
    );
    assert_eq!(ended.status, RunStatus::Failed, "{ended:?}");
    let error = ended.outcome.error.clone().unwrap();
    assert!(
        error.starts_with("killed") || error.starts_with("crash"),
        "{error}"
    );
    let log = said(&world, &ended).await;
    assert!(log.contains(&error), "the log does not say `{error}`: {log}");

    let new = NewAgent {
        pool: Some(POOL.into()),
        ..NewAgent::default()
    };
    let held = world.control.provision_agent(&me(), new).await.unwrap().sandbox;
    kill_first_process(held.id);
    let end = Instant::now() + LIMIT;
    let replacement = loop {
        let agents = world.control.agents(&me()).await.unwrap();
        if let [agent] = &agents[..]
            && agent.id != held.id
        {
            break agent.clone();
        }
        assert!(Instant::now() < end, "nothing took its place: {agents:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(replacement.status, SandboxStatus::Running);
    world.end().await;
}

/// The log of a run so far.
async fn said(world: &World, run: &Run) -> String {
    let Some(mut log) = world.control.run_log(&me(), run.submitted.id).await.unwrap() else {
        return String::new();
    };
    let mut said = String::new();
    loop {
        let records = log.next_batch().unwrap();
        if records.is_empty() {
            return said;
        }
        for record in records {
            said.push_str(&String::from_utf8_lossy(&record.bytes));
        }
    }
}

/// Kills the process of this host that a sandbox hangs on.
fn kill_first_process(id: SandboxId) {
    let id = id.to_string();
    let knows = |pid: i32| {
        ["environ", "cmdline"].iter().any(|file| {
            std::fs::read(format!("/proc/{pid}/{file}"))
                .is_ok_and(|text| text.windows(id.len()).any(|window| window == id.as_bytes()))
        })
    };
    // The first one in a PID namespace of its own, or a machine's own process.
    let is_first = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().skip(1).last());
        let machine =
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"));
        inner == Some("1") || machine
    };
    let first = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| knows(*pid) && is_first(*pid));
    let pid = first.unwrap_or_else(|| panic!("no process of {id}"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn sqlite(dir: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(dir.join("db"), SqliteOptions::default()).unwrap())
}

/// The server ends with the last of those who use it.
async fn postgres() -> (Postgres, Arc<dyn Store>) {
    let server = Postgres::shared();
    let url = server.database();
    let store = PostgresStore::connect(&url, ostler_store_postgres::Options::default())
        .await
        .unwrap();
    (server, Arc::new(store))
}

fn sim() -> Place {
    let driver = SimDriver::new(SimControl::new());
    Place {
        template: SandboxTemplate::new(driver.kind()),
        driver: Arc::new(driver),
        long: words(&["sleep", "600"]),
        short: words(&["sleep", "2"]),
    }
}

fn shell(driver: impl Driver, image: Option<String>) -> Place {
    let mut template = SandboxTemplate::new(driver.kind());
    template.image = image;
    template.memory_mb = 256;
    Place {
        template,
        driver: Arc::new(driver),
        long: words(&["sh", "-c", "echo started; sleep 600"]),
        short: words(&["sh", "-c", "echo started; sleep 2"]),
    }
}

fn instance() -> String {
    ServerId::new().to_string().replace('_', "-")
}

async fn process(dir: &Path) -> Place {
    let guest = ostler_guest_binary::install(&dir.join("guest")).unwrap();
    let mut options = ProcessOptions::new(instance(), dir.join("sandboxes"), guest);
    options.mode = Mode::Namespaces;
    shell(ProcessDriver::open(options).await.unwrap(), None)
}

async fn qemu(dir: &Path) -> Place {
    let guest = ostler_guest_binary::install(&dir.join("guest")).unwrap();
    let parts = MachineParts::find().unwrap();
    let mut options = QemuOptions::new(instance(), dir.join("sandboxes"), guest);
    options.kernel = Some(parts.kernel.clone());
    options.modules.clone_from(&parts.modules);
    let mut place = shell(QemuDriver::open(options).await.unwrap(), None);
    place.template.root_drive = Some(parts.root_drive.display().to_string());
    place
}

async fn docker(dir: &Path, engine: &DockerEngine) -> Place {
    let guest = ostler_guest_binary::install(&dir.join("guest")).unwrap();
    let mut options = DockerOptions::new(instance(), dir.join("sandboxes"), guest);
    options.engine = engine.url();
    shell(
        DockerDriver::open(options).await.unwrap(),
        Some(engine.base_image()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sim() {
    let dir = tempfile::tempdir().unwrap();
    lifecycle(&sim(), sqlite(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sim_with_postgres() {
    require!(Postgres);
    lifecycle(&sim(), postgres().await.1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_process() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let place = process(dir.path()).await;
    lifecycle(&place, sqlite(dir.path())).await;
    crash(&place, sqlite(&dir.path().join("guest"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_process_with_postgres() {
    require!(Bubblewrap, Postgres);
    let dir = tempfile::tempdir().unwrap();
    let place = process(dir.path()).await;
    lifecycle(&place, postgres().await.1).await;
    crash(&place, postgres().await.1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_docker() {
    require!(BaseImage);
    let (dir, engine) = (tempfile::tempdir().unwrap(), DockerEngine::start());
    let place = docker(dir.path(), &engine).await;
    lifecycle(&place, sqlite(dir.path())).await;
    crash(&place, sqlite(&dir.path().join("guest"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_docker_with_postgres() {
    require!(BaseImage, Postgres);
    let (dir, engine) = (tempfile::tempdir().unwrap(), DockerEngine::start());
    let place = docker(dir.path(), &engine).await;
    lifecycle(&place, postgres().await.1).await;
    crash(&place, postgres().await.1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_qemu() {
    require!(Qemu);
    let dir = tempfile::tempdir().unwrap();
    let place = qemu(dir.path()).await;
    lifecycle(&place, sqlite(dir.path())).await;
    crash(&place, sqlite(&dir.path().join("guest"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_qemu_with_postgres() {
    require!(Qemu, Postgres);
    let dir = tempfile::tempdir().unwrap();
    let place = qemu(dir.path()).await;
    lifecycle(&place, postgres().await.1).await;
    crash(&place, postgres().await.1).await;
}

/// An idle sandbox of a tenant is frozen, woken by its next use, and ended when nobody comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sandboxes_are_frozen_woken_and_ended() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let place = process(dir.path()).await;
    let world = World::start(dir.path(), sqlite(dir.path()), &place, 0).await;
    let control = &world.control;
    let new = NewAgent {
        pool: Some(POOL.into()),
        config: json!({ "idle_pause_seconds": 1, "idle_destroy_seconds": 3 }),
        ..NewAgent::default()
    };
    let id = control.provision_agent(&me(), new).await.unwrap().sandbox.id;
    assert_eq!(control.mind_idle().await.unwrap(), 0, "it was used just now");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(control.mind_idle().await.unwrap(), 1);
    assert_eq!(
        world.sandbox(id).await.paused,
        Some(ostler_domain::PausedBy::Idle)
    );
    // A frozen one is not unhealthy.
    assert_eq!(control.check_health().await.unwrap(), 0);
    control
        .download_from_agent(&me(), id, "/etc/passwd", false)
        .await
        .unwrap();
    assert_eq!(world.sandbox(id).await.paused, None);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(control.mind_idle().await.unwrap(), 1);
    let gone = world.sandbox(id).await;
    assert_eq!(gone.status, SandboxStatus::Destroyed);
    assert!(gone.reason.unwrap().contains("nobody used it"));
    world.end().await;
}

/// Failures of a host put it into quarantine; what it cannot start is told with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_cannot_be_filled_says_why_and_does_not_churn() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, place) = {
        let sim = SimControl::new();
        let driver = SimDriver::new(sim.clone());
        let mut place = self::sim();
        place.driver = Arc::new(driver);
        (sim, place)
    };
    let world = World::start(dir.path(), sqlite(dir.path()), &place, 2).await;
    let control = &world.control;
    sim.fail_starts(ostler_driver_sim::Often::Always);
    for _ in 0..5 {
        assert_eq!(control.fill_pools().await.unwrap(), 0);
    }
    let pool: Pool = control
        .store()
        .first(Filter::by("name", POOL.to_owned()))
        .await
        .unwrap()
        .unwrap();
    assert!((1..=2).contains(&pool.failures), "{pool:?}");
    let told = control.explain_pool(&me(), POOL).await.unwrap();
    assert!(
        told.summary.contains("cannot be filled") && told.reasons[0].contains("failures in a row"),
        "{told:?}"
    );
    world.end().await;
}
