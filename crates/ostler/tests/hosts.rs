//! Several hosts of one driver: where sandboxes are started, what happens when an engine goes away, draining; and what
//! sandboxes use.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, LeakGuard, SshMachine, TestServer, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn two_engines(data: &Path, near: &DockerEngine, far: &str) -> TestServer {
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--dev"])
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", near.url())
        .env("OSTLER_DRIVERS__DOCKER__HOSTS__FAR__ENGINE", far)
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "1")
}

async fn boxes(server: &TestServer, engine: &DockerEngine) {
    let template = json!({ "driver": "docker", "image": engine.base_image() });
    let body = json!({ "template": template, "target": 0 });
    let (status, answer) = server.call(Method::PUT, "/pools/boxes", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
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
    let mut server = two_engines(dir.path(), &near, &away.url()).start().await;
    boxes(&server, &near).await;
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

/// The containers of an engine that run, or all.
fn containers(engine: &DockerEngine, all: &[&str]) -> Vec<String> {
    let ids = engine
        .docker(&[&["ps", "--quiet", "--no-trunc"], all].concat())
        .unwrap();
    ids.lines().map(str::to_owned).collect()
}

fn id(agent: &Value) -> &str {
    agent["id"].as_str().unwrap()
}

#[tokio::test]
async fn an_engine_that_was_away_at_the_start_is_used_when_it_is_there() {
    require!(BaseImage);
    let (near, away) = (DockerEngine::start(), DockerEngine::private());
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&near);
    assert_eq!(near.base_image(), away.base_image());
    // An engine that cannot be reached keeps its containers.
    let link = dir.path().join("far.sock");
    let socket = away.url().replace("unix://", "");
    let reachable = |yes: bool| {
        if yes {
            std::os::unix::fs::symlink(&socket, &link).unwrap();
        } else {
            std::fs::remove_file(&link).unwrap();
        }
    };
    reachable(true);
    let data = dir.path().join("data");
    let mut server = two_engines(&data, &near, &format!("unix://{}", link.display()))
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "9")
        // What ends by itself is heard of by the engine's events alone.
        .env("OSTLER_SANDBOXES__HEALTH_SECONDS", "3600")
        .start()
        .await;
    boxes(&server, &near).await;
    let mut there = Vec::new();
    for _ in 0..6 {
        let agent = provision(&server).await;
        if agent["host"] == "far" {
            there.push(agent);
        }
    }
    let [kept, ended, killed] = &there[..] else {
        panic!("{there:?}")
    };
    let kept = format!("/agents/{}", id(kept));
    let write = json!({ "command": ["sh", "-c", "echo here > /tmp/note"] });
    server.post(&format!("{kept}/exec"), write).await;

    server.kill_9();
    reachable(false);
    let name = format!("name={}", id(killed));
    let container = containers(&away, &["--filter", &name]).remove(0);
    away.docker(&["kill", &container]).unwrap();
    // Nobody knows of this one.
    let instance = std::fs::read_to_string(data.join("server-id")).unwrap();
    let (instance, unknown) = (instance.trim(), "sbx_00000000000000000000000001");
    let named = [
        format!("--name=ostler-{instance}-{unknown}"),
        format!("--label=ostler.instance={instance}"),
        format!("--label=ostler.sandbox={unknown}"),
    ];
    let image = away.base_image();
    let orphan = ["create", &named[0], &named[1], &named[2], &image, "true"];
    let orphan = away.docker(&orphan).unwrap();
    server.start_again().await;
    let host = far(&server).await;
    let why = host["away"].as_str().unwrap();
    assert!(
        why.contains("far.sock") && why.contains("cannot be reached"),
        "{host}"
    );
    assert_eq!(host["sandboxes"], 3, "{host}");
    let explained = server.get("/pools/boxes/explain").await.to_string();
    assert!(
        explained.contains("it is away") && explained.contains("far.sock"),
        "{explained}"
    );
    let table = std::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["sandbox", "hosts", "--server", server.url()])
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("away") && table.contains("far.sock"), "{table}");
    let agent = provision(&server).await;
    assert_eq!(agent["host"], "local", "{agent}");
    let ended = format!("/agents/{}", id(ended));
    let (status, answer) = server.call(Method::DELETE, &ended, None).await;
    assert!(status.is_server_error(), "it cannot be ended now: {answer}");

    reachable(true);
    server
        .until("/hosts", LIMIT, |all: &Value| {
            all.as_array().unwrap().iter().all(|host| host["away"].is_null())
        })
        .await;
    let agent = provision(&server).await;
    assert_eq!(agent["host"], "far", "{agent}");
    let rounds = server.get("/reconcilers").await.to_string();
    assert!(rounds.contains("\"hosts\""), "{rounds}");
    // What lives goes on, what was lost or unknown is gone, and what a tenant had lost was replaced.
    let read = json!({ "command": ["cat", "/tmp/note"] });
    let said = server.post(&format!("{kept}/exec"), read).await.to_string();
    assert!(said.contains("here"), "{said}");
    let lost = format!("/sandboxes/{}", id(killed));
    let lost = server.until(&lost, LIMIT, |s| s["status"] == "destroyed").await;
    assert!(
        lost["reason"].as_str().unwrap().contains("took its place"),
        "{lost}"
    );
    let ended = ended.replace("agents", "sandboxes");
    server.until(&ended, LIMIT, |s| s["status"] == "destroyed").await;
    let all = containers(&away, &["--all"]);
    assert!(!all.contains(&orphan) && !all.contains(&container), "{all:?}");

    // Its events are heard.
    let name = format!("name={}", id(&agent));
    let container = containers(&away, &["--filter", &name]).remove(0);
    away.docker(&["kill", &container]).unwrap();
    let crashed = format!("/sandboxes/{}", id(&agent));
    server
        .until(&crashed, LIMIT, |s| s["status"] == "destroyed")
        .await;
    assert!(server.stop().await.success());
    assert_eq!(containers(&away, &["--all"]), [""; 0]);
    guard.check();
}

#[tokio::test]
async fn an_engine_on_a_machine_behind_ssh_is_used_as_any_other() {
    require!(BaseImage, Ssh);
    let (near, away) = (DockerEngine::start(), DockerEngine::private());
    let machine = SshMachine::start(&away);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&near);
    assert_eq!(near.base_image(), away.base_image());
    // A machine that was never met is not believed.
    let known = std::fs::read_to_string(machine.known_hosts()).unwrap();
    std::fs::write(machine.known_hosts(), "").unwrap();
    let mut server = two_engines(dir.path(), &near, "ssh://machine")
        .env("PATH", machine.path())
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "9")
        .start()
        .await;
    boxes(&server, &near).await;
    let host = far(&server).await;
    let why = host["away"].as_str().unwrap();
    assert!(
        why.contains("Host key verification failed") && why.contains("docker -H ssh://machine version"),
        "{why}"
    );
    assert_eq!(
        std::fs::read_to_string(machine.known_hosts()).unwrap(),
        "",
        "it stays unknown"
    );
    std::fs::write(machine.known_hosts(), known).unwrap();
    let there = |all: &Value| all.as_array().unwrap().iter().all(|host| host["away"].is_null());
    server.until("/hosts", LIMIT, there).await;

    let mut agents = vec![provision(&server).await, provision(&server).await];
    assert_eq!(hosts(&server).await, ["far", "local"]);
    agents.retain(|agent| agent["host"] == "far");
    let path = format!("/agents/{}", id(&agents[0]));
    let count = json!({ "command": ["sh", "-c", "seq 1 20000 | tee /tmp/all | wc -l"] });
    let said = server.post(&format!("{path}/exec"), count).await.to_string();
    assert!(said.contains("20000"), "{said}");
    let program = format!("{path}/exec");
    let many = (0..12).map(|_| server.post(&program, json!({ "command": ["wc", "-l", "/tmp/all"] })));
    for said in futures::future::join_all(many).await {
        assert!(said.to_string().contains("20000"), "{said}");
    }

    // Nothing of it outlives the server, whichever way that ends, but the sandbox.
    assert!(!machine.clients().is_empty());
    server.kill_9();
    no_clients(&machine).await;
    server.start_again().await;
    let read = json!({ "command": ["wc", "-l", "/tmp/all"] });
    let said = server.post(&format!("{path}/exec"), read).await.to_string();
    assert!(said.contains("20000"), "{said}");
    assert!(server.stop().await.success());
    no_clients(&machine).await;
    assert_eq!(containers(&away, &["--all"]), [""; 0]);
    guard.check();
}

async fn no_clients(machine: &SshMachine) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !machine.clients().is_empty() {
        assert!(
            std::time::Instant::now() < end,
            "still there: {:?}",
            machine.clients()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_host_of_which_only_a_failure_is_known_can_be_drained() {
    require!(BaseImage);
    let (near, mut away) = (DockerEngine::start(), DockerEngine::private());
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&near);
    let mut server = two_engines(dir.path(), &near, &away.url()).start().await;
    boxes(&server, &near).await;
    away.down();
    let agent = provision(&server).await;
    assert_eq!(agent["host"], "local", "{agent}");
    let host = far(&server).await;
    assert_eq!((&host["failures"], &host["draining"]), (&json!(1), &json!(false)));
    let path = "/hosts/docker/far/drain";
    for draining in [true, false] {
        let host = server.post(path, json!({ "draining": draining })).await;
        assert_eq!(host["draining"], draining, "{host}");
        assert_eq!(host["failures"], u32::from(draining), "{host}");
    }
    assert_eq!(far(&server).await["failures"], 0);
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
