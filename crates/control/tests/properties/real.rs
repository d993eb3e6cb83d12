//! Isolation, capture and artifacts with real programs: many tests in few sandboxes of the process driver.

use crate::common::{self, me};
use crate::config;
use ostler_artifacts::{ArtifactSettings, ArtifactStore};
use ostler_contracts::TestView;
use ostler_control::{Control, Executor, ExecutorSettings, LogStream, PlanFormat, PoolChange, TestQuery};
use ostler_domain::{DriverKind, NetworkPolicy, RunStatus, SandboxTemplate, ServerId};
use ostler_driver_process::{ProcessDriver, ProcessOptions};
use ostler_sandbox::Driver;
use ostler_test_kit::{LeakGuard, require};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Time between two pieces of output of which it is asked which came first.
const GAP: &str = "0.2";

struct World {
    runtime: Runtime,
    control: Control,
    stop: CancellationToken,
    executing: tokio::task::JoinHandle<()>,
    _left: LeakGuard,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let runtime = crate::runtime();
        let dir = tempfile::tempdir().unwrap();
        let left = LeakGuard::new(dir.path());
        let (control, stop, executing) = runtime.block_on(async {
            let root = dir.path();
            let server_id = ServerId::new();
            let guest = ostler_guest_binary::install(&root.join("guest")).unwrap();
            let instance = server_id.to_string().replace('_', "-");
            let mut options = ProcessOptions::new(instance, root.join("sandboxes"), guest);
            options.without_limits = true;
            let driver: Arc<dyn Driver> = Arc::new(ProcessDriver::open(options).await.unwrap());
            let control = common::server(root, server_id, |parts| {
                parts.drivers = BTreeMap::from([(DriverKind::Process, driver)]).into();
            })
            .await;
            let settings = ArtifactSettings::default();
            let artifacts = ArtifactStore::open(&settings, root.join("artifacts")).unwrap();
            let control = control.with_artifacts(artifacts, settings);
            let mut template = SandboxTemplate::new(DriverKind::Process);
            template.network = NetworkPolicy::None;
            let change = PoolChange {
                template: Some(template),
                target: Some(0),
                max: Some(2),
                ..PoolChange::default()
            };
            control.set_pool(&me(), "real", change).await.unwrap();
            let settings = ExecutorSettings {
                slots: 2,
                kill_grace_seconds: 1,
                shutdown_seconds: 0,
                ..ExecutorSettings::default()
            };
            let executor = Executor::new(control.clone(), settings);
            executor.recover().await.unwrap();
            let stop = CancellationToken::new();
            let executing = tokio::spawn(executor.run(stop.clone()));
            (control, stop, executing)
        });
        Self {
            runtime,
            control,
            stop,
            executing,
            _left: left,
            _dir: dir,
        }
    }

    /// Executes tests, and returns them in the order of the plan.
    async fn execute(&self, tests: Vec<Value>) -> Vec<TestView> {
        let text = json!({ "name": "real", "tests": tests }).to_string();
        let plan = self.control.submit_plan(&me(), text, PlanFormat::Json).await;
        let plan = plan.unwrap_or_else(|error| panic!("{error}: {:?}", error.details()));
        let end = Instant::now() + crate::world::LIMIT;
        while self
            .control
            .plan(&me(), plan.id)
            .await
            .unwrap()
            .finished_at
            .is_none()
        {
            assert!(Instant::now() < end, "it does not come to an end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let query = TestQuery {
            limit: Some(1000),
            ..TestQuery::default()
        };
        let mut tests = self.control.plan_tests(&me(), plan.id, query).await.unwrap();
        tests.sort_by_key(|test| test.index);
        tests
    }

    async fn output(&self, test: &TestView) -> Vec<(LogStream, Vec<u8>)> {
        let Some(mut log) = self.control.run_log(&me(), test.run_id).await.unwrap() else {
            return Vec::new();
        };
        let mut pieces = Vec::new();
        loop {
            let batch = log.next_batch().unwrap();
            if batch.is_empty() {
                return crate::invariants::joined(pieces);
            }
            let of_test = batch
                .into_iter()
                .filter(|record| record.stream != LogStream::Ostler);
            pieces.extend(of_test.map(|record| (record.stream, record.bytes)));
        }
    }

    fn end(self) {
        self.stop.cancel();
        self.runtime.block_on(async {
            self.executing.await.unwrap();
            self.control.end_sandboxes().await.unwrap();
            self.control.store().close().await;
        });
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

fn property<T: std::fmt::Debug>(
    cases: u32,
    tests: impl Strategy<Value = T>,
    check: &impl AsyncFn(&World, T),
) {
    let world = World::new();
    let tested = TestRunner::new(config(cases)).run(&tests, |tests| {
        world.runtime.block_on(check(&world, tests));
        Ok(())
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
    world.end();
}

/// A shell word that stands for any bytes, as `printf` understands it.
fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

/// How a program ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Exit(i32),
    Signal(i32),
}

#[derive(Debug, Clone)]
struct Writer {
    pieces: Vec<(bool, Vec<u8>)>,
    /// Whether there is time between the pieces.
    slow: bool,
    end: End,
}

fn writer() -> impl Strategy<Value = Writer> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..300),
        Just(b"\xff\xfe\x00\r\n\xc3".to_vec()),
        // A line without an end, and more than a pipe holds.
        (any::<u8>(), 1..4_usize).prop_map(|(byte, times)| vec![byte; times * 50_000]),
    ];
    let end = prop_oneof![
        (0..256).prop_map(End::Exit),
        select(vec![1, 3, 6, 9, 11, 15]).prop_map(End::Signal),
    ];
    (vec((any::<bool>(), bytes), 0..4), prop::bool::weighted(0.2), end)
        .prop_map(|(pieces, slow, end)| Writer { pieces, slow, end })
}

impl Writer {
    fn test(&self, at: usize) -> Value {
        let mut script = String::new();
        for (error, bytes) in &self.pieces {
            // Arguments and scripts have limits.
            let (bytes, times) = match bytes.first() {
                Some(first) if bytes.len() >= 50_000 => (&[*first][..], bytes.len()),
                _ => (&bytes[..], 1),
            };
            let piece = match times {
                1 => format!("printf '{}'", octal(bytes)),
                _ => format!("head -c {times} /dev/zero | tr '\\000' '{}'", octal(bytes)),
            };
            script += &format!("{{ {piece}; }}{}\n", if *error { " >&2" } else { "" });
            if self.slow {
                script += &format!("sleep {GAP}\n");
            }
        }
        script += &match self.end {
            End::Exit(code) => format!("exit {code}\n"),
            End::Signal(signal) => format!("ulimit -c 0\nkill -{signal} $$\nsleep 60\n"),
        };
        json!({ "name": format!("writer {at}"), "script": script })
    }

    async fn check(&self, world: &World, test: &TestView) {
        let (code, signal, passed) = match self.end {
            End::Exit(code) => (Some(code), None, code == 0),
            End::Signal(signal) => (None, Some(signal), false),
        };
        assert_eq!((test.exit_code, test.signal), (code, signal), "{test:?}");
        assert_eq!(test.status == RunStatus::Succeeded, passed, "{test:?}");
        let kept = world.output(test).await;
        let written = self.pieces.iter().filter(|(_, bytes)| !bytes.is_empty());
        let stream = |error| {
            if error {
                LogStream::Stderr
            } else {
                LogStream::Stdout
            }
        };
        let written =
            crate::invariants::joined(written.map(|(e, bytes)| (stream(*e), bytes.clone())).collect());
        for one in [LogStream::Stdout, LogStream::Stderr] {
            let of = |all: &[(LogStream, Vec<u8>)]| -> Vec<u8> {
                all.iter()
                    .filter(|(stream, _)| *stream == one)
                    .flat_map(|(_, bytes)| bytes.clone())
                    .collect()
            };
            assert!(
                of(&kept) == of(&written),
                "{one:?} of {self:?} is not what was written"
            );
        }
        if self.slow {
            assert!(kept == written, "the order of {self:?} is not kept");
        }
    }
}

#[test]
fn output_is_kept_byte_for_byte() {
    property(
        4,
        vec(writer(), 4..9),
        &async |world: &World, writers: Vec<Writer>| {
            let tests = writers
                .iter()
                .enumerate()
                .map(|(at, writer)| writer.test(at))
                .collect();
            let tests = world.execute(tests).await;
            for (writer, test) in writers.iter().zip(&tests) {
                writer.check(world, test).await;
            }
        },
    );
}

/// What a test may do that another could see, and how it would.
const TRACES: [(&str, &str); 12] = [
    ("echo mine > trace-file", "test ! -e trace-file"),
    ("mkdir -p deep/er && echo > deep/er/x", "test ! -e deep"),
    ("echo mine > \"$HOME/.trace\"", "test ! -e \"$HOME/.trace\""),
    ("echo mine > /tmp/trace", "test ! -e /tmp/trace"),
    ("echo mine > /var/tmp/trace", "test ! -e /var/tmp/trace"),
    ("echo mine > /dev/shm/trace", "test ! -e /dev/shm/trace"),
    ("ipcmk -Q >/dev/null", "test \"$(ipcs -q | grep -c '^0x')\" = 0"),
    (
        "ipcmk -M 4096 >/dev/null",
        "test \"$(ipcs -m | grep -c '^0x')\" = 0",
    ),
    (
        "setsid sh -c 'exec sleep 86399' >/dev/null 2>&1 & sleep 0.05",
        "! cat /proc/[0-9]*/comm | grep -qx sleep",
    ),
    (
        // Forked twice, deaf to the signals that end programs.
        "( trap '' TERM HUP; ( sleep 86398 >/dev/null 2>&1 & ) ) ; sleep 0.05",
        "! cat /proc/[0-9]*/comm | grep -qx sleep",
    ),
    ("export TRACE=1", "test -z \"$TRACE\""),
    (
        "python3 -c 'import socket, os, time\ns = socket.socket(); s.bind((\"127.0.0.1\", 7999)); s.listen()\nif os.fork() == 0: os.setsid(); time.sleep(86397)' >/dev/null 2>&1 &\nsleep 0.1",
        "! grep -q ':1F3F ' /proc/net/tcp && ! cat /proc/[0-9]*/comm | grep -q python",
    ),
];

#[test]
fn no_test_sees_another() {
    require!(Bubblewrap);
    let tests = vec(subsequence(TRACES.to_vec(), 1..6), 4..10);
    let mut shared = 0;
    let seen = std::sync::Mutex::new(&mut shared);
    property(3, tests, &async |world: &World, tests: Vec<Vec<(&str, &str)>>| {
        let look: String = TRACES
            .iter()
            .map(|(_, look)| {
                format!(
                    "{{ {look}; }} || {{ echo 'seen, since this fails:' '{}'; exit 1; }}\n",
                    look.replace('\'', "")
                )
            })
            .collect();
        let plan = tests.iter().enumerate().map(|(at, traces)| {
            let leave: String = traces.iter().map(|(leave, _)| format!("{leave}\n")).collect();
            json!({ "name": format!("t{at}"), "script": format!("{look}{leave}exit 0\n") })
        });
        let done = world.execute(plan.collect()).await;
        let mut sandboxes = BTreeSet::new();
        for test in &done {
            let output = world.output(test).await;
            let output: Vec<_> = output
                .iter()
                .map(|(_, bytes)| String::from_utf8_lossy(bytes))
                .collect();
            assert_eq!(test.status, RunStatus::Succeeded, "{test:?}: {output:?}");
            sandboxes.insert(test.sandbox_id);
        }
        **seen.lock().unwrap() += done.len() - sandboxes.len();
    });
    assert!(
        shared > 0,
        "no two tests were in the same sandbox, so that nothing was shown"
    );
}

/// A file that a test leaves, and whether it is asked for.
#[derive(Debug, Clone)]
struct Left {
    path: String,
    bytes: Vec<u8>,
}

fn left() -> impl Strategy<Value = Vec<Left>> {
    let name = "[a-z][a-z0-9 ._-]{0,12}[a-z]";
    let path = (vec(name, 0..3), name, select(vec!["log", "bin", "txt"]));
    let path = path.prop_map(|(mut parts, name, kind)| {
        parts.push(format!("{name}.{kind}"));
        parts.join("/")
    });
    let bytes = vec(any::<u8>(), 0..400);
    vec((path, bytes).prop_map(|(path, bytes)| Left { path, bytes }), 0..6)
}

#[test]
fn files_are_kept_byte_for_byte() {
    let end = select(vec!["exit 0", "exit 5", "kill -9 $$", "sleep 600"]);
    let tests = vec((left(), end, any::<Index>()), 2..6);
    property(
        4,
        tests,
        &async |world: &World, tests: Vec<(Vec<Left>, &str, Index)>| {
            let mut plan = Vec::new();
            let mut wanted = Vec::new();
            for (at, (left, end, _)) in tests.iter().enumerate() {
                let mut files: BTreeMap<&str, &[u8]> = BTreeMap::new();
                let mut script = String::new();
                for file in left {
                    // A name that another one needs as a directory is no file, and the other way round.
                    let clashes = files.keys().any(|other| {
                        let (one, two) = (format!("{other}/"), format!("{}/", file.path));
                        one.starts_with(&two) || two.starts_with(&one)
                    });
                    if clashes {
                        continue;
                    }
                    files.insert(&file.path, &file.bytes);
                    let dir = file.path.rsplit_once('/').map_or(".", |(dir, _)| dir);
                    let (path, bytes) = (&file.path, octal(&file.bytes));
                    script += &format!("mkdir -p './{dir}' && printf '{bytes}' > './{path}' || exit 99\n");
                }
                script += end;
                let mut test = json!({
                    "name": format!("t{at}"),
                    "script": script,
                    "artifacts": ["**/*.log", "*.log", "**/*.bin", "*.bin"],
                });
                if end.starts_with("sleep") {
                    test["timeout"] = json!("1s");
                }
                plan.push(test);
                files.retain(|path, _| path.rsplit_once('.').is_some_and(|(_, kind)| kind != "txt"));
                wanted.push(
                    files
                        .into_iter()
                        .map(|(p, b)| (p.to_owned(), b.to_vec()))
                        .collect::<BTreeMap<_, _>>(),
                );
            }
            let done = world.execute(plan).await;
            for ((test, wanted), (_, end, _)) in done.iter().zip(wanted).zip(&tests) {
                let status = match *end {
                    "exit 0" => RunStatus::Succeeded,
                    "sleep 600" => RunStatus::TimedOut,
                    _ => RunStatus::Failed,
                };
                assert_eq!(test.status, status, "{test:?}");
                let mut kept = BTreeMap::new();
                for file in world
                    .control
                    .artifacts(&me(), test.run_id, None, 1000)
                    .await
                    .unwrap()
                {
                    let mut content = world.control.artifact_content(&file, None).await.unwrap();
                    let mut bytes = Vec::new();
                    while let Some(piece) = futures::StreamExt::next(&mut content).await {
                        bytes.extend(piece.unwrap());
                    }
                    let sum: String = Sha256::digest(&bytes)
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect();
                    assert_eq!(
                        (file.sha256, file.bytes as usize),
                        (sum, bytes.len()),
                        "{}",
                        file.path
                    );
                    kept.insert(file.path, bytes);
                }
                assert!(
                    kept == wanted,
                    "{test:?} left {:?}, kept is {:?}",
                    wanted.keys(),
                    kept.keys()
                );
                assert_eq!(test.artifacts as usize, wanted.len());
            }
        },
    );
}
