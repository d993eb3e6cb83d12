//! Bar R2: 64 claimers at each of two servers on one PostgreSQL, and no sandbox is given out twice or lost.
//!
//! 10,000 claims go through two stores, where all of them compete for the same sandboxes; 2,000 more go through two real
//! servers over HTTP, each with its own sandboxes of one pool. A program without optimization on two cores takes some ten
//! milliseconds for a claim over HTTP with all that it starts, so 10,000 of those would take minutes and show no more.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_domain::{
    DriverKind, Sandbox, SandboxId, SandboxStatus, SandboxTemplate, ServerId, Tenant, TenantId, Timestamp,
};
use ostler_store::{Change, ClaimSandbox, Filter, Store, StoreExt};
use ostler_store_postgres::{Options, PostgresStore};
use ostler_test_kit::{Postgres, TestServer, require};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// At each of the two.
const CLAIMERS: usize = 64;
const STORED: usize = 10_000;
const OVER_HTTP: usize = 2_000;
const LIMIT: Duration = Duration::from_secs(60);
const CREDENTIAL_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn warm(server_id: ServerId, number: usize) -> Sandbox {
    Sandbox {
        id: SandboxId::new(),
        tenant_id: None,
        department_id: None,
        pool: "shared".into(),
        driver: DriverKind::Sim,
        driver_ref: None,
        server_id,
        host: "local".into(),
        paused: None,
        status: SandboxStatus::Warm,
        template: SandboxTemplate::new(DriverKind::Sim),
        config: Value::Null,
        tool_allowlist: None,
        vsock_cid: None,
        for_run: false,
        failures: 0,
        reason: None,
        created_at: Timestamp(number as i64),
        claimed_at: None,
        checked_at: None,
        used_at: None,
        version: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_give_out_each_sandbox_once() {
    require!(Postgres);
    let postgres = Postgres::shared();
    let url = postgres.database();
    let mut stores = Vec::new();
    for _ in 0..2 {
        let store = PostgresStore::connect(&url, Options::default()).await.unwrap();
        store.migrate_up(None).await.unwrap();
        stores.push(Arc::new(store));
    }
    let tenants = [TenantId::new(), TenantId::new()];
    let server_id = ServerId::new();
    for (number, id) in tenants.iter().enumerate() {
        let tenant = Tenant {
            id: *id,
            name: format!("tenant-{number}"),
            created_at: Timestamp(1),
            version: 0,
        };
        stores[0].commit(vec![Change::insert(&tenant)]).await.unwrap();
    }
    let made: Vec<Sandbox> = (0..STORED).map(|number| warm(server_id, number)).collect();
    for some in made.chunks(1000) {
        let changes = some.iter().map(Change::insert).collect();
        stores[0].commit(changes).await.unwrap();
    }
    let mut claimers = JoinSet::new();
    for claimer in 0..2 * CLAIMERS {
        let (store, tenant_id) = (Arc::clone(&stores[claimer % 2]), tenants[claimer / 2 % 2]);
        claimers.spawn(async move {
            let mut got = Vec::new();
            loop {
                let claim = ClaimSandbox {
                    pool: "shared".into(),
                    server_id,
                    tenant_id,
                    department_id: None,
                    config: json!({ "claimer": claimer }),
                    tool_allowlist: None,
                    for_run: false,
                    now: Timestamp(1_000_000),
                };
                let Some(sandbox) = store.claim_sandbox(claim, None).await.unwrap() else {
                    return (claimer, got);
                };
                assert_eq!(
                    (sandbox.status, sandbox.tenant_id, sandbox.version),
                    (SandboxStatus::Running, Some(tenant_id), 1)
                );
                got.push(sandbox.id);
            }
        });
    }
    let claimed = claimers.join_all().await;
    let all: Vec<SandboxId> = claimed.iter().flat_map(|(_, got)| got.iter().copied()).collect();
    assert_eq!(all.len(), STORED, "as many claims as sandboxes");
    let once: BTreeSet<SandboxId> = all.iter().copied().collect();
    assert_eq!(
        once,
        made.iter().map(|sandbox| sandbox.id).collect(),
        "none twice, none lost"
    );
    // What is kept says the same as the answers.
    let kept: Vec<Sandbox> = stores[1].list(Filter::all()).await.unwrap();
    let holder = |id: SandboxId| claimed.iter().find(|(_, got)| got.contains(&id)).unwrap().0;
    for sandbox in kept.iter().step_by(97) {
        assert_eq!(sandbox.config["claimer"], holder(sandbox.id), "{}", sandbox.id);
    }
    assert!(
        kept.iter()
            .all(|sandbox| sandbox.status == SandboxStatus::Running && sandbox.version == 1)
    );
    for store in stores {
        store.close().await;
    }
}

async fn start(data: &std::path::Path, database: &str) -> TestServer {
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--database", database])
        // Servers that share a database share the key of its credentials.
        .env("OSTLER_CREDENTIAL_KEY", CREDENTIAL_KEY)
        .env("OSTLER_DRIVERS__SIM", "true")
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await
}

async fn send(http: &Client, method: Method, url: String, token: &str, body: Option<Value>) -> Value {
    let mut request = http.request(method, &url).bearer_auth(token).timeout(LIMIT);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{url}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

fn text(body: &Value, name: &str) -> String {
    body[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {body}"))
        .to_owned()
}

fn ids(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|one| text(one, "id"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_give_out_each_sandbox_once() {
    require!(Postgres);
    let (postgres, here, there) = (
        Postgres::shared(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let database = postgres.database();
    let servers = [
        start(here.path(), &database).await,
        start(there.path(), &database).await,
    ];
    // Some are warm, some are started for their claim, and the pool is filled again all the while.
    let pool = json!({
        "template": { "driver": "sim" }, "target": 200, "max": 5000,
        "start_concurrency": 8, "refill_per_minute": 60000, "refill_burst": 5000,
    });
    let (status, answer) = servers[0].call(Method::PUT, "/pools/shared", Some(pool)).await;
    assert!(status.is_success(), "{answer}");
    let http = Client::new();
    let mut tokens = Vec::new();
    for name in ["one", "other"] {
        let tenant = text(&servers[0].post("/tenants", json!({ "name": name })).await, "id");
        let body = json!({ "name": "all", "permissions": ["tenant:admin"] });
        let url = format!("{}/api/v1/tokens", servers[0].url());
        let request = http
            .post(url)
            .bearer_auth(servers[0].token.as_ref().unwrap())
            .header("ostler-tenant", name)
            .json(&body);
        let token: Value = request.send().await.unwrap().json().await.unwrap();
        tokens.push((tenant, text(&token, "secret")));
    }
    let begin = Instant::now();
    let left = Arc::new(AtomicUsize::new(OVER_HTTP));
    let mut claimers = JoinSet::new();
    for claimer in 0..2 * CLAIMERS {
        let (url, left, http) = (
            servers[claimer % 2].url().to_owned(),
            Arc::clone(&left),
            http.clone(),
        );
        let (tenant, token) = tokens[claimer / 2 % 2].clone();
        claimers.spawn(async move {
            let mut got = Vec::new();
            let one_less = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_ok()
            {
                let body = json!({ "pool": "shared" });
                let url = format!("{url}/api/v1/agents");
                let agent = send(&http, Method::POST, url, &token, Some(body)).await;
                got.push((tenant.clone(), text(&agent, "id"), agent["cold_reason"].is_null()));
            }
            got
        });
    }
    let claimed: Vec<(String, String, bool)> = claimers.join_all().await.into_iter().flatten().collect();
    let warm = claimed.iter().filter(|(_, _, warm)| *warm).count();
    println!(
        "{OVER_HTTP} claims, {warm} of them warm, in {:?}",
        begin.elapsed()
    );
    assert_eq!(claimed.len(), OVER_HTTP);
    assert!(warm > 100, "{warm} were warm");
    let once: BTreeSet<String> = claimed.iter().map(|(_, id, _)| id.clone()).collect();
    assert_eq!(once.len(), OVER_HTTP, "none twice");
    // Each tenant has what its claimers were given, and nothing is held that nobody was given.
    for (tenant, token) in &tokens {
        let given = claimed
            .iter()
            .filter(|(owner, _, _)| owner == tenant)
            .map(|(_, id, _)| id.clone());
        for server in &servers {
            let url = format!("{}/api/v1/agents", server.url());
            let held = ids(&send(&http, Method::GET, url, token, None).await);
            assert_eq!(held, given.clone().collect(), "{tenant}");
        }
    }
    let all = servers[0].get("/sandboxes").await;
    let held = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|sandbox| sandbox["status"] == "running");
    let held: BTreeSet<String> = held.map(|sandbox| text(sandbox, "id")).collect();
    assert_eq!(held, once);
}
