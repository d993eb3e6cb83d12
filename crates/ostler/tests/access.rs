//! Users, roles, tokens, credentials and the audit log, through the real server.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::TestServer;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Keys for credentials.
const OLD: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const NEW: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
const PLANTED: &str = "planted-value-of-a-credential";

fn server(data: &Path) -> TestServer {
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .env("OSTLER_DRIVERS__SIM", "true")
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
}

/// A request with a token, as administrator of the platform in another tenant if one is named.
async fn call(
    server: &TestServer,
    token: &str,
    tenant: Option<&str>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let url = format!("{}/api/v1{path}", server.url());
    let mut request = Client::new().request(method, url).bearer_auth(token);
    if let Some(tenant) = tenant {
        request = request.header("ostler-tenant", tenant);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn text(body: &Value, name: &str) -> String {
    let found = body[name].as_str();
    found.unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

async fn role_named(server: &TestServer, name: &str) -> String {
    let roles = server.get("/roles").await;
    let role = roles.as_array().unwrap().iter().find(|role| role["name"] == name);
    text(role.unwrap(), "id")
}

/// A user with these roles, and a token that asks for everything.
async fn somebody(server: &TestServer, name: &str, roles: &[&str]) -> (String, String) {
    let mut ids = Vec::new();
    for role in roles {
        ids.push(role_named(server, role).await);
    }
    let user = server.post("/users", json!({ "name": name, "roles": ids })).await;
    let user = text(&user, "id");
    let token = server
        .post("/tokens", json!({ "name": "t", "user_id": user }))
        .await;
    (user, text(&token, "secret"))
}

#[tokio::test]
async fn a_role_that_is_taken_away_and_a_user_that_is_disabled_lose_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).start().await;
    let (user, token) = somebody(&server, "ann", &["viewer"]).await;
    let get = async |path: &str| call(&server, &token, None, Method::GET, path, None).await.0;
    assert_eq!((get("/projects").await, get("/users").await), (200, 403));
    let (status, me) = call(&server, &token, None, Method::GET, "/auth/me", None).await;
    assert_eq!((status, &me["user_id"]), (200, &json!(user)), "{me}");
    let submit = json!({ "command": ["true"] });
    let run = call(&server, &token, None, Method::POST, "/runs", Some(submit.clone())).await;
    assert_eq!(run.0, 403, "{run:?}");

    let developer = role_named(&server, "developer").await;
    let path = format!("/users/{user}/roles/{developer}");
    for _ in 0..2 {
        assert_eq!(
            server.call(Method::PUT, &path, None).await.0,
            204,
            "repeating it changes nothing"
        );
    }
    let run = call(&server, &token, None, Method::POST, "/runs", Some(submit.clone())).await;
    assert_eq!(run.0, 201, "{run:?}");
    for _ in 0..2 {
        assert_eq!(server.call(Method::DELETE, &path, None).await.0, 204);
    }
    let run = call(&server, &token, None, Method::POST, "/runs", Some(submit)).await;
    assert_eq!(run.0, 403, "{run:?}");

    // A role of one's own can be changed under its holders, and stays while somebody has it.
    let role = json!({ "name": "watcher", "permissions": ["audit:read"] });
    let role = text(&server.post("/roles", role).await, "id");
    let path = format!("/users/{user}/roles/{role}");
    assert_eq!(server.call(Method::PUT, &path, None).await.0, 204);
    assert_eq!(get("/audit").await, 200);
    let change = json!({ "permissions": ["runs:read"] });
    let set = server
        .call(Method::PUT, &format!("/roles/{role}"), Some(change))
        .await;
    assert_eq!((set.0.as_u16(), get("/audit").await), (200, 403), "{set:?}");
    let removed = server.call(Method::DELETE, &format!("/roles/{role}"), None).await;
    assert_eq!(removed.0, 409, "{removed:?}");

    for (disabled, wanted) in [(true, 401), (false, 200)] {
        let change = json!({ "disabled": disabled });
        let changed = server
            .call(Method::PATCH, &format!("/users/{user}"), Some(change))
            .await;
        assert_eq!(
            (changed.0.as_u16(), get("/projects").await),
            (200, wanted),
            "{changed:?}"
        );
    }
    assert_eq!(
        server
            .call(Method::DELETE, &format!("/users/{user}"), None)
            .await
            .0,
        204
    );
    assert_eq!(get("/projects").await, 401, "the tokens went with the user");
}

#[tokio::test]
async fn nobody_comes_to_more_than_they_have() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).start().await;
    let root = server.token.clone().unwrap();
    let (boss, _) = somebody(&server, "boss", &["platform-admin"]).await;
    // An administrator of the platform's own tenant is none of the platform.
    let (ann, token) = somebody(&server, "ann", &["admin"]).await;
    let platform = role_named(&server, "platform-admin").await;
    let operator = role_named(&server, "operator").await;
    let attempts = [
        (Method::PUT, format!("/users/{ann}/roles/{platform}"), None),
        (Method::PUT, format!("/users/{ann}/roles/{operator}"), None),
        (
            Method::POST,
            "/tokens".into(),
            Some(json!({ "name": "x", "permissions": ["admin:*"] })),
        ),
        (
            Method::POST,
            "/tokens".into(),
            Some(json!({ "name": "x", "permissions": ["fleet:write"], "service": true })),
        ),
        (
            Method::POST,
            "/tokens".into(),
            Some(json!({ "name": "x", "user_id": boss })),
        ),
        (
            Method::PATCH,
            format!("/users/{boss}"),
            Some(json!({ "disabled": true })),
        ),
        (Method::DELETE, format!("/users/{boss}"), None),
        (
            Method::POST,
            "/roles".into(),
            Some(json!({ "name": "x", "permissions": ["admin:*"] })),
        ),
        (
            Method::POST,
            "/users".into(),
            Some(json!({ "name": "x", "roles": [platform] })),
        ),
        (Method::POST, "/tenants".into(), Some(json!({ "name": "x" }))),
        (Method::POST, "/credential-key/rotate".into(), None),
        (Method::GET, "/pools".into(), None),
    ];
    for (method, path, body) in attempts {
        let (status, answer) = call(&server, &token, None, method.clone(), &path, body).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
    }
    // Nor by way of another tenant, whose existence is not told either.
    server.post("/tenants", json!({ "name": "other" })).await;
    for tenant in ["other", "nowhere", "default"] {
        let (status, answer) = call(&server, &token, Some(tenant), Method::GET, "/projects", None).await;
        assert_eq!(status, 403, "{tenant}: {answer}");
    }
    let (status, answer) = call(&server, &root, Some("nowhere"), Method::GET, "/projects", None).await;
    assert_eq!(status, 404, "{answer}");

    // In another tenant not even the platform can give what reaches beyond it, and `admin:*` there is no more than that.
    let role = json!({ "name": "x", "permissions": ["fleet:read"] });
    let (status, answer) = call(&server, &root, Some("other"), Method::POST, "/roles", Some(role)).await;
    assert_eq!(status, 422, "{answer}");
    let made = json!({ "name": "all that I may" });
    let (status, made) = call(&server, &root, Some("other"), Method::POST, "/tokens", Some(made)).await;
    assert_eq!(
        (status, &made["permissions"]),
        (201, &json!(["tenant:admin"])),
        "{made}"
    );
    let other = text(&made, "secret");
    for (path, wanted) in [("/users", 200), ("/pools", 403), ("/tenants", 403)] {
        let (status, answer) = call(&server, &other, None, Method::GET, path, None).await;
        assert_eq!(status, wanted, "{path}: {answer}");
    }
    // What the platform did there is told there, and only there.
    let (_, log) = call(
        &server,
        &other,
        None,
        Method::GET,
        "/audit?action=token.create",
        None,
    )
    .await;
    assert_eq!(log.as_array().unwrap().len(), 1, "{log}");

    // The department of an agent is one of the tenant's own.
    let department = server.post("/departments", json!({ "name": "d" })).await;
    let body = json!({ "department_id": department["id"] });
    let (status, answer) = call(&server, &other, None, Method::POST, "/agents", Some(body.clone())).await;
    assert_eq!(status, 404, "{answer}");
    let (status, answer) = call(&server, &root, None, Method::POST, "/agents", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn what_changes_something_is_in_the_audit_log_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).start().await;
    let (user, token) = somebody(&server, "ann", &["developer"]).await;
    let run = json!({ "command": ["echo", "planted-argument"] });
    let (_, run) = call(&server, &token, None, Method::POST, "/runs", Some(run)).await;
    let run = text(&run, "id");
    call(
        &server,
        &token,
        None,
        Method::POST,
        &format!("/runs/{run}/cancel"),
        None,
    )
    .await;
    let secret = json!({ "kind": "generic", "value": PLANTED });
    assert_eq!(
        server.call(Method::PUT, "/credentials/c", Some(secret)).await.0,
        200
    );

    let log = server.get("/audit?limit=1000").await;
    let log = log.as_array().unwrap();
    let actions: Vec<&str> = log
        .iter()
        .rev()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    for wanted in [
        "pool.set",
        "token.create",
        "user.create",
        "run.submit",
        "credential.set",
    ] {
        assert!(actions.contains(&wanted), "{wanted} is missing: {actions:?}");
    }
    let all = Value::Array(log.clone()).to_string();
    assert!(!all.contains("planted") && !all.contains(&token), "{all}");
    let ids: Vec<&str> = log.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first: {ids:?}");

    for who in [user.as_str(), "ann"] {
        let own = server.get(&format!("/audit?actor={who}&object={run}")).await;
        let own = own.as_array().unwrap();
        assert_eq!(own.last().unwrap()["action"], "run.submit", "{own:?}");
        assert!(
            own.iter()
                .all(|e| e["kind"] == "run" && e["request_id"].is_string() && e["token_id"].is_string())
        );
    }
    let later = server.get(&format!("/audit?after={}", ids[2])).await;
    let later: Vec<&str> = later
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["id"].as_str().unwrap())
        .collect();
    assert_eq!(later, [ids[1], ids[0]], "oldest first");
    let earlier = server.get(&format!("/audit?before={}&limit=1", ids[1])).await;
    assert_eq!(earlier[0]["id"], ids[2], "{earlier}");
    assert_eq!(server.call(Method::GET, "/audit?limits=1", None).await.0, 400);
}

#[tokio::test]
async fn credentials_are_sealed_and_a_wrong_key_is_seen_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let mut server = server(data).start().await;
    let key = data.join("credential-key");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for value in ["first", PLANTED] {
        let body = json!({ "kind": "github_token", "value": value });
        let (status, answer) = server.call(Method::PUT, "/credentials/forge", Some(body)).await;
        assert!(status == 200 && !answer.to_string().contains(value), "{answer}");
    }
    let listed = server.get("/credentials").await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert!(
        !listed.to_string().contains(PLANTED) && !listed.to_string().contains("ciphertext"),
        "{listed}"
    );
    for (name, value) in [("forge", ""), ("a%20b", "v"), ("forge", &*"x".repeat(8193))] {
        let body = json!({ "kind": "generic", "value": value });
        let refused = server
            .call(Method::PUT, &format!("/credentials/{name}"), Some(body))
            .await;
        assert_eq!(refused.0, 400, "{refused:?}");
    }

    // The key goes round, and the server still knows it after a restart.
    let before = std::fs::read(&key).unwrap();
    let rotated = server.post("/credential-key/rotate", Value::Null).await;
    assert_eq!(rotated["credentials"], 1, "{rotated}");
    assert_ne!(std::fs::read(&key).unwrap(), before);
    assert_eq!(server.get("/credentials").await[0]["key_id"], rotated["key_id"]);
    server.kill_9();
    server.start_again().await;
    server.post("/credential-key/rotate", Value::Null).await;
    server.stop().await;
    assert_planted_nowhere(data, &server.log());

    let right = std::fs::read(&key).unwrap();
    let refused = |variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data);
        command
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER", "false");
        if let Some(value) = variable {
            command.env("OSTLER_CREDENTIAL_KEY", value);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refused(Some(OLD));
    assert!(
        error.contains("sealed with the key") && !error.contains(OLD),
        "{error}"
    );
    assert!(refused(Some("nonsense")).contains("base 64"));
    std::fs::write(&key, &before).unwrap();
    assert!(refused(None).contains("credential-key"), "a key of long ago");
    std::fs::remove_file(&key).unwrap();
    assert!(refused(None).contains("holds none"));
    assert!(!key.exists(), "no new key takes the place of a lost one");
    // A rotation that was cut off leaves two keys, of which one is the right one.
    std::fs::write(&key, [before, right.clone()].concat()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(None).contains("chmod 600"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    server.start_again().await;
    assert_eq!(std::fs::read(&key).unwrap(), right, "only the right one is kept");
    assert_eq!(
        server.call(Method::DELETE, "/credentials/forge", None).await.0,
        204
    );
    assert_eq!(
        server.call(Method::DELETE, "/credentials/forge", None).await.0,
        404
    );
}

#[tokio::test]
async fn keys_of_the_environment_are_rotated_by_the_operator() {
    let directory = tempfile::tempdir().unwrap();
    let start = async |keys: &str| {
        server(directory.path())
            .env("OSTLER_CREDENTIAL_KEY", keys)
            .start()
            .await
    };
    let first = start(OLD).await;
    let body = json!({ "kind": "generic", "value": PLANTED });
    assert_eq!(first.call(Method::PUT, "/credentials/c", Some(body)).await.0, 200);
    let (status, answer) = first.call(Method::POST, "/credential-key/rotate", None).await;
    assert!(
        status == 409 && answer.to_string().contains("before it"),
        "{answer}"
    );
    assert!(!directory.path().join("credential-key").exists());
    drop(first);
    let second = start(&format!("{NEW},{OLD}")).await;
    second.post("/credential-key/rotate", Value::Null).await;
    drop(second);
    let third = start(NEW).await;
    assert_eq!(third.get("/credentials").await.as_array().unwrap().len(), 1);
}

/// Neither the log nor any file holds the value.
fn assert_planted_nowhere(data: &Path, log: &str) {
    assert!(!log.contains(PLANTED), "{log}");
    let mut places = vec![data.to_owned()];
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(
                std::fs::read_dir(&place)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if place.is_file() {
            let content = std::fs::read(&place).unwrap();
            let found = content
                .windows(PLANTED.len())
                .any(|part| part == PLANTED.as_bytes());
            assert!(!found, "{}", place.display());
        }
    }
}
