//! The executor over the sim driver and a real store: from the queue to the one end of a run.

#![allow(clippy::unwrap_used, reason = "test code")]

mod scheduling;
#[path = "../world/mod.rs"]
mod world;

use ostler_control::{Control, LogStream, NewCommand, PoolChange};
use ostler_domain::{CommandSpec, DriverKind, Requirements, Run, RunId, RunStatus, SandboxStatus, ServerId};
use ostler_driver_sim::{Often, Program, SimControl, SimDriver};
use ostler_sandbox::Driver;
use std::collections::BTreeMap;
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

impl World {
    fn new() -> Self {
        let sim = SimControl::new();
        Self {
            dir: tempfile::tempdir().unwrap(),
            driver: Arc::new(SimDriver::new(sim.clone())),
            sim,
            server_id: ServerId::new(),
        }
    }

    async fn start(&self) -> Server {
        let control = world::server(self.dir.path(), self.server_id, |parts| {
            parts.drivers = BTreeMap::from([(DriverKind::Sim, Arc::clone(&self.driver))]).into();
        })
        .await;
        let (stop, task) = world::execute(&control, ("small", DriverKind::Sim, 0), 4).await;
        Server { control, stop, task }
    }
}

impl Server {
    async fn submit(&self, argv: &[&str], timeout: Option<Duration>) -> RunId {
        let command = CommandSpec {
            argv: argv.iter().map(|s| (*s).to_owned()).collect(),
            ..CommandSpec::default()
        };
        let new = NewCommand {
            command,
            timeout,
            ..NewCommand::default()
        };
        self.control.submit_run(&me(), new).await.unwrap().submitted.id
    }

    async fn until(&self, id: RunId, what: impl Fn(&Run) -> bool) -> Run {
        let end = Instant::now() + LIMIT;
        loop {
            let run = self.control.run(&me(), id).await.unwrap();
            if what(&run) {
                return run;
            }
            assert!(Instant::now() < end, "it did not come to that: {run:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ended(&self, id: RunId) -> Run {
        self.until(id, |run| run.status.is_terminal()).await
    }

    async fn stdout(&self, id: RunId) -> String {
        let Some(mut log) = self.control.run_log(&me(), id).await.unwrap() else {
            return String::new();
        };
        let records = log
            .next_batch()
            .unwrap()
            .into_iter()
            .filter(|r| r.stream == LogStream::Stdout);
        records.map(|r| String::from_utf8(r.bytes).unwrap()).collect()
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

#[tokio::test]
async fn a_command_runs_and_its_output_is_kept() {
    let world = World::new();
    let server = world.start().await;
    let id = server.submit(&["echo", "hello"], None).await;
    let run = server.ended(id).await;
    assert_eq!(
        (run.status, run.outcome.exit_code),
        (RunStatus::Succeeded, Some(0)),
        "{run:?}"
    );
    assert_eq!(server.stdout(id).await, "hello\n");
    let id = server.submit(&["false"], None).await;
    let run = server.ended(id).await;
    assert_eq!((run.status, run.outcome.exit_code), (RunStatus::Failed, Some(1)));
    assert_eq!(
        run.outcome.error.as_deref(),
        Some("the program exited with code 1")
    );
    server.stop().await;
    assert!(
        world.sim.ids().is_empty(),
        "sandboxes are left: {:?}",
        world.sim.ids()
    );
}

#[tokio::test]
async fn time_out_and_cancel_end_a_program() {
    let world = World::new();
    let server = world.start().await;
    let slow = server
        .submit(&["sleep", "600"], Some(Duration::from_secs(1)))
        .await;
    let long = server.submit(&["sleep", "600"], None).await;
    server.until(long, |run| run.sandbox_id.is_some()).await;
    server.control.cancel_run(&me(), long).await.unwrap();
    assert_eq!(server.ended(long).await.status, RunStatus::Cancelled);
    assert_eq!(server.ended(slow).await.status, RunStatus::TimedOut);
    server.stop().await;
    assert!(world.sim.ids().is_empty());
}

#[tokio::test]
async fn a_start_that_fails_costs_no_attempt_and_a_crash_fails_the_run() {
    let world = World::new();
    world.sim.fail_starts(Often::Times(2));
    let server = world.start().await;
    let id = server.submit(&["echo", "x"], None).await;
    let run = server.ended(id).await;
    assert_eq!((run.status, run.attempt), (RunStatus::Succeeded, 3), "{run:?}");

    // A crash before its program has started would cost no attempt either.
    let started = Arc::new(tokio::sync::Notify::new());
    let begun = Arc::clone(&started);
    let program = Program::new(move |_| {
        let begun = Arc::clone(&begun);
        async move {
            begun.notify_one();
            std::future::pending().await
        }
    });
    world.sim.program("endless", program);
    let id = server.submit(&["endless"], None).await;
    tokio::time::timeout(LIMIT, started.notified()).await.unwrap();
    let first = server.control.run(&me(), id).await.unwrap().sandbox_id.unwrap();
    while !world.sim.crash(first, ostler_sandbox::ExitInfo::default()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let run = server.ended(id).await;
    assert_eq!((run.status, run.attempt), (RunStatus::Failed, 1), "{run:?}");
    assert!(run.outcome.error.unwrap().starts_with("crash"));
    server.stop().await;
    assert!(world.sim.ids().is_empty());
}

#[tokio::test]
async fn a_run_outlives_its_server() {
    let world = World::new();
    let server = world.start().await;
    let id = server.submit(&["sleep", "2"], None).await;
    let before = server.until(id, |run| run.sandbox_id.is_some()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.vanish().await;
    let server = world.start().await;
    let run = server.ended(id).await;
    assert_eq!((run.status, run.attempt), (RunStatus::Succeeded, 1), "{run:?}");
    assert_eq!(run.sandbox_id, before.sandbox_id, "it went on where it was");
    server.stop().await;
    assert!(world.sim.ids().is_empty());
}

#[tokio::test]
async fn what_no_pool_can_do_is_refused_with_the_reason() {
    let world = World::new();
    let server = world.start().await;
    let wants = Requirements {
        cpus: Some(64),
        ..Requirements::default()
    };
    let command = CommandSpec {
        argv: vec!["true".into()],
        ..CommandSpec::default()
    };
    let new = NewCommand {
        command,
        requirements: wants,
        ..NewCommand::default()
    };
    let error = server.control.submit_run(&me(), new).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("small: the number of CPUs is 1, less than 64"),
        "{error}"
    );
    server.stop().await;
}

#[tokio::test]
async fn pools_are_filled_and_claims_take_from_them() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    control
        .set_pool(
            &me(),
            "small",
            PoolChange {
                template: None,
                target: Some(2),
                max: None,
                ..PoolChange::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(control.fill_pools().await.unwrap(), 2);
    assert_eq!(
        control.fill_pools().await.unwrap(),
        0,
        "a full pool is left alone"
    );
    let warm: Vec<_> = control.sandboxes(&me()).await.unwrap();
    assert!(
        warm.iter().all(|s| s.status == SandboxStatus::Warm) && warm.len() == 2,
        "{warm:?}"
    );
    let id = server.submit(&["true"], None).await;
    let run = server.ended(id).await;
    assert_eq!(run.sandbox_id, Some(warm[0].id), "the oldest warm one is taken");
    while control.sandboxes(&me()).await.unwrap().len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(control.fill_pools().await.unwrap(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_program_holds_only_so_many_connections_to_the_server() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new();
    world.sim.program(
        "flood",
        Program::new(|mut invocation| async move {
            let mut held = Vec::new();
            // One more than are taken at once, and than fit in between.
            while let Ok(mut stream) =
                tokio::time::timeout(Duration::from_secs(2), invocation.connect("control")).await
            {
                let asked = stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
                let answer = tokio::time::timeout(Duration::from_secs(2), stream.read_u8()).await;
                if asked.is_err() || !matches!(answer, Ok(Ok(_))) || held.len() == 400 {
                    break;
                }
                held.push(stream);
            }
            invocation.stdout(held.len().to_string()).await;
            0
        }),
    );
    let server = world.start().await;
    let id = server.submit(&["flood"], None).await;
    assert_eq!(server.ended(id).await.status, RunStatus::Succeeded);
    let held: usize = server.stdout(id).await.parse().unwrap();
    assert!((16..=128).contains(&held), "{held} connections are held at once");
    server.stop().await;
}

/// Of a host that nothing is written down of yet, two can be the first to do so.
#[tokio::test]
async fn the_first_record_of_a_host_may_be_written_by_two_at_once() {
    let world = World::new();
    let server = world.start().await;
    let caller = me();
    let drain = || server.control.drain_host(&caller, DriverKind::Sim, "local", true);
    let (one, two, three) = tokio::join!(drain(), drain(), drain());
    for host in [one, two, three] {
        assert!(host.unwrap().draining);
    }
    server.stop().await;
}
