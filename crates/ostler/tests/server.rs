//! The real binary, driven over HTTP.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{TestServer, repository};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Without drivers, and thus without a pool.
fn bare(data: &Path, arguments: &[&str]) -> TestServer {
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(arguments)
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
}

async fn start(data: &Path, arguments: &[&str]) -> TestServer {
    bare(data, arguments)
        .env("OSTLER_DRIVERS__SIM", "true")
        .start()
        .await
}

async fn sim_pool(server: &TestServer) {
    let body = json!({ "template": { "driver": "sim" }, "target": 1, "max": 4 });
    let (status, body) = server.call(Method::PUT, "/pools/small", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

async fn submit(server: &TestServer, command: &[&str]) -> String {
    let body = server.post("/runs", json!({ "command": command })).await;
    body["id"].as_str().unwrap().to_owned()
}

async fn ended(server: &TestServer, run: &str) -> Value {
    let is_over = |run: &Value| !["queued", "running"].contains(&run["status"].as_str().unwrap());
    server.until(&format!("/runs/{run}"), LIMIT, is_over).await
}

#[tokio::test]
async fn a_command_is_executed_and_its_log_followed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--dev"]).await;
    sim_pool(&server).await;
    let run = submit(&server, &["echo", "hello"]).await;
    let body = ended(&server, &run).await;
    assert_eq!(
        (body["status"].as_str(), body["exit_code"].as_i64()),
        (Some("succeeded"), Some(0)),
        "{body}"
    );
    let lines = server
        .call(Method::GET, &format!("/runs/{run}/logs"), None)
        .await
        .1;
    assert_eq!(
        (lines["stream"].as_str(), lines["text"].as_str()),
        (Some("stdout"), Some("hello\n")),
        "{lines}"
    );
    let followed = server
        .call(Method::GET, &format!("/runs/{run}/logs?follow=true"), None)
        .await
        .1;
    let followed = followed.as_str().unwrap();
    assert!(
        followed.contains("event: log") && followed.contains("event: end\ndata: succeeded"),
        "{followed}"
    );
    let counters = server.get("/health").await;
    assert_eq!(counters["runs"]["succeeded"].as_i64(), Some(1), "{counters}");
}

#[tokio::test]
async fn a_project_is_added_once_and_bad_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("sample");
    repository(&source, &[("README", "sample\n")]);
    // Nothing takes up the run of the planner.
    let server = bare(&dir.path().join("data"), &["--dev"]).start().await;
    let (status, body) = server
        .call(Method::POST, "/runs", Some(json!({ "command": ["true"] })))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "without a pool: {body}");
    let add = |source: String| server.call(Method::POST, "/projects", Some(json!({ "source": source })));
    let (status, project) = add(source.display().to_string()).await;
    assert_eq!(
        (status, project["default_branch"].as_str()),
        (StatusCode::CREATED, Some("main")),
        "{project}"
    );
    assert_eq!(add(source.display().to_string()).await.0, StatusCode::CONFLICT);
    for (source, wanted) in [
        ("/nowhere".to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        (
            "https://user:planted@localhost/x.git".to_owned(),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let (status, body) = add(source).await;
        assert_eq!(status, wanted, "{body}");
        assert!(!body.to_string().contains("planted"), "{body}");
        assert!(
            body["error"]["request_id"]
                .as_str()
                .is_some_and(|id| !id.is_empty()),
            "{body}"
        );
    }
    let id = project["id"].as_str().unwrap();
    let body = json!({ "title": "Do something", "agent_kind": "claude" });
    let (status, task) = server
        .call(Method::POST, &format!("/projects/{id}/tasks"), Some(body))
        .await;
    assert_eq!(
        (status, task["status"].as_str()),
        (StatusCode::CREATED, Some("planning")),
        "{task}"
    );
    let planner = server
        .get(&format!("/runs/{}", task["run_id"].as_str().unwrap()))
        .await;
    assert_eq!(planner["kind"].as_str(), Some("planner"));
    assert!(
        planner["prompt"]
            .as_str()
            .unwrap()
            .contains(task["epic"].as_str().unwrap()),
        "{planner}"
    );
    let task = task["id"].as_str().unwrap();
    assert_eq!(
        server
            .call(Method::DELETE, &format!("/tasks/{task}"), None)
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        server
            .call(Method::DELETE, &format!("/projects/{id}"), None)
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        server.call(Method::GET, &format!("/projects/{id}"), None).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn without_development_mode_a_token_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), &[]).await;
    assert!(server.token.is_some(), "a local command line is given a token");
    let (status, made) = server
        .call(
            Method::POST,
            "/tokens",
            Some(json!({ "name": "t", "permissions": ["runs:read"] })),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let administrator = server.token.replace(made["secret"].as_str().unwrap().to_owned());
    server.get("/runs").await;
    let (status, body) = server.call(Method::GET, "/projects", None).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (StatusCode::FORBIDDEN, Some("FORBIDDEN")),
        "{body}"
    );
    let (status, body) = server
        .call(
            Method::POST,
            "/tokens",
            Some(json!({ "name": "more", "permissions": ["admin:*"] })),
        )
        .await;
    assert_eq!(
        status,
        StatusCode::FORBIDDEN,
        "nobody gives more than they have: {body}"
    );
    let listed = server.get("/tokens").await;
    assert!(
        !listed.to_string().contains(server.token.as_deref().unwrap()),
        "{listed}"
    );
    server.token = administrator;
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        server
            .call(Method::DELETE, &format!("/tokens/{id}"), None)
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    server.token = made["secret"].as_str().map(str::to_owned);
    assert_eq!(
        server.call(Method::GET, "/runs", None).await.0,
        StatusCode::UNAUTHORIZED
    );
    server.token = None;
    let (status, body) = server.call(Method::GET, "/runs", None).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("UNAUTHORIZED")),
        "{body}"
    );
    assert_eq!(server.call(Method::GET, "/health", None).await.0, StatusCode::OK);
    assert_eq!(
        server.call(Method::GET, "/nothing", None).await.1["error"]["code"].as_str(),
        Some("NOT_FOUND")
    );
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), &["--dev"]).await;
    sim_pool(&server).await;
    let mut runs = Vec::new();
    for round in 0..5 {
        for _ in 0..4 {
            runs.push(submit(&server, &["sleep", "0.05"]).await);
        }
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        // The simulated sandboxes are in the server's memory and die with it.
        server.kill_9();
        server.start_again().await;
    }
    for run in &runs {
        let body = ended(&server, run).await;
        assert_eq!(body["status"].as_str(), Some("succeeded"), "{body}");
    }
    let health = server.get("/health").await;
    assert_eq!(
        health["runs"]["succeeded"].as_u64(),
        Some(runs.len() as u64),
        "{health}"
    );
}

#[tokio::test]
async fn the_interface_is_described_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--dev"]).await;
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"].as_str(), Some("3.1.0"));
    assert!(
        document["paths"]["/api/v1/subtasks/{id}/start"]["post"].is_object(),
        "{document}"
    );
    let page = reqwest::get(server.url()).await.unwrap().text().await.unwrap();
    assert!(page.contains("openapi.json"));
    let (status, body) = server
        .call(
            Method::POST,
            "/projects",
            Some(json!({ "source": "x".repeat(20_000) })),
        )
        .await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, Some("TOO_LARGE")),
        "{body}"
    );
}

#[test]
fn development_mode_is_refused_on_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["serve", "--dev", "--listen", "0.0.0.0:0", "--data"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("refused on 0.0.0.0"),
        "{output:?}"
    );
}

#[test]
fn the_schema_goes_down_and_up() {
    let dir = tempfile::tempdir().unwrap();
    let ostler = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(arguments)
            .arg("--data")
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!ostler(&["migrate", "up"]).contains("pending"));
    assert!(!ostler(&["migrate", "down", "--to", "0"]).contains("applied"));
    let status: Value = serde_json::from_str(&ostler(&["migrate", "status", "--json"])).unwrap();
    assert_eq!(status[0]["applied"], json!(false));
    assert!(ostler(&["config", "print"]).contains("worker_attempts = 10"));
    assert!(ostler(&["completions", "bash"]).contains("ostler"));
}
