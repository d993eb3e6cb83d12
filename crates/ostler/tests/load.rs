//! Many tests from many clients at once, on two servers that share a PostgreSQL database, one of which is killed meanwhile:
//! every test has exactly one result, and the counters are those of the database whenever somebody looks.
//!
//! `OSTLER_LOAD_TESTS=20000` does it at full size; `OSTLER_LOAD_DRIVER=sim` without processes.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{LeakGuard, Postgres, TestServer, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::RwLock;

const CLIENTS: usize = 20;
/// Plans of each client, one after the other.
const PLANS: usize = 2;
/// Longest time without any test that ends.
const STUCK: Duration = Duration::from_secs(90);
const CREDENTIAL_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// How many runs are in each state.
type Counts = BTreeMap<String, i64>;

/// What the database holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    /// The counters that are kept.
    kept: Counts,
    /// Runs, counted.
    real: Counts,
    plans: BTreeMap<String, Counts>,
    /// Attempts that were begun: what moved in between is seen by it.
    attempts: i64,
    /// Runs that are in none or several of the places where a run can be.
    misplaced: i64,
}

const RUNS: &str = "
    SELECT r.plan_id, COALESCE(e.status, CASE WHEN a.seq IS NULL THEN 'queued' ELSE 'running' END) AS status,
        count(*) AS n, sum(COALESCE(e.attempt, a.attempt, q.attempt, d.attempt, 0))::bigint AS attempts,
        count(*) FILTER (WHERE
            (e.seq IS NOT NULL)::int + (a.seq IS NOT NULL)::int + (q.seq IS NOT NULL)::int + (d.seq IS NOT NULL)::int <> 1
        ) AS misplaced
    FROM runs r LEFT JOIN run_ends e ON e.seq = r.seq LEFT JOIN run_active a ON a.seq = r.seq
        LEFT JOIN run_ready q ON q.seq = r.seq LEFT JOIN run_delayed d ON d.seq = r.seq
    GROUP BY 1, 2";
const STATES: [&str; 8] = [
    "queued",
    "running",
    "succeeded",
    "failed",
    "timed_out",
    "cancelled",
    "lost",
    "skipped",
];

impl Snapshot {
    async fn take(database: &PgPool) -> Self {
        let mut moment = database.begin().await.unwrap();
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *moment)
            .await
            .unwrap();
        let sums: Vec<String> = STATES
            .iter()
            .map(|state| format!("COALESCE(sum({state}), 0)::bigint"))
            .collect();
        let sql = format!("SELECT {} FROM run_counts", sums.join(", "));
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut *moment)
            .await
            .unwrap();
        let kept = STATES
            .iter()
            .enumerate()
            .map(|(at, state)| ((*state).to_owned(), row.get(at)));
        let mut snapshot = Self {
            kept: kept.collect(),
            real: STATES.iter().map(|state| ((*state).to_owned(), 0)).collect(),
            plans: BTreeMap::new(),
            attempts: 0,
            misplaced: 0,
        };
        for row in sqlx::query(RUNS).fetch_all(&mut *moment).await.unwrap() {
            let (plan, status, count): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
            *snapshot.real.get_mut(&status).unwrap() += count;
            snapshot.plans.entry(plan).or_default().insert(status, count);
            snapshot.attempts += row.get::<i64, _>(3);
            snapshot.misplaced += row.get::<i64, _>(4);
        }
        snapshot
    }
}

fn is_live(state: &str) -> bool {
    matches!(state, "queued" | "running")
}

/// The counters of a plan, those that are held with the others that wait.
fn counts_of(plan: &Value) -> Counts {
    let counters = &plan["counters"];
    let count = |name: &str| counters[name].as_i64().unwrap();
    let mut counts: Counts = STATES
        .iter()
        .map(|state| ((*state).to_owned(), count(state)))
        .collect();
    *counts.get_mut("queued").unwrap() += count("held");
    counts
}

/// What is answered between two looks at the database must be what it held at some moment in between.
fn assert_between(before: &Counts, said: &Counts, after: &Counts, attempts_began: bool, what: &str) {
    let of = |counts: &Counts, state: &str| counts.get(state).copied().unwrap_or_default();
    for state in STATES {
        let (before, said, after) = (of(before, state), of(said, state), of(after, state));
        if is_live(state) {
            // Nothing began and nothing ended.
            let still = !attempts_began && before == after;
            assert!(
                !still || state != "queued" || said == before,
                "{what}: {state} {before} {said} {after}"
            );
        } else {
            assert!(
                (before..=after).contains(&said),
                "{what}: {state} is {said}, not from {before} to {after}"
            );
        }
    }
}

async fn start(data: &Path, database: &str, driver: &str) -> TestServer {
    let of = |name: &str| if name == driver { "true" } else { "false" };
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .args(["--dev", "--database", database])
        .env("OSTLER_CREDENTIAL_KEY", CREDENTIAL_KEY)
        .env("OSTLER_EXECUTOR__LEASE_SECONDS", "15")
        .env("OSTLER_EXECUTOR__SLOTS", "4")
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_DRIVERS__SIM", of("sim"))
        .env("OSTLER_DRIVERS__PROCESS", of("process"))
        .env("RUST_LOG", "warn")
        .start()
        .await
}

/// How to reach a server; `None` once it is dead.
#[derive(Clone)]
struct Address {
    url: String,
    token: Option<String>,
}

impl Address {
    fn of(server: &TestServer) -> Self {
        Self {
            url: server.url().to_owned(),
            token: server.token.clone(),
        }
    }

    /// `None` if the server does not answer.
    async fn call(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Value> {
        let mut request = http.request(method, format!("{}/api/v1{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.timeout(Duration::from_secs(60)).send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        assert!(status.is_success(), "{path}: {status} {text}");
        Some(serde_json::from_str(&text).unwrap())
    }
}

/// The servers that clients know: all of them go to another one when theirs is gone.
struct Servers(RwLock<Vec<Address>>);

impl Servers {
    /// Asks one of the servers, from the one of this number on.
    async fn ask(
        &self,
        http: &reqwest::Client,
        first: usize,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Value {
        let end = Instant::now() + STUCK;
        for turn in first.. {
            let address = {
                let all = self.0.read().await;
                all[turn % all.len()].clone()
            };
            if let Some(answer) = address.call(http, method.clone(), path, body).await {
                return answer;
            }
            assert!(Instant::now() < end, "no server answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unreachable!("the numbers do not end")
    }

    /// Submits a plan once, even if the server is killed over it.
    async fn submit(&self, http: &reqwest::Client, client: usize, plan: &Value) -> String {
        let end = Instant::now() + STUCK;
        loop {
            let address = {
                let all = self.0.read().await;
                all[client % all.len()].clone()
            };
            if let Some(made) = address.call(http, Method::POST, "/plans", Some(plan)).await {
                return made["id"].as_str().unwrap().to_owned();
            }
            // It may be there all the same.
            let path = format!("/plans?name={}", plan["name"].as_str().unwrap());
            let found = self.ask(http, client, &Method::GET, &path, None).await;
            if let Some(made) = found.as_array().unwrap().first() {
                return made["id"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < end, "the plan cannot be submitted");
        }
    }
}

/// A client: submits its plans, each after the end of the one before. Returns their ids.
async fn client(servers: Arc<Servers>, number: usize, tests: usize) -> Vec<String> {
    let http = reqwest::Client::new();
    let mut plans = Vec::new();
    for plan in 0..PLANS {
        let tests: Vec<Value> = (0..tests)
            .map(|n| json!({ "name": format!("t{n}"), "run": ["true"] }))
            .collect();
        let plan = json!({ "name": format!("load-{number}-{plan}"), "tests": tests });
        let id = servers.submit(&http, number, &plan).await;
        let path = format!("/plans/{id}");
        while servers.ask(&http, number, &Method::GET, &path, None).await["finished_at"].is_null() {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        plans.push(id);
    }
    plans
}

#[derive(Debug, Default)]
struct Samples {
    taken: u32,
    /// At which nothing moved while the server was asked, so that it had to say exactly what the database holds.
    still: u32,
}

/// Looks at the database, asks a server, looks again, until told to stop.
async fn sample(servers: Arc<Servers>, database: PgPool, stop: Arc<AtomicBool>) -> Samples {
    let http = reqwest::Client::new();
    let mut samples = Samples::default();
    while !stop.load(Ordering::Relaxed) {
        let turn = samples.taken as usize;
        let before = Snapshot::take(&database).await;
        assert_eq!(
            before.kept, before.real,
            "the counters that are kept are not what is there"
        );
        assert_eq!(before.misplaced, 0, "{before:?}");
        if let Some(plan) = before.plans.keys().nth(turn % before.plans.len().max(1)) {
            let health = servers.ask(&http, turn, &Method::GET, "/health", None).await;
            let path = format!("/plans/{plan}");
            let view = servers.ask(&http, turn, &Method::GET, &path, None).await;
            let after = Snapshot::take(&database).await;
            assert_eq!(
                after.kept, after.real,
                "the counters that are kept are not what is there"
            );
            let said: Counts = serde_json::from_value(health["runs"].clone()).unwrap();
            let of_plan = counts_of(&view);
            assert_eq!(
                of_plan.values().sum::<i64>(),
                view["tests"].as_i64().unwrap(),
                "{view}"
            );
            let began = before.attempts != after.attempts;
            assert_between(&before.real, &said, &after.real, began, "all runs");
            assert_between(&before.plans[plan], &of_plan, &after.plans[plan], began, plan);
            if before == after {
                samples.still += 1;
                assert_eq!(said, before.real, "nothing moved");
                let mut of_plan = of_plan;
                of_plan.retain(|_, count| *count != 0);
                assert_eq!(of_plan, before.plans[plan], "nothing moved");
            }
        }
        samples.taken += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    samples
}

/// Every test of every plan has one result, as the interface tells it and as it is kept.
async fn assert_one_result_each(server: &TestServer, database: &PgPool, plans: &[String], tests: usize) {
    for plan in plans {
        let view = server.get(&format!("/plans/{plan}")).await;
        assert_eq!(view["status"], "passed", "{view}");
        assert_eq!(view["counters"]["succeeded"], tests, "{view}");
        let mut names = BTreeSet::new();
        let mut before = String::new();
        loop {
            let page = server
                .get(&format!("/plans/{plan}/tests?limit=1000{before}"))
                .await;
            let page = page.as_array().unwrap().clone();
            let Some(last) = page.last() else { break };
            before = format!("&before_seq={}", last["seq"]);
            for test in &page {
                assert_eq!(test["status"], "succeeded", "{test}");
                assert!(
                    names.insert(test["name"].as_str().unwrap().to_owned()),
                    "there twice: {test}"
                );
            }
        }
        assert_eq!(names.len(), tests);
    }
    let all = (plans.len() * tests) as i64;
    let count = async |sql: &'static str| {
        sqlx::query(sql)
            .fetch_one(database)
            .await
            .unwrap()
            .get::<i64, _>(0)
    };
    assert_eq!(count("SELECT count(*) FROM runs").await, all);
    assert_eq!(
        count("SELECT count(*) FROM run_ends WHERE status = 'succeeded' AND superseded = 0").await,
        all
    );
    assert_eq!(
        count("SELECT count(*) FROM test_results WHERE status = 'succeeded'").await,
        all
    );
    assert_eq!(
        count("SELECT count(DISTINCT (plan_id, key)) FROM test_results").await,
        all
    );
    let told = "SELECT count(*) FROM events WHERE kind = 'test.finished'";
    assert_eq!(count(told).await, all, "each end is told once");
    let told = "SELECT count(DISTINCT subject) FROM events WHERE kind = 'plan.finished'";
    assert_eq!(count(told).await, plans.len() as i64);
    assert_eq!(count("SELECT count(*) FROM run_ready").await, 0);
    assert_eq!(count("SELECT count(*) FROM run_delayed").await, 0);
    assert_eq!(count("SELECT count(*) FROM run_active").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_test_has_one_result_though_a_server_is_killed() {
    require!(Postgres, Bubblewrap);
    let all: usize = std::env::var("OSTLER_LOAD_TESTS").map_or(2000, |text| text.parse().unwrap());
    let driver = std::env::var("OSTLER_LOAD_DRIVER").unwrap_or_else(|_| "process".into());
    let tests = (all / CLIENTS / PLANS).max(1);
    let all = tests * CLIENTS * PLANS;
    let postgres = Postgres::shared();
    let url = postgres.database();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _left = (LeakGuard::new(here.path()), LeakGuard::new(there.path()));
    let mut a = start(here.path(), &url, &driver).await;
    let b = start(there.path(), &url, &driver).await;
    let body = json!({ "template": { "driver": driver, "network": "none" }, "target": 2, "max": 8 });
    let (status, body) = a.call(Method::PUT, "/pools/load", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let database = PgPool::connect(&url).await.unwrap();

    let servers = Arc::new(Servers(RwLock::new(vec![Address::of(&a), Address::of(&b)])));
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(Arc::clone(&servers), number, tests)))
        .collect();
    let sampling = tokio::spawn(sample(Arc::clone(&servers), database.clone(), Arc::clone(&stop)));

    // A third of the way, one of them is killed.
    let (mut most, mut moved) = (0, Instant::now());
    loop {
        let ended = sqlx::query("SELECT count(*) FROM run_ends")
            .fetch_one(&database)
            .await
            .unwrap();
        let ended: i64 = ended.get(0);
        if ended >= (all / 3) as i64 {
            break;
        }
        if ended > most {
            (most, moved) = (ended, Instant::now());
        }
        assert!(moved.elapsed() < STUCK, "only {ended} tests ended");
        assert!(!sampling.is_finished(), "a sample was wrong");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let first = begun.elapsed();
    a.kill_9();
    let at_kill = Snapshot::take(&database).await;
    servers.0.write().await.remove(0);

    let mut plans = Vec::new();
    for client in clients {
        plans.extend(client.await.unwrap());
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let samples = sampling.await.unwrap();
    assert_eq!(plans.len(), CLIENTS * PLANS);
    assert_one_result_each(&b, &database, &plans, tests).await;
    let last = Snapshot::take(&database).await;
    assert_eq!((last.kept, last.misplaced), (last.real, 0));
    let again = last.attempts - all as i64;
    assert!(samples.taken >= 10, "{samples:?}");
    println!(
        "{all} tests of {CLIENTS} clients on the {driver} driver in {took:?} ({:.0}/s; a third in {first:?}); {} were being \
         executed at the kill, {again} were begun again; {samples:?}",
        all as f64 / took.as_secs_f64(),
        at_kill.real["running"],
    );
    // What it left behind is removed when it comes back.
    a.start_again().await;
    a.stop().await;
    drop(b);
}
