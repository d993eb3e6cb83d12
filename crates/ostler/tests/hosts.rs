//! Several hosts of one driver: where sandboxes are started, what happens when an engine goes away, draining; and what
//! sandboxes use.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, LeakGuard, TestServer, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn two_engines(data: &Path, near: &DockerEngine, far: &DockerEngine) -> TestServer {
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--dev"])
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", near.url())
        .env("OSTLER_DRIVERS__DOCKER__HOSTS__FAR__ENGINE", far.url())
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "1")
}

async fn provision(server: &TestServer) -> Value {
    server.post("/agents", json!({ "pool": "boxes" })).await
}

/// The hosts of the sandboxes that are not gone, in order.
async fn hosts(server: &TestServer) -> Vec<String> {
    let all = server.get("/sandboxes").await;
    let all = all.as_array().unwrap().iter();
    let mut hosts: Vec<String> = all.map(|s| s["host"].as_str().unwrap().to_owned()).collect();
    hosts.sort();
    hosts
}

async fn far(server: &TestServer) -> Value {
    let all = server.get("/hosts").await;
    let mut all = all.as_array().unwrap().iter();
    all.find(|host| host["name"] == "far").unwrap().clone()
}

#[tokio::test]
async fn sandboxes_are_spread_over_engines_and_an_engine_that_fails_is_left_alone() {
    require!(BaseImage);
    let (near, mut away) = (DockerEngine::start(), DockerEngine::private());
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&near);
    assert_eq!(near.base_image(), away.base_image());
    let mut server = two_engines(dir.path(), &near, &away).start().await;
    let template = json!({ "driver": "docker", "image": near.base_image() });
    let body = json!({ "template": template, "target": 0 });
    let (status, answer) = server.call(Method::PUT, "/pools/boxes", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for _ in 0..4 {
        provision(&server).await;
    }
    assert_eq!(hosts(&server).await, ["far", "far", "local", "local"]);

    // What is drained gets no more, and keeps what is held.
    let drain = |draining: bool| json!({ "draining": draining });
    let path = "/hosts/docker/far/drain";
    server.call(Method::POST, path, Some(drain(true))).await;
    provision(&server).await;
    assert_eq!(hosts(&server).await, ["far", "far", "local", "local", "local"]);
    let explained = server.get("/pools/boxes/explain").await.to_string();
    assert!(explained.contains("it is being drained"), "{explained}");
    server.call(Method::POST, path, Some(drain(false))).await;

    // An engine that goes away costs one try; then it is left alone, and the other takes all.
    away.down();
    for _ in 0..2 {
        let agent = provision(&server).await;
        assert_eq!(agent["host"], "local", "{agent}");
    }
    let host = far(&server).await;
    assert!(host["quarantined_until"].is_string(), "{host}");
    let explained = server.get("/pools/boxes/explain").await.to_string();
    assert!(
        explained.contains("it is in quarantine until") && explained.contains("systemctl start docker"),
        "{explained}"
    );
    // The operator who has mended it need not wait.
    away.up();
    server.call(Method::POST, path, Some(drain(false))).await;
    let back = server
        .until("/hosts", LIMIT, |all: &Value| {
            all.as_array()
                .unwrap()
                .iter()
                .all(|host| host["quarantined_until"].is_null())
        })
        .await;
    let agent = provision(&server).await;
    assert_eq!(agent["host"], "far", "{agent} {back}");
    assert!(server.stop().await.success());
    guard.check();
}

#[tokio::test]
async fn what_a_sandbox_uses_is_noted() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path())
        .args(["--dev"])
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .env("OSTLER_SANDBOXES__USAGE_SECONDS", "1")
        .start()
        .await;
    let agent = server.post("/agents", json!({})).await;
    let id = agent["id"].as_str().unwrap();
    let busy = json!({ "command": ["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"] });
    server.post(&format!("/agents/{id}/exec"), busy).await;
    // Counts since the start only grow, and are those of the program.
    let grown = |samples: &Value| {
        let samples = samples.as_array().unwrap();
        samples.len() > 1 && samples[0]["cpu_us"].as_i64() > Some(100_000)
    };
    let path = format!("/sandboxes/{id}/usage");
    let samples = server.until(&path, LIMIT, grown).await;
    let cpu: Vec<i64> = samples
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["cpu_us"].as_i64().unwrap())
        .collect();
    assert!(cpu.is_sorted_by(|newer, older| newer >= older), "{cpu:?}");
    assert!(samples[0]["memory_bytes"].as_i64() > Some(0), "{samples}");
    assert!(samples[0]["processes"].as_i64() > Some(0), "{samples}");
    assert!(server.stop().await.success());
    guard.check();
}
