//! The real binary, driven over HTTP.

#![allow(clippy::unwrap_used, reason = "test code")]

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    child: Child,
    url: String,
    token: Option<String>,
    http: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(data: &Path, arguments: &[&str]) -> Self {
        let connection = data.join("server.json");
        let _ = std::fs::rename(&connection, data.join("server.json.before"));
        if let Ok(text) = std::fs::read_to_string(data.join("server.json.before")) {
            // The token is kept from start to start; only the address is to be waited for.
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value["url"] = Value::Null;
            std::fs::write(&connection, value.to_string()).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .env("OSTLER_DRIVERS__SIM", "true")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            url: String::new(),
            token: None,
            http: Client::new(),
        };
        let end = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read_to_string(&connection).unwrap_or_default();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(url) = value["url"].as_str() {
                server.url = url.to_owned();
                server.token = value["token"].as_str().map(str::to_owned);
                return server;
            }
            assert!(Instant::now() < end, "the server does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url))
            .timeout(LIMIT);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn sim_pool(&self) {
        let body = json!({ "template": { "driver": "sim" }, "target": 1, "max": 4 });
        let (status, body) = self.call(Method::PUT, "/pools/small", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }

    async fn submit(&self, command: &[&str]) -> String {
        let (status, body) = self
            .call(Method::POST, "/runs", Some(json!({ "command": command })))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    async fn ended(&self, run: &str) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let body = self.get(&format!("/runs/{run}")).await;
            if !["queued", "running"].contains(&body["status"].as_str().unwrap()) {
                return body;
            }
            assert!(Instant::now() < end, "{body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn git(dir: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-C"])
        .arg(dir)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "git {arguments:?}");
}

fn sample(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    git(dir, &["init", "-q", "-b", "main"]);
    std::fs::write(dir.join("README"), "sample\n").unwrap();
    git(dir, &["add", "."]);
    git(dir, &["commit", "-q", "-m", "first"]);
}

#[tokio::test]
async fn a_command_is_executed_and_its_log_followed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]).await;
    let (status, body) = server
        .call(Method::POST, "/runs", Some(json!({ "command": ["true"] })))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "without a pool: {body}");
    server.sim_pool().await;
    let run = server.submit(&["echo", "hello"]).await;
    let body = server.ended(&run).await;
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
    let repository = dir.path().join("sample");
    sample(&repository);
    let server = Server::start(&dir.path().join("data"), &["--dev"]).await;
    let add = |source: String| server.call(Method::POST, "/projects", Some(json!({ "source": source })));
    let (status, project) = add(repository.display().to_string()).await;
    assert_eq!(
        (status, project["default_branch"].as_str()),
        (StatusCode::CREATED, Some("main")),
        "{project}"
    );
    assert_eq!(
        add(repository.display().to_string()).await.0,
        StatusCode::CONFLICT
    );
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
    let mut server = Server::start(dir.path(), &[]).await;
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
    let mut server = Server::start(dir.path(), &["--dev"]).await;
    server.sim_pool().await;
    let mut runs = Vec::new();
    for round in 0..5 {
        for _ in 0..4 {
            runs.push(server.submit(&["sleep", "0.05"]).await);
        }
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        // Drop kills with SIGKILL. The simulated sandboxes are in the server's memory and die with it.
        drop(server);
        server = Server::start(dir.path(), &["--dev"]).await;
    }
    for run in &runs {
        let body = server.ended(run).await;
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
    let server = Server::start(dir.path(), &["--dev"]).await;
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"].as_str(), Some("3.1.0"));
    assert!(
        document["paths"]["/api/v1/subtasks/{id}/start"]["post"].is_object(),
        "{document}"
    );
    let page = server
        .http
        .get(&server.url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
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
