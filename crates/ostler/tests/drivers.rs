//! The real drivers through the real server: the first pool, a server that is killed and started again, one that is
//! stopped, and drivers that are not there.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, LeakGuard, TestServer, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A server with one driver.
fn with(driver: &str, data: &Path) -> TestServer {
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data).args(["--dev"]);
    for other in ["process", "docker"] {
        let variable = format!("OSTLER_DRIVERS__{}", other.to_uppercase());
        server = server.env(variable, (other == driver).to_string());
    }
    server
}

fn process(data: &Path) -> TestServer {
    with("process", data)
}

fn docker(data: &Path, engine: &DockerEngine) -> TestServer {
    with("docker", data)
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
        .env("OSTLER_DRIVERS__DOCKER__IMAGE", engine.base_image())
}

async fn submit(server: &TestServer, script: &str) -> String {
    let run = server
        .post("/runs", json!({ "command": ["sh", "-c", script] }))
        .await;
    format!("/runs/{}", run["id"].as_str().unwrap())
}

async fn ended(server: &TestServer, run: &str) -> Value {
    let is_over = |run: &Value| !["queued", "running"].contains(&run["status"].as_str().unwrap());
    server.until(run, LIMIT, is_over).await
}

/// What a run has written to its standard output so far.
async fn stdout(server: &TestServer, run: &str) -> String {
    let body = server.call(Method::GET, &format!("{run}/logs"), None).await.1;
    let lines = match body {
        Value::String(text) => text,
        line => line.to_string(),
    };
    lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["stream"] == "stdout")
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect()
}

async fn until_printed(server: &TestServer, run: &str, text: &str) {
    let end = std::time::Instant::now() + LIMIT;
    while !stdout(server, run).await.contains(text) {
        assert!(std::time::Instant::now() < end, "{}", server.get(run).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The sandboxes that have a state of these.
async fn sandboxes(server: &TestServer, states: &[&str]) -> Vec<String> {
    let all = server.get("/sandboxes").await;
    let of_state = |s: &&Value| states.contains(&s["status"].as_str().unwrap());
    let ids = all.as_array().unwrap().iter().filter(of_state);
    ids.map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

async fn warm(server: &TestServer, count: u64) {
    let is_full = |pools: &Value| pools[0]["warm"] == count;
    server.until("/pools", LIMIT, is_full).await;
}

/// What the drivers have of sandboxes of this installation.
fn left(data: &Path, driver: &str) -> Vec<String> {
    let dir = data.join("sandboxes").join(driver);
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Processes that have a file of the sandboxes of this data directory mounted.
fn processes(data: &Path) -> Vec<String> {
    let dir = data.join("sandboxes").display().to_string();
    let shown = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|text| text.contains(&dir))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(shown)
        .collect()
}

fn cgroups(data: &Path) -> Vec<String> {
    let id = std::fs::read_to_string(data.join("server-id")).unwrap();
    let name = format!("ostler-{}", id.trim());
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

fn containers(engine: &DockerEngine, data: &Path) -> Vec<String> {
    let id = std::fs::read_to_string(data.join("server-id")).unwrap();
    let label = format!("label=ostler.instance={}", id.trim());
    let ids = engine.docker(&["ps", "-aq", "--filter", &label]).unwrap();
    ids.lines().map(str::to_owned).collect()
}

const SLOW: &str = "for i in $(seq 1 40); do echo line $i; sleep 0.1; done";

/// A run goes on while its server is dead, and the next server takes it up without a gap.
async fn outlives(mut server: TestServer) -> TestServer {
    server = server.start().await;
    let pools = server.get("/pools").await;
    assert_eq!(
        (
            pools[0]["name"].as_str(),
            pools[0]["unavailable"].as_str(),
            &pools[1]
        ),
        (Some("default"), None, &Value::Null),
        "{pools}"
    );
    warm(&server, 2).await;
    let run = submit(&server, SLOW).await;
    until_printed(&server, &run, "line 5\n").await;
    let before = server.get(&run).await;
    let members = sandboxes(&server, &["warm", "running"]).await;
    server.kill_9();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.start_again().await;
    assert_eq!(server.get("/pools").await.as_array().unwrap().len(), 1);
    let after = ended(&server, &run).await;
    assert_eq!(
        (
            after["status"].as_str(),
            after["attempt"].as_i64(),
            &after["sandbox_id"]
        ),
        (Some("succeeded"), Some(1), &before["sandbox_id"]),
        "{after}"
    );
    let lines: Vec<String> = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(stdout(&server, &run).await, lines.concat());
    warm(&server, 2).await;
    let now = sandboxes(&server, &["warm"]).await;
    assert!(
        now.iter().any(|id| members.contains(id)),
        "the warm one was kept: {now:?} of {members:?}"
    );
    server
}

/// While the server is dead its sandboxes lose their processes, or its database is lost.
async fn loses(server: &mut TestServer, kill: impl Fn(&Path), count: impl Fn(&Path) -> usize) {
    let run = submit(server, "test -e /tmp/mark || sleep 600; echo again").await;
    server
        .until(&run, LIMIT, |run| run["sandbox_id"].is_string())
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill_9();
    kill(server.data());
    // The second attempt ends at once: it is cancelled below.
    server.start_again().await;
    let again = server
        .until(&run, LIMIT, |run| {
            run["attempt"] == 2 && run["sandbox_id"].is_string()
        })
        .await;
    assert_eq!(again["status"], "running", "{again}");
    server.post(&format!("{run}/cancel"), json!({})).await;
    assert_eq!(ended(server, &run).await["status"], "cancelled");
    warm(server, 2).await;

    server.kill_9();
    for name in ["ostler.db", "ostler.db-wal", "ostler.db-shm"] {
        let _ = std::fs::remove_file(server.data().join(name));
    }
    let orphans = left(server.data(), driver_of(server.data()));
    assert!(!orphans.is_empty());
    server.start_again().await;
    warm(server, 2).await;
    let now = left(server.data(), driver_of(server.data()));
    assert!(orphans.iter().all(|id| !now.contains(id)), "{orphans:?} {now:?}");
    assert_eq!((now.len(), count(server.data())), (2, 2));
}

fn driver_of(data: &Path) -> &'static str {
    if data.join("sandboxes/docker").exists() {
        "docker"
    } else {
        "process"
    }
}

#[tokio::test]
async fn processes_outlive_a_killed_server_and_not_a_stopped_one() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = outlives(process(dir.path())).await;
    let pools = server.get("/pools").await;
    assert_eq!(pools[0]["template"]["driver"], "process", "{pools}");
    let kill = |data: &Path| {
        for pid in processes(data) {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    };
    loses(&mut server, kill, cgroup_members).await;
    assert!(server.stop().await.success());
    assert!(left(dir.path(), "process").is_empty());
    guard.check();
}

/// Sandboxes that have a cgroup, over all hierarchies.
fn cgroup_members(data: &Path) -> usize {
    let names = |dir: &String| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("sbx_"))
            .collect::<Vec<_>>()
    };
    let all: std::collections::BTreeSet<String> = cgroups(data).iter().flat_map(names).collect();
    all.len()
}

#[tokio::test]
async fn containers_outlive_a_killed_server_and_not_a_stopped_one() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut guards = [&dir, &other].map(|dir| LeakGuard::new(dir.path()).with_engine(&engine));
    // Another installation at the same engine, whose sandboxes are none of the other's business.
    let mut neighbour = docker(other.path(), &engine).start().await;
    warm(&neighbour, 2).await;
    let untouched = containers(&engine, other.path());

    let mut server = outlives(docker(dir.path(), &engine)).await;
    let kill = |data: &Path| {
        for id in containers(&engine, data) {
            engine.docker(&["rm", "-f", &id]).unwrap();
        }
    };
    loses(&mut server, kill, |data| containers(&engine, data).len()).await;
    assert!(server.stop().await.success());
    let data = dir.path();
    assert_eq!(
        (left(data, "docker"), containers(&engine, data)),
        (vec![], vec![])
    );

    assert_eq!(containers(&engine, other.path()), untouched);
    assert!(neighbour.stop().await.success());
    guards.iter_mut().for_each(LeakGuard::check);
}

#[tokio::test]
async fn what_needs_a_driver_that_is_away_waits_and_says_why() {
    require!(Docker);
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("unix://{}", dir.path().join("no.sock").display());
    let mut server = with("none", dir.path())
        .env("OSTLER_DRIVERS__DOCKER", "auto")
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", &nowhere)
        .env("OSTLER_DRIVERS__SIM", "true")
        .start()
        .await;
    assert!(
        server.log().contains("the docker driver cannot be used"),
        "{}",
        server.log()
    );
    let body = json!({ "template": { "driver": "docker", "image": "some:image" }, "target": 1 });
    let (status, pool) = server.call(Method::PUT, "/pools/boxes", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{pool}");
    assert!(
        pool["unavailable"].as_str().unwrap().contains("no.sock"),
        "{pool}"
    );
    let pools = server.get("/pools").await;
    assert_eq!(pools[1]["unavailable"], Value::Null, "{pools}");
    assert!(pools[0]["unavailable"].is_string(), "{pools}");

    let body = json!({ "command": ["true"], "requirements": { "pool": "boxes", "isolation": "namespace" } });
    let run = server.post("/runs", body).await;
    let run = format!("/runs/{}", run["id"].as_str().unwrap());
    let explained = server.get(&format!("{run}/explain")).await;
    let summary = explained["summary"].as_str().unwrap();
    assert!(
        summary.contains("boxes") && summary.contains("no.sock"),
        "{explained}"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    let waiting = server.get(&run).await;
    assert_eq!(
        (waiting["status"].as_str(), waiting["attempt"].as_i64()),
        (Some("queued"), Some(0)),
        "{waiting}"
    );
    // The engine is looked for again.
    let rounds = server
        .until("/reconcilers", LIMIT, |rounds| {
            rounds.to_string().contains("\"hosts\"")
        })
        .await;
    let names: Vec<&str> = rounds
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    let all = [
        "artifacts",
        "health",
        "hosts",
        "idle",
        "plans",
        "pools",
        "sessions",
        "usage",
        "work",
        "worktrees",
    ];
    assert_eq!(names, all, "{rounds}");
    // Still refused is what no driver could do.
    let body = json!({ "command": ["true"], "requirements": { "pool": "boxes", "network": "open" } });
    let (status, body) = server.call(Method::POST, "/runs", Some(body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(server.stop().await.success(), "nor does it hold up the end");
}

#[tokio::test]
async fn a_driver_that_was_away_is_used_after_the_next_start() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let mut server = docker(dir.path(), &engine).start().await;
    warm(&server, 2).await;
    let run = submit(&server, "sleep 600").await;
    server
        .until(&run, LIMIT, |run| run["sandbox_id"].is_string())
        .await;
    server.kill_9();

    // The engine is away: the server starts, and what is there is left as it is.
    let mut without = with("none", dir.path())
        .env("OSTLER_DRIVERS__DOCKER", "auto")
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", "unix:///nowhere.sock")
        .start()
        .await;
    let explained = without.get(&format!("{run}/explain")).await;
    assert!(
        explained["summary"].as_str().unwrap().contains("nowhere.sock"),
        "{explained}"
    );
    assert!(!containers(&engine, dir.path()).is_empty());
    without.kill_9();

    server.start_again().await;
    server
        .until(&run, LIMIT, |run| run["sandbox_id"].is_string())
        .await;
    server.post(&format!("{run}/cancel"), json!({})).await;
    assert_eq!(ended(&server, &run).await["status"], "cancelled");
    assert!(server.stop().await.success());
    guard.check();
}

#[test]
fn a_driver_that_must_be_there_and_is_not_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |name: &str, value: &str, path: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path())
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER", "false")
            .env("DOCKER_HOST", "unix:///nowhere.sock")
            .env(name, value);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = serve("OSTLER_DRIVERS__DOCKER", "true", None);
    assert!(
        said.contains("/nowhere.sock") && said.contains("drivers.docker.enabled"),
        "{said}"
    );
    let said = serve("OSTLER_DRIVERS__PROCESS", "true", Some(dir.path()));
    assert!(said.contains("install the package `bubblewrap`"), "{said}");
}

#[tokio::test]
async fn in_development_mode_no_sandbox_shares_the_network_of_the_server() {
    require!(Bubblewrap);
    for (arguments, wanted) in [
        (&["--dev"][..], StatusCode::UNPROCESSABLE_ENTITY),
        (&[], StatusCode::OK),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path())
            .args(arguments)
            .env("OSTLER_DRIVERS__DOCKER", "false")
            .env("OSTLER_DRIVERS__PROCESS__LIMITS", "false")
            .start()
            .await;
        let template = json!({ "driver": "process", "network": "open" });
        let body = json!({ "template": template, "target": 0, "max": 1 });
        let (status, body) = server.call(Method::PUT, "/pools/near", Some(body)).await;
        assert_eq!(status, wanted, "{body}");
        assert!(server.stop().await.success());
    }
}
