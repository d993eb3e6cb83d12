//! Two real servers on one PostgreSQL database.

#![allow(clippy::unwrap_used, reason = "test code")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_test_kit::{Postgres, TestServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const CREDENTIAL_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

async fn start(data: &Path, database: &str, driver: &str) -> TestServer {
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--dev", "--database", database])
        // Servers that share a database share the key of its credentials.
        .env("OSTLER_CREDENTIAL_KEY", CREDENTIAL_KEY)
        .env("OSTLER_EXECUTOR__LEASE_SECONDS", "15")
        .env("OSTLER_EXECUTOR__SLOTS", "3")
        .env("OSTLER_DRIVERS__DOCKER", "false");
    for (name, variable) in [
        ("sim", "OSTLER_DRIVERS__SIM"),
        ("process", "OSTLER_DRIVERS__PROCESS"),
    ] {
        server = server.env(variable, if name == driver { "true" } else { "false" });
    }
    server.start().await
}

async fn pool(server: &TestServer, driver: &str) {
    let body = json!({ "template": { "driver": driver }, "target": 1, "max": 3 });
    let (status, body) = server.call(Method::PUT, "/pools/shared", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

async fn submit(server: &TestServer, command: &[&str]) -> String {
    let requirements = json!({ "pool": "shared" });
    let body = json!({ "command": command, "requirements": requirements });
    let run = server.post("/runs", body).await;
    run["id"].as_str().unwrap().to_owned()
}

async fn until(server: &TestServer, run: &str, status: &str, attempt: u64) -> Value {
    let is = |run: &Value| run["status"] == status && run["attempt"] == attempt;
    server.until(&format!("/runs/{run}"), LIMIT, is).await
}

async fn log(server: &TestServer, run: &str, query: &str) -> String {
    let path = format!("/runs/{run}/logs{query}");
    let (status, body) = server.call(Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body.as_str().map_or_else(|| body.to_string(), str::to_owned)
}

#[tokio::test]
async fn runs_are_shared_and_those_of_a_dead_server_are_taken_over() {
    let (postgres, here, there) = (
        Postgres::shared(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let database = postgres.database();
    let mut a = start(here.path(), &database, "sim").await;
    let mut b = start(there.path(), &database, "sim").await;
    pool(&a, "sim").await;

    // Each run is executed once, by one of the two.
    let mut runs = Vec::new();
    for n in 0..30 {
        let server = if n % 2 == 0 { &a } else { &b };
        runs.push(submit(server, &["echo", "once"]).await);
    }
    for run in &runs {
        until(&b, run, "succeeded", 1).await;
        let logs = [log(&a, run, "").await, log(&b, run, "").await];
        let executed = logs.iter().filter(|log| log.contains("once")).count();
        assert_eq!(executed, 1, "{logs:?}");
    }
    b.stop().await;

    // B has no driver: it can end what A executes, and says where the log is.
    let mut b = start(there.path(), &database, "none").await;
    let run = submit(&b, &["sleep", "3600"]).await;
    until(&b, &run, "running", 1).await;
    b.post(&format!("/runs/{run}/cancel"), Value::Null).await;
    until(&b, &run, "cancelled", 1).await;
    let run = submit(&b, &["echo", "hello"]).await;
    until(&b, &run, "succeeded", 1).await;
    assert!(log(&a, &run, "").await.contains("hello"));
    let elsewhere = log(&b, &run, "").await;
    assert!(elsewhere.contains("another server"), "{elsewhere}");
    let followed = log(&b, &run, "?follow=true").await;
    assert!(
        followed.contains("another server") && followed.contains("event: end\ndata: succeeded"),
        "{followed}"
    );

    // A fills the pool and is gone for good: B takes its runs up, and has room for them.
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(submit(&a, &["sleep", "3600"]).await);
    }
    for run in &runs {
        until(&b, run, "running", 1).await;
    }
    b.stop().await;
    a.kill_9();
    let b = start(there.path(), &database, "sim").await;
    for run in &runs {
        let up = |run: &Value| run["status"] == "running" && run["attempt"] == 2;
        b.until(&format!("/runs/{run}"), LIMIT, up).await;
    }
    let three = |all: &Value| {
        let running = all.as_array().unwrap().iter();
        running.filter(|sandbox| sandbox["status"] == "running").count() == 3
    };
    b.until("/sandboxes", LIMIT, three).await;
    for run in &runs {
        b.post(&format!("/runs/{run}/cancel"), Value::Null).await;
        until(&b, run, "cancelled", 2).await;
    }
}

/// Processes with that word among their arguments.
fn programs(word: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| {
            let mut words = line.split(|byte| *byte == 0);
            words.next() == Some(b"sleep") && words.next() == Some(word.as_bytes())
        })
        .count()
}

#[tokio::test]
async fn a_server_that_was_held_up_ends_what_others_took_over() {
    let (postgres, here, there) = (
        Postgres::shared(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let database = postgres.database();
    let a = start(here.path(), &database, "process").await;
    pool(&a, "process").await;
    let word = format!("3600.{}", std::process::id());
    let run = submit(&a, &["sleep", &word]).await;
    let b = start(there.path(), &database, "process").await;
    until(&b, &run, "running", 1).await;
    let end = Instant::now() + LIMIT;
    while programs(&word) == 0 {
        assert!(Instant::now() < end, "it does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pid = Pid::from_raw(a.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    until(&b, &run, "running", 2).await;
    while programs(&word) != 2 {
        assert!(Instant::now() < end, "B does not start it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kill(pid, Signal::SIGCONT).unwrap();
    let end = Instant::now() + LIMIT;
    while programs(&word) != 1 {
        assert!(Instant::now() < end, "A still executes it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&a, &run, "running", 2).await;
    // A works on.
    let run = submit(&a, &["true"]).await;
    until(&a, &run, "succeeded", 1).await;
}
