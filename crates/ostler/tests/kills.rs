//! `kill -9` of the server at random instants of tasks, on both stores: each task ends DONE, each run has one end, each
//! step of the work is there once, and nothing is left over.
//!
//! The agent is a script, so that a task takes seconds and the instants fall into every stage of it.
//!
//! And at random instants of the life of sandboxes, on each driver: what was given to somebody is kept, nothing is given
//! twice, what was ended stays ended, and nothing is left over.

#![allow(clippy::unwrap_used, reason = "test code")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use ostler_test_kit::{
    DockerEngine, LeakGuard, MachineParts, Postgres, TestServer, git, repository, require,
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KILLS: u32 = 50;
const LIMIT: Duration = Duration::from_secs(300);
/// Longest life of a server, in milliseconds: from the middle of its start to well into its work.
const LIFE: u64 = 1000;

const AGENT: &str = r#"
set -e
cat > /dev/null
if [ "$OSTLER_ROLE" = planner ]; then
  before=
  for part in one two three; do
    # What an attempt before this one has made is not made again.
    id=$(bd list --json | tr '}' '\n' | grep "\"Write $part\"" | sed 's/.*"id": *"\([^"]*\)".*/\1/')
    [ -n "$id" ] || id=$(bd create "Write $part" -d "Append a word." --parent "$OSTLER_ISSUE_ID" --silent)
    [ -z "$before" ] || bd dep add "$id" "$before" > /dev/null
    before=$id
    sleep 0.2
  done
  bd close "$OSTLER_ISSUE_ID" > /dev/null
  exit 0
fi
sleep 0.3
grep -qx "$OSTLER_ISSUE_ID" words || echo "$OSTLER_ISSUE_ID" >> words
git diff --quiet || git commit -qam "Write $OSTLER_ISSUE_ID"
sleep 0.3
bd close "$OSTLER_ISSUE_ID" > /dev/null
"#;

/// Numbers that are the same in each run of the test, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // Knuth's MMIX generator.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[tokio::test]
async fn a_server_with_sqlite_survives_any_kill() {
    require!(Bubblewrap);
    survive(None, 1).await;
}

#[tokio::test]
async fn a_server_with_postgresql_survives_any_kill() {
    require!(Bubblewrap, Postgres);
    survive(Some(Postgres::shared().database()), 2).await;
}

async fn survive(database: Option<String>, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .args(["--dev"])
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env(
            "OSTLER_AGENTS__COMMAND_ARGV",
            json!(["sh", "-c", AGENT]).to_string(),
        )
        .env("OSTLER_WORK__AGENT_KIND", "command")
        .env("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1")
        .env("OSTLER_WORK__BACKOFF_MAX_SECONDS", "0.2")
        .env("OSTLER_WORK__WORKER_ATTEMPTS", "100")
        .env("OSTLER_WORK__PLANNER_ATTEMPTS", "100")
        .env("OSTLER_WORK__RUN_ATTEMPTS", "100");
    if let Some(database) = database {
        server = server.args(["--database".to_owned(), database]);
    }
    let mut server = server.start().await;

    let origin = dir.path().join("origin");
    let check = "[[check]]\nname = \"words\"\ncommand = \"sleep 0.2; grep -q zero words\"\n";
    repository(&origin, &[("words", "zero\n"), ("ostler.toml", check)]);
    let project = server.post("/projects", json!({ "source": origin })).await;
    let tasks = format!("/projects/{}/tasks", project["id"].as_str().unwrap());
    let new_task = json!({ "title": "Words", "auto": true });
    let mut paths: Vec<String> = Vec::new();
    let mut ends = Ends::default();
    let mut dice = Dice(seed);
    for _ in 0..KILLS {
        let over = match paths.last() {
            Some(task) => server.get(task).await["status"] == "done",
            None => true,
        };
        if over {
            let task = server.post(&tasks, new_task.clone()).await;
            paths.push(format!("/tasks/{}", task["id"].as_str().unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(LIFE))).await;
        server.kill_9();
        server.start_again().await;
        ends.look(&server).await;
    }
    let mut subtasks = 0;
    for path in &paths {
        let is_over = |task: &Value| ["done", "planning_failed"].contains(&task["status"].as_str().unwrap());
        let task = server.until(path, LIMIT, is_over).await;
        assert_eq!(
            task["status"],
            "done",
            "{task:#}\n{:#}",
            server.get("/runs?limit=1000").await
        );
        let parts = server.get(&format!("{path}/subtasks")).await;
        assert_eq!(parts.as_array().unwrap().len(), 3, "{parts:#}");
        subtasks += 3;
    }
    let words = git(&origin, &["show", "main:words"]);
    let mut once: Vec<&str> = words.lines().collect();
    assert_eq!(once.len(), subtasks + 1, "{words}");
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), subtasks + 1, "{words}");

    let runs = ends.look(&server).await;
    assert_eq!(ends.0.len(), runs, "a run has no end");
    assert!(server.stop().await.success());
    guard.check();
}

/// What was seen of runs that have ended.
#[derive(Default)]
struct Ends(BTreeMap<String, Value>);

impl Ends {
    /// An end stays as it is, for ever. Gives the number of runs.
    async fn look(&mut self, server: &TestServer) -> usize {
        let runs = server.get("/runs?limit=1000").await;
        let runs = runs.as_array().unwrap();
        for run in runs {
            if !run["finished_at"].is_null() {
                let before = self.0.insert(run["id"].as_str().unwrap().to_owned(), run.clone());
                assert!(
                    before.as_ref().is_none_or(|before| before == run),
                    "{before:?} is now {run}"
                );
            }
        }
        runs.len()
    }
}

/// The kind of sandboxes that a server has while it is killed again and again.
struct Scene {
    driver: &'static str,
    template: Value,
    kills: u32,
    /// Longest life of a server, in milliseconds.
    life: u64,
    settings: Vec<(&'static str, String)>,
    seed: u64,
}

/// What was answered, and what was asked for without an answer.
#[derive(Default)]
struct Answered {
    agents: BTreeSet<String>,
    ending: BTreeSet<String>,
    ended: BTreeSet<String>,
    given: BTreeSet<String>,
    runs: BTreeSet<String>,
    programs: u32,
    snapshots: u32,
}

/// Somebody who uses sandboxes, and does not mind a server that is not there.
#[derive(Clone)]
struct User {
    client: Client,
    url: String,
    answered: Arc<Mutex<Answered>>,
}

impl User {
    async fn ask(&self, method: Method, path: &str, body: Value) -> Option<(StatusCode, String)> {
        let request = self
            .client
            .request(method, format!("{}/api/v1{path}", self.url))
            .json(&body);
        let answer = request.timeout(Duration::from_secs(60)).send().await.ok()?;
        Some((answer.status(), answer.text().await.ok()?))
    }

    async fn provision(self) {
        let answer = self
            .ask(Method::POST, "/agents", json!({ "pool": "boxes" }))
            .await;
        let Some((StatusCode::CREATED, text)) = answer else {
            return;
        };
        let agent: Value = serde_json::from_str(&text).unwrap();
        let id = agent["id"]
            .as_str()
            .or_else(|| agent["sandbox"]["id"].as_str())
            .unwrap();
        let mut answered = self.answered.lock().unwrap();
        assert!(answered.given.insert(id.to_owned()), "{id} was given twice");
        answered.agents.insert(id.to_owned());
    }

    async fn execute(self, id: String) {
        let body = json!({ "command": ["sh", "-c", "echo it is; sleep 0.1; echo done"] });
        let answer = self.ask(Method::POST, &format!("/agents/{id}/exec"), body).await;
        if answer.is_some_and(|(status, text)| status == StatusCode::OK && text.contains("done")) {
            self.answered.lock().unwrap().programs += 1;
        }
    }

    async fn submit(self) {
        let body =
            json!({ "command": ["sh", "-c", "sleep 0.1; echo ran"], "requirements": { "pool": "boxes" } });
        if let Some((status, text)) = self.ask(Method::POST, "/runs", body).await
            && status.is_success()
        {
            let run: Value = serde_json::from_str(&text).unwrap();
            let id = run["id"].as_str().unwrap().to_owned();
            self.answered.lock().unwrap().runs.insert(id);
        }
    }

    async fn snapshot(self, id: String, name: String) {
        let path = format!("/agents/{id}/snapshot");
        if let Some((status, _)) = self.ask(Method::POST, &path, json!({ "name": name })).await
            && status.is_success()
        {
            self.answered.lock().unwrap().snapshots += 1;
        }
    }

    async fn end(self, id: String) {
        let answer = self
            .ask(Method::DELETE, &format!("/agents/{id}"), json!(null))
            .await;
        if answer.is_some_and(|(status, _)| status.is_success()) {
            let mut answered = self.answered.lock().unwrap();
            answered.ending.remove(&id);
            answered.ended.insert(id);
        }
    }

    /// Does something of everything at once.
    fn load(&self, dice: &mut Dice, round: u32, snapshots: bool) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(self.clone().provision())];
        let (held, ending): (Vec<String>, Vec<String>) = {
            let answered = self.answered.lock().unwrap();
            (
                answered.agents.iter().cloned().collect(),
                answered.ending.iter().cloned().collect(),
            )
        };
        tasks.extend(ending.into_iter().map(|id| tokio::spawn(self.clone().end(id))));
        if let Some(last) = held.last() {
            tasks.push(tokio::spawn(self.clone().execute(last.clone())));
            if snapshots {
                tasks.push(tokio::spawn(
                    self.clone().snapshot(last.clone(), format!("s{round}")),
                ));
            }
        }
        if held.len() > 1 + dice.roll(2) as usize {
            let id = held[0].clone();
            let mut answered = self.answered.lock().unwrap();
            answered.agents.remove(&id);
            answered.ending.insert(id.clone());
            drop(answered);
            tasks.push(tokio::spawn(self.clone().end(id)));
        }
        if round.is_multiple_of(3) {
            tasks.push(tokio::spawn(self.clone().submit()));
        }
        tasks
    }
}

async fn sandboxes_survive(scene: Scene, engine: Option<DockerEngine>) {
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .args(["--dev"])
        .env("OSTLER_WORK__RUN_ATTEMPTS", "1000")
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "1000");
    for driver in ["process", "docker", "qemu", "firecracker"] {
        let used = (driver == scene.driver).to_string();
        server = server.env(
            format!("OSTLER_DRIVERS__{}__ENABLED", driver.to_uppercase()),
            used,
        );
    }
    for (name, value) in &scene.settings {
        server = server.env(*name, value);
    }
    if let Some(engine) = &engine {
        guard = guard.with_engine(engine);
        server = server.engine(engine);
    }
    let mut server = server.start().await;
    let put = async |name: &str, body: Value, server: &TestServer| {
        let (status, answer) = server
            .call(Method::PUT, &format!("/pools/{name}"), Some(body))
            .await;
        assert!(status.is_success(), "{answer}");
    };
    put(
        "boxes",
        json!({ "template": scene.template, "target": 1, "max": 6 }),
        &server,
    )
    .await;
    if server.get("/pools").await.as_array().unwrap().len() > 1 {
        put(
            "default",
            json!({ "template": scene.template, "target": 0, "max": 0 }),
            &server,
        )
        .await;
    }
    let mut user = User {
        client: Client::new(),
        url: server.url().to_owned(),
        answered: Arc::default(),
    };
    // Somebody holds some from the beginning, however long a start takes beside the life of a server.
    for _ in 0..2 {
        user.clone().provision().await;
    }
    let (mut dice, mut ends) = (Dice(scene.seed), Ends::default());
    for round in 0..scene.kills {
        server.url().clone_into(&mut user.url);
        let tasks = user.load(&mut dice, round, scene.driver == "qemu");
        tokio::time::sleep(Duration::from_millis(dice.roll(scene.life))).await;
        server.kill_9();
        for task in tasks {
            // Without a server each ends soon; one that found something wrong has panicked.
            task.await.unwrap();
        }
        server.start_again().await;
        check(&server, &user).await;
        ends.look(&server).await;
    }
    server.url().clone_into(&mut user.url);
    let (agents, runs) = {
        let mut answered = user.answered.lock().unwrap();
        let agents: BTreeSet<String> = &answered.agents | &answered.ending;
        answered.agents.clear();
        (agents, answered.runs.clone())
    };
    for id in agents {
        let (status, body) = server.call(Method::DELETE, &format!("/agents/{id}"), None).await;
        assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{body}");
    }
    for run in &runs {
        let path = format!("/runs/{run}");
        let ended = server
            .until(&path, LIMIT, |run| !run["finished_at"].is_null())
            .await;
        assert_eq!(ended["status"], "succeeded", "{ended:#}");
    }
    ends.look(&server).await;
    assert!(runs.iter().all(|run| ends.0.contains_key(run)), "a run is lost");
    {
        let answered = user.answered.lock().unwrap();
        println!(
            "{}: {} kills; {} sandboxes given, {} programs and {} runs executed, {} snapshots",
            scene.driver,
            scene.kills,
            answered.given.len(),
            answered.programs,
            runs.len(),
            answered.snapshots
        );
        assert!(
            !answered.given.is_empty() && answered.programs > 0,
            "the load was none"
        );
    }
    assert!(server.stop().await.success());
    let left: Vec<_> = std::fs::read_dir(dir.path().join("data/sandboxes").join(scene.driver))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("sbx"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(sockets_below(dir.path()), Vec::<String>::new());
    guard.check();
}

/// What was answered still holds.
async fn check(server: &TestServer, user: &User) {
    let agents = server.get("/agents").await;
    let there: BTreeSet<String> = ids(&agents);
    let sandboxes = server.get("/sandboxes").await;
    let runs = server.get("/runs?limit=1000").await;
    let mut answered = user.answered.lock().unwrap();
    let lost: Vec<&String> = answered.agents.difference(&there).collect();
    assert!(lost.is_empty(), "{lost:?} were given and are gone: {agents:#}");
    let back: Vec<&String> = answered.ended.intersection(&there).collect();
    assert!(back.is_empty(), "{back:?} had ended");
    // Those whose answer did not come are held all the same, and have to be ended by somebody.
    let unknown: Vec<String> = there.difference(&answered.agents).cloned().collect();
    answered.ending.extend(unknown);
    answered.ending.retain(|id| there.contains(id));
    for name in ["id", "vsock_cid", "driver_ref"] {
        let mut seen = BTreeSet::new();
        for sandbox in sandboxes.as_array().unwrap() {
            let value = &sandbox[name];
            assert!(
                value.is_null() || seen.insert(value.to_string()),
                "{name} {value} twice: {sandboxes:#}"
            );
        }
    }
    let mut holders = there;
    for run in runs
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["status"] == "running")
    {
        if let Some(sandbox) = run["sandbox_id"].as_str() {
            assert!(holders.insert(sandbox.to_owned()), "{sandbox} is held twice");
        }
    }
}

fn ids(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

fn sockets_below(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(sockets_below(&entry.path())),
            Ok(kind) if kind.is_socket() => found.push(entry.path().display().to_string()),
            _ => {}
        }
    }
    found
}

/// With interfaces, in network namespaces, behind a packet filter: all of a host that is the test's own.
#[test]
fn processes_survive_any_kill_of_the_server() {
    require!(Bubblewrap, HostNetwork);
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh("ip link set lo up");
    let template = json!({
        "driver": "process", "memory_mb": 256, "network": "filtered",
        "egress": { "addresses": ["203.0.113.7:5432"] },
    });
    let settings = vec![
        ("OSTLER_EGRESS__INTERFACES", "true".to_owned()),
        ("OSTLER_EGRESS__NAME_SERVERS", "[\"203.0.113.53:53\"]".to_owned()),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let scene = Scene {
        driver: "process",
        template,
        kills: 60,
        life: 300,
        settings,
        seed: 3,
    };
    runtime.block_on(sandboxes_survive(scene, None));
    assert_eq!(
        sh("ip netns list; nft list ruleset; ip -o link show | grep -v 'lo:' || true"),
        ""
    );
}

fn sh(script: &str) -> String {
    let done = std::process::Command::new("sh")
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_survive_any_kill_of_the_server() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let scene = Scene {
        driver: "docker",
        template: json!({ "driver": "docker", "image": engine.base_image(), "memory_mb": 256 }),
        kills: 30,
        life: 1200,
        settings: Vec::new(),
        seed: 4,
    };
    sandboxes_survive(scene, Some(engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_survive_any_kill_of_the_server() {
    require!(Qemu);
    let parts = MachineParts::find().unwrap();
    let scene = Scene {
        driver: "qemu",
        template: json!({ "driver": "qemu", "root_drive": parts.root_drive, "memory_mb": 256 }),
        kills: 10,
        life: 6000,
        settings: vec![
            ("OSTLER_DRIVERS__QEMU__KERNEL", parts.kernel.display().to_string()),
            (
                "OSTLER_DRIVERS__QEMU__MODULES",
                parts.modules.display().to_string(),
            ),
        ],
        seed: 5,
    };
    sandboxes_survive(scene, None).await;
}
