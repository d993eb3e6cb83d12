//! Row A1 with the real server on PostgreSQL: what tenants do works under the role of requests, and the database keeps them
//! apart.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{Postgres, TestServer, repository, require};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

struct Tenant<'a> {
    server: &'a TestServer,
    token: String,
    name: &'a str,
}

impl<'a> Tenant<'a> {
    async fn new(server: &'a TestServer, name: &'a str) -> Self {
        server.post("/tenants", json!({ "name": name })).await;
        let mut tenant = Self {
            server,
            token: String::new(),
            name,
        };
        let body = json!({ "name": "all", "permissions": ["tenant:admin"] });
        tenant.token = text(&tenant.by_administrator("/tokens", body).await, "secret");
        tenant
    }

    /// What an administrator of the platform makes in the tenant.
    async fn by_administrator(&self, path: &str, body: Value) -> Value {
        let response = Client::new()
            .post(format!("{}/api/v1{path}", self.server.url()))
            .bearer_auth(self.server.token.as_ref().unwrap())
            .header("ostler-tenant", self.name)
            .json(&body)
            .send();
        response.await.unwrap().json().await.unwrap()
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}/api/v1{path}", self.server.url());
        let mut request = Client::new()
            .request(method, url)
            .bearer_auth(&self.token)
            .timeout(LIMIT);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.done(Method::POST, path, Some(body)).await
    }

    async fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path, None).await
    }

    async fn until(&self, path: &str, status: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let found = self.get(path).await;
            if found["status"] == status {
                return;
            }
            assert!(Instant::now() < end, "{path}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The main things that a tenant does. Gives the paths of what is there afterwards.
    async fn works(&self, source: &str) -> Vec<String> {
        // Only an administrator of the platform may name a path of the server.
        let body = json!({ "source": source });
        let project = self.by_administrator("/projects", body).await;
        let project = format!("/projects/{}", text(&project, "id"));
        let body = json!({ "title": "Do something", "agent_kind": "claude" });
        let task = self.post(&format!("{project}/tasks"), body).await;
        let task = format!("/tasks/{}", text(&task, "id"));

        let run = self.post("/runs", json!({ "command": ["echo", "hello"] })).await;
        let run = format!("/runs/{}", text(&run, "id"));
        self.until(&run, "succeeded").await;
        for query in ["", "?follow=true"] {
            let log = self.get(&format!("{run}/logs{query}")).await;
            assert!(log.to_string().contains("hello"), "{log}");
        }
        let long = self.post("/runs", json!({ "command": ["sleep", "3600"] })).await;
        let long = format!("/runs/{}", text(&long, "id"));
        self.until(&long, "running").await;
        self.get(&format!("{long}/explain")).await;
        self.done(Method::POST, &format!("{long}/cancel"), None).await;
        self.until(&long, "cancelled").await;

        let agent = self
            .post("/agents", json!({ "config": { "env": { "A": "b" } } }))
            .await;
        let agent = format!("/agents/{}", text(&agent, "id"));
        let body = json!({ "command": ["echo", "from the agent"] });
        let said = self.post(&format!("{agent}/exec"), body).await;
        assert!(said.to_string().contains("from the agent"), "{said}");
        let gone = self.post("/agents", json!({})).await;
        let gone = format!("/agents/{}", text(&gone, "id"));
        self.done(Method::DELETE, &gone, None).await;
        assert_eq!(self.get("/agents").await.as_array().unwrap().len(), 1);

        let user = self.post("/users", json!({ "name": "somebody" })).await;
        let user = format!("/users/{}", text(&user, "id"));
        let value = json!({ "kind": "generic", "value": "v" });
        self.done(Method::PUT, "/credentials/key", Some(value)).await;
        self.post("/tokens", json!({ "name": "second" })).await;
        let told = self.get("/events?after=0&follow=false").await;
        assert!(told.to_string().contains("agent.provisioned"), "{told}");
        let entries = self.get("/audit").await;
        assert!(entries.to_string().contains("agent.destroy"), "{entries}");
        assert_eq!(self.get("/health").await["runs"]["succeeded"], 1);
        vec![project, task, run, long, agent, gone, user]
    }
}

fn text(body: &Value, name: &str) -> String {
    let found = body[name].as_str();
    found.unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

/// What the administrator of the database says, and the answer.
fn sql(database: &str, statement: &str) -> String {
    let done = Command::new("psql")
        .args([database, "-qtAc", statement])
        .output()
        .unwrap();
    assert!(done.status.success(), "{statement}: {done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn tenants_work_and_are_kept_apart_by_the_database() {
    require!(Postgres);
    let (postgres, dir) = (Postgres::shared(), tempfile::tempdir().unwrap());
    let database = postgres.database();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .args(["--database", &database])
        .env("OSTLER_DRIVERS__SIM", "true")
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await;
    assert!(!server.log().contains("row-level security is not in force"));
    let mut tenants = Vec::new();
    for name in ["one", "other"] {
        let source = dir.path().join(name);
        repository(&source, &[("README", "sample\n")]);
        let tenant = Tenant::new(&server, name).await;
        let paths = tenant.works(source.to_str().unwrap()).await;
        tenants.push((tenant, paths));
    }
    for (me, other) in [(0, 1), (1, 0)] {
        for path in &tenants[other].1 {
            let (status, answer) = tenants[me].0.call(Method::GET, path, None).await;
            assert_eq!(status, 404, "{path}: {answer}");
        }
        for list in ["/projects", "/runs", "/agents", "/users", "/tokens", "/audit"] {
            let seen = tenants[me].0.get(list).await.to_string();
            for path in &tenants[other].1 {
                let id = path.rsplit('/').next().unwrap();
                assert!(!seen.contains(id), "{list} shows {id}: {seen}");
            }
        }
    }

    // What carries the requests out: without the rights of the role tenants get nothing more, and the platform goes on.
    let role = sql(
        &database,
        "SELECT DISTINCT grantee FROM information_schema.table_privileges WHERE grantee LIKE 'ostler_request_%'",
    );
    sql(
        &database,
        &format!("REVOKE SELECT ON projects, runs, events FROM {role}"),
    );
    for list in ["/projects", "/runs"] {
        let (status, answer) = tenants[0].0.call(Method::GET, list, None).await;
        assert_eq!(status, 500, "{list}: {answer}");
        assert!(answer.to_string().contains("permission denied"), "{answer}");
        server.get(list).await;
    }
    assert_eq!(tenants[0].0.get("/agents").await.as_array().unwrap().len(), 1);
}
