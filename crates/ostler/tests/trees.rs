//! What tests start ends with them: when they are over their time, when they are cancelled, and when their server is killed
//! meanwhile; also what left its session and its parent and does not listen.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, LeakGuard, TestServer, require};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// Processes that each test starts.
const EACH: usize = 3;

/// Seconds of a sleep that nobody else asks for.
fn odd_seconds() -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    format!(
        "{}.{}",
        40_000 + std::process::id() % 10_000,
        now.as_nanos() % 1_000_000
    )
}

/// Processes of this machine that sleep so long.
fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line == wanted.as_bytes())
        .count()
}

async fn sleep_so_many(seconds: &str, wanted: usize) {
    let end = Instant::now() + LIMIT;
    while sleepers(seconds) != wanted {
        assert!(Instant::now() < end, "{} of {wanted} sleep", sleepers(seconds));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says something; then sleeps in three ways of which a signal to its group reaches one, and none listens to TERM.
fn stays(seconds: &str) -> String {
    format!(
        "trap '' TERM HUP INT; echo begun; (setsid sleep {seconds} </dev/null >/dev/null 2>&1 &); \
         (setsid sh -c '(env -i sleep {seconds} &)' &); while :; do sleep {seconds}; done"
    )
}

/// Two tests that go on for ever: one in namespaces of its own, one with a sandbox of its own.
fn plan(pool: &str, seconds: &str, timeout: &str) -> Value {
    json!({
        "name": "trees",
        "defaults": { "requires": { "pool": pool }, "run": stays(seconds), "timeout": timeout },
        "tests": [{ "name": "apart" }, { "name": "alone", "isolation": "sandbox" }],
    })
}

/// Submits a plan, whose tests sleep then. The path of the plan.
async fn submit(server: &TestServer, plan: Value, seconds: &str) -> String {
    let plan = server.post("/plans", plan).await;
    sleep_so_many(seconds, 2 * EACH).await;
    format!("/plans/{}", plan["id"].as_str().unwrap())
}

/// Waits for the end of a plan, of which nothing may be left then.
async fn ended(server: &TestServer, plan: &str, seconds: &str, status: &str) {
    let done = server
        .until(plan, LIMIT, |plan| plan["status"] != "running")
        .await;
    assert_eq!(sleepers(seconds), 0, "{done:#}");
    let tests = server.get(&format!("{plan}/tests")).await;
    assert_eq!(tests.as_array().map(Vec::len), Some(2));
    for test in tests.as_array().into_iter().flatten() {
        assert_eq!(test["status"], status, "{test:#}");
        let log = format!("/runs/{}/logs", test["run_id"].as_str().unwrap());
        let (_, log) = server.call(Method::GET, &log, None).await;
        assert!(log.to_string().contains("begun"), "{log}");
    }
}

async fn all(driver: &str, template: Value, engine: Option<&DockerEngine>) {
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .args(["--dev"])
        .env("OSTLER_EXECUTOR__SLOTS", "2")
        .env("OSTLER_EXECUTOR__KILL_GRACE_SECONDS", "1")
        .env("OSTLER_DRIVERS__DOCKER__NESTED", "true");
    if let Some(engine) = engine {
        guard = guard.with_engine(engine);
        server = server.engine(engine);
    } else {
        server = server.env("OSTLER_DRIVERS__DOCKER__ENABLED", "false");
    }
    let mut server = server.start().await;
    let body = json!({ "template": template, "target": 0, "max": 2 });
    let (status, answer) = server
        .call(Method::PUT, &format!("/pools/{driver}"), Some(body))
        .await;
    assert!(status.is_success(), "{answer}");

    let seconds = odd_seconds();
    let over_time = submit(&server, plan(driver, &seconds, "4s"), &seconds).await;
    ended(&server, &over_time, &seconds, "timed_out").await;

    let cancelled = submit(&server, plan(driver, &seconds, "10m"), &seconds).await;
    server.call(Method::DELETE, &cancelled, None).await;
    ended(&server, &cancelled, &seconds, "cancelled").await;

    let killed = submit(&server, plan(driver, &seconds, "10m"), &seconds).await;
    server.kill_9();
    server.start_again().await;
    // They go on where they were, and are not started a second time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sleepers(&seconds), 2 * EACH);
    server.call(Method::DELETE, &killed, None).await;
    ended(&server, &killed, &seconds, "cancelled").await;

    // What such tests did spoils nothing: others share a sandbox one after the other.
    let series: Vec<Value> = (0..4)
        .map(|n| json!({ "name": format!("t{n}"), "run": ["true"] }))
        .collect();
    let plan = json!({ "name": "series", "defaults": { "requires": { "pool": driver } }, "max_parallel": 1,
                       "tests": series });
    let plan = server.post("/plans", plan).await;
    let plan = format!("/plans/{}", plan["id"].as_str().unwrap());
    let done = server
        .until(&plan, LIMIT, |plan| plan["status"] != "running")
        .await;
    assert_eq!(done["status"], "passed", "{done:#}");

    // The default one was made by itself.
    for pool in [driver, "default"] {
        let body = json!({ "template": template, "target": 0, "max": 0 });
        let (status, answer) = server
            .call(Method::PUT, &format!("/pools/{pool}"), Some(body))
            .await;
        assert!(status.is_success(), "{answer}");
    }
    server
        .until("/sandboxes", LIMIT, |all| {
            all.as_array().is_some_and(Vec::is_empty)
        })
        .await;
    assert!(server.stop().await.success());
    guard.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_tests_on_processes() {
    require!(Bubblewrap);
    all("process", json!({ "driver": "process", "memory_mb": 256 }), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_tests_in_containers() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let template = json!({ "driver": "docker", "image": engine.base_image(), "memory_mb": 256 });
    all("docker", template, Some(&engine)).await;
}
