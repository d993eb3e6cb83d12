//! Pools of workers: what their configuration becomes in the template, and what of the host it opens.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, LeakGuard, TestServer, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn docker(data: &Path, engine: &DockerEngine) -> TestServer {
    let socket = engine.url().trim_start_matches("unix://").to_owned();
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--dev"])
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
        .env("OSTLER_SANDBOXES__ENGINE_SOCKET", socket)
}

fn worker(auth: &str) -> Value {
    json!({
        "agent_kind": "claude", "worker_type": "planner", "auth": auth, "server": "http://127.0.0.1:7070",
        "gateway": "http://127.0.0.1:9", "capabilities": ["GIT", "DOCKER"], "home": "/root",
    })
}

#[tokio::test]
async fn a_worker_gets_of_the_host_what_the_settings_allow() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let template = json!({ "driver": "docker", "image": engine.base_image() });
    let body = json!({ "template": template, "target": 0, "worker": worker("host_session") });

    // Nothing of the host is open unless the operator says so, and both refusals are told at once.
    let mut closed = docker(dir.path(), &engine).start().await;
    let (status, answer) = closed
        .call(Method::PUT, "/pools/workers", Some(body.clone()))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("sign-in of the host's user") && message.contains("everything on the host"),
        "{message}"
    );
    // Nor by naming the mounts oneself.
    let socket = engine.url().trim_start_matches("unix://").to_owned();
    let mut by_hand = template.clone();
    by_hand["mounts"] = json!([{ "source": socket, "target": "/var/run/docker.sock" }]);
    let by_hand = json!({ "template": by_hand, "target": 0 });
    let (status, answer) = closed.call(Method::PUT, "/pools/workers", Some(by_hand)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    // A key of the server needs nothing of the host.
    let mut plain = worker("api_key");
    plain["capabilities"] = json!(["GIT"]);
    let plain = json!({ "template": template, "target": 0, "worker": plain });
    let (status, pool) = closed.call(Method::PUT, "/pools/plain", Some(plain)).await;
    assert_eq!(status, StatusCode::OK, "{pool}");
    let env = &pool["template"]["env"];
    assert_eq!(
        (
            &env["OSTLER_WORKER_TYPE"],
            &env["OSTLER_AGENT_KIND"],
            &env["OSTLER_AUTH"]
        ),
        (&json!("planner"), &json!("claude"), &json!("api_key"))
    );
    assert!(closed.stop().await.success());

    std::fs::create_dir(home.path().join(".claude")).unwrap();
    std::fs::write(home.path().join(".claude/mark"), "signed in").unwrap();
    let mut open = docker(dir.path(), &engine)
        .env("HOME", home.path())
        .env("OSTLER_SANDBOXES__ALLOW_ENGINE_SOCKET", "true")
        .env("OSTLER_SANDBOXES__ALLOW_HOST_SESSION", "true")
        .start()
        .await;
    let (status, pool) = open.call(Method::PUT, "/pools/workers", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{pool}");
    let script = "cat /root/.claude/mark; test -S /var/run/docker.sock && echo \" $DOCKER_HOST $OSTLER_AGENT_KIND\"; \
                  touch /root/.claude/x || echo read-only";
    let run = json!({ "command": ["sh", "-c", script], "requirements": { "pool": "workers" } });
    let run = open.post("/runs", run).await;
    let path = format!("/runs/{}", run["id"].as_str().unwrap());
    let limit = std::time::Duration::from_secs(60);
    let done = open
        .until(&path, limit, |run| !run["finished_at"].is_null())
        .await;
    assert_eq!(done["status"], "succeeded", "{done}");
    let logs = open
        .call(Method::GET, &format!("{path}/logs"), None)
        .await
        .1
        .to_string();
    for word in ["signed in", "unix:///var/run/docker.sock claude", "read-only"] {
        assert!(logs.contains(word), "no `{word}` in {logs}");
    }
    assert!(open.stop().await.success());
    guard.check();
}

#[tokio::test]
async fn the_command_line_sets_pools_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path())
        .args(["--dev"])
        .env("OSTLER_DRIVERS__SIM", "true")
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .start()
        .await;
    let set = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(["pool", "set", "default", "--data"])
            .arg(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (done, said) = set(&["--worker-auth", "gateway"]);
    assert!(!done && said.contains("--worker-gateway URL"), "{said}");
    let (done, said) = set(&["--worker-auth", "host_session"]);
    assert!(!done && said.contains("no policy allows that"), "{said}");
    let (done, said) = set(&[
        "--worker-auth",
        "gateway",
        "--worker-gateway",
        "http://127.0.0.1:9",
    ]);
    assert!(done, "{said}");
    let pools = server.get("/pools").await;
    let env = &pools[0]["template"]["env"];
    assert_eq!(env["OSTLER_GATEWAY"], "http://127.0.0.1:9", "{pools}");
    assert_eq!(env["OSTLER_SERVER"], server.url(), "{pools}");
    // All of a pool are alike but for their ids; what the holder says goes first.
    assert!(env["OSTLER_WORKER_ID"].is_null(), "{pools}");
    let mut ids = std::collections::BTreeSet::new();
    for config in [
        json!({}),
        json!({}),
        json!({ "env": { "OSTLER_WORKER_ID": "mine" } }),
    ] {
        let own = !config["env"].is_null();
        let agent = server.post("/agents", json!({ "config": config })).await;
        let id = agent["id"].as_str().unwrap().to_owned();
        let said = server
            .post(&format!("/agents/{id}/exec"), json!({ "command": ["env"] }))
            .await;
        let wanted = if own { "mine" } else { &id };
        let line = format!("OSTLER_WORKER_ID={wanted}");
        assert!(said.to_string().contains(&line), "{said}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 3);
    // What is named without a way to sign in means nothing.
    let (done, said) = set(&["--capability", "DOCKER"]);
    assert!(!done && said.contains("--worker-auth"), "{said}");
    assert!(server.stop().await.success());
}
