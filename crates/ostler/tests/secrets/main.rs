//! Secrets that the server has are planted everywhere and then searched for: from within sandboxes of each driver, in the
//! logs of runs and of the server, in the database, in its data directory, and in what any process of the host shows.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{DockerEngine, MachineParts, Part, Postgres, TestServer, in_path, repository};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(120);
const SCRIPT: &str = include_str!("find.py");

/// An agent that tells all it knows, and does its work.
const AGENT: &str = r#"
cat
env
git config --list --show-origin
for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline; tr '\0' ' ' < $p/environ; done 2>/dev/null
cat .git/config "$HOME"/.gitconfig "$HOME"/.git-credentials "$HOME"/.netrc 2>/dev/null
if [ "$OSTLER_ROLE" = planner ]; then
  bd create "Write" -d "Write a word." --parent "$OSTLER_ISSUE_ID" --silent
else
  echo word > words; git add words; git commit -qm "Write"
fi
bd close "$OSTLER_ISSUE_ID"
"#;

/// The secrets, by what they are.
#[derive(Default)]
struct Planted(Vec<(String, Vec<u8>)>);

impl Planted {
    /// A new secret of our own making.
    fn make(&mut self, what: &str) -> String {
        let secret = format!("planted-{}", uuid());
        self.add(what, secret.as_bytes());
        secret
    }

    /// In the forms in which it could be written down.
    fn add(&mut self, what: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "{what} is too short to be told from chance");
        let hex = secret
            .iter()
            .fold(String::new(), |text, b| format!("{text}{b:02x}"));
        self.0.push((what.to_owned(), secret.to_vec()));
        self.0.push((format!("{what} in hexadecimal"), hex.into_bytes()));
        self.0
            .push((format!("{what} in base 64"), base64(secret).into_bytes()));
    }

    fn in_bytes(&self, bytes: &[u8]) -> Vec<&str> {
        let held = |secret: &[u8]| {
            bytes
                .windows(secret.len())
                .any(|w| w[0] == secret[0] && w == secret)
        };
        self.0
            .iter()
            .filter(|(_, secret)| held(secret))
            .map(|(what, _)| what.as_str())
            .collect()
    }

    /// So that those who search do not find what they were told.
    fn veiled(&self) -> String {
        let veil = |secret: &[u8]| {
            secret
                .iter()
                .fold(String::new(), |text, b| format!("{text}{:02x}", b ^ 0x5a))
        };
        json!(
            self.0
                .iter()
                .map(|(what, secret)| (what, veil(secret)))
                .collect::<Vec<_>>()
        )
        .to_string()
    }
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

/// Without the last, incomplete group, which depends on what follows.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.as_chunks::<3>().0;
    groups
        .iter()
        .flat_map(|[a, b, c]| {
            let bits = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
            [18, 12, 6, 0].map(|shift| char::from(LETTERS[(bits >> shift & 63) as usize]))
        })
        .collect()
}

/// Looks again and again at what the processes of this host show of themselves.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, BTreeSet<String>)>,
}

impl Watch {
    fn start(planted: Vec<(String, Vec<u8>)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (planted, mut rounds, mut found) = (Planted(planted), 0, BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                rounds += 1;
                for pid in std::fs::read_dir("/proc").unwrap().flatten() {
                    let line = std::fs::read(pid.path().join("cmdline")).unwrap_or_default();
                    for what in planted.in_bytes(&line) {
                        let line = String::from_utf8_lossy(&line).replace('\0', " ");
                        found.insert(format!("{what} in the command line `{line}`"));
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (rounds, found)
        });
        Self { stop, thread }
    }

    fn end(self) -> (usize, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct World {
    dir: tempfile::TempDir,
    server: TestServer,
    planted: Planted,
    client: Client,
    began: f64,
    database: Option<String>,
    _postgres: Option<Postgres>,
    _engine: Option<DockerEngine>,
}

async fn play(driver: &str, with_postgres: bool) {
    let mut world = World::start(driver, with_postgres).await;
    world.plant().await;
    let watch = Watch::start(world.planted.0.clone());
    // The work of agents takes minutes in emulated machines; what they are told is the same.
    if driver != "qemu" {
        world.work().await;
    }
    world.search_in_a_sandbox(driver).await;
    world.search_in_runs().await;
    world.search_on_the_host();
    world.search_in_the_database();
    let (rounds, shown) = watch.end();
    assert!(shown.is_empty(), "{shown:#?}");
    assert!(rounds > 10, "the processes were looked at {rounds} times");
    println!("{driver}: command lines of the host were looked at {rounds} times");
    world.the_search_is_not_blind().await;
    assert!(world.server.stop().await.success());
}

impl World {
    async fn start(driver: &str, with_postgres: bool) -> Self {
        let began = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let dir = tempfile::tempdir().unwrap();
        let mut planted = Planted::default();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let in_file = planted.make("a model key of the settings file");
        std::fs::write(
            data.join("config.toml"),
            format!("[gateway.openai]\napi_key = \"{in_file}\"\n"),
        )
        .unwrap();
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), &data)
            .env(
                "OSTLER_GATEWAY__ANTHROPIC__API_KEY",
                planted.make("a model key of the environment"),
            )
            .env("GEMINI_API_KEY", planted.make("the provider's own variable"))
            .env("PLANTED_FOR_A_TEST", planted.make("a variable of the server"))
            .env("OSTLER_LOG", "debug")
            .env("OSTLER_WORK__AGENT_KIND", "command")
            .env(
                "OSTLER_AGENTS__COMMAND_ARGV",
                json!(["sh", "-c", AGENT]).to_string(),
            );
        for name in ["process", "docker", "qemu", "firecracker"] {
            let used = (name == driver).to_string();
            server = server.env(format!("OSTLER_DRIVERS__{}__ENABLED", name.to_uppercase()), used);
        }
        let postgres = with_postgres.then(Postgres::shared);
        let database = postgres.as_ref().map(|postgres| {
            let url = postgres.database();
            let password = planted.make("the password of the database");
            let (user, place) = url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
            let user = user.split(':').next().unwrap();
            format!("postgres://{user}:{password}@{place}")
        });
        if let Some(database) = &database {
            server = server.env("OSTLER_DATABASE", database);
        }
        let engine = (driver == "docker").then(DockerEngine::start);
        let mut template = json!({ "driver": driver, "memory_mb": 512 });
        if let Some(engine) = &engine {
            server = server.engine(engine);
            template["image"] = json!(engine.base_image());
        }
        if driver == "qemu" {
            let parts = MachineParts::find().unwrap();
            server = server
                .env("OSTLER_DRIVERS__QEMU__KERNEL", parts.kernel)
                .env("OSTLER_DRIVERS__QEMU__MODULES", parts.modules);
            template["root_drive"] = json!(parts.root_drive);
        }
        let world = Self {
            server: server.start().await,
            dir,
            planted,
            client: Client::new(),
            began,
            database,
            _postgres: postgres,
            _engine: engine,
        };
        let pool = json!({ "template": template, "target": 0, "max": 4 });
        let (status, body) = world.server.call(Method::PUT, "/pools/default", Some(pool)).await;
        assert!(status.is_success(), "{body}");
        world
    }

    fn token(&self) -> String {
        self.server.token.clone().unwrap()
    }

    /// What comes into being only now.
    async fn plant(&mut self) {
        let value = self.planted.make("a stored credential");
        self.store("one", &value);
        let tenant = self.server.post("/tenants", json!({ "name": "other" })).await;
        let tenant = tenant["id"].as_str().unwrap().to_owned();
        let request = self.client.post(format!("{}/api/v1/tokens", self.server.url()));
        let request = request.bearer_auth(self.token()).header("ostler-tenant", &tenant);
        let token: Value = request
            .json(&json!({ "name": "t" }))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let token = token["secret"]
            .as_str()
            .unwrap_or_else(|| panic!("{token}"))
            .to_owned();
        self.planted.add("the token of another tenant", token.as_bytes());
        let value = self.planted.make("a credential of another tenant");
        let request = self
            .client
            .put(format!("{}/api/v1/credentials/two", self.server.url()));
        let request = request
            .bearer_auth(&token)
            .json(&json!({ "kind": "generic", "value": value }));
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        let token = self.token();
        self.planted.add("the administrator's token", token.as_bytes());
        for name in ["credential-key", "token-key"] {
            let key = std::fs::read(self.server.data().join(name)).unwrap();
            self.planted.add(name, key.trim_ascii_end());
        }
    }

    /// By the command line, as people do it.
    fn store(&self, name: &str, value: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(["credential", "set", name, "--kind", "github_token"])
            .env("OSTLER_SERVER", self.server.url())
            .env("OSTLER_TOKEN", self.token())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Agents that plan and work, with a repository.
    async fn work(&self) {
        let origin = self.dir.path().join("origin");
        repository(&origin, &[("readme", "hello\n")]);
        let task = self.server.task(&origin, "Words", "Write a word.").await;
        let is_over = |task: &Value| ["done", "planning_failed"].contains(&task["status"].as_str().unwrap());
        let ended = self.server.until(&task, LIMIT, is_over).await;
        assert_eq!(
            ended["status"],
            "done",
            "{ended:#}\n{:#}",
            self.server.get("/runs").await
        );
    }

    async fn agent(&self) -> String {
        let agent = self.server.post("/agents", json!({ "pool": "default" })).await;
        let id = agent["id"].as_str().or_else(|| agent["sandbox"]["id"].as_str());
        id.unwrap_or_else(|| panic!("{agent}")).to_owned()
    }

    fn search(&self) -> [String; 5] {
        [
            "python3",
            "-c",
            SCRIPT,
            &self.planted.veiled(),
            &self.began.to_string(),
        ]
        .map(str::to_owned)
    }

    async fn exec(&self, agent: &str, command: &[&str]) -> String {
        let path = format!("{}/api/v1/agents/{agent}/exec", self.server.url());
        let body = json!({ "command": command, "timeout_seconds": 150 });
        let answer = self.client.post(path).bearer_auth(self.token()).json(&body);
        answer.send().await.unwrap().text().await.unwrap()
    }

    async fn search_in_a_sandbox(&self, driver: &str) {
        let id = self.agent().await;
        let search = self.search();
        let search: Vec<&str> = search.iter().map(String::as_str).collect();
        let said = self.exec(&id, &search).await;
        let result = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?.trim()).ok())
            .find_map(|line| serde_json::from_str::<Value>(line["text"].as_str()?).ok())
            .unwrap_or_else(|| panic!("the search says {said}"));
        println!(
            "{driver}: {} secrets searched for in a sandbox: {}",
            self.planted.0.len(),
            result["looked"]
        );
        assert_eq!(result["found"], json!([]), "{result:#}");
        let looked = |what: &str| result["looked"][what].as_u64().unwrap();
        assert!(looked("processes") >= 2 && looked("bytes") > 1000, "{result}");
    }

    /// The search finds what is there. What is there is seen on the host as well, so this comes last.
    async fn the_search_is_not_blind(&self) {
        let id = self.agent().await;
        let marker = String::from_utf8(self.planted.0[0].1.clone()).unwrap();
        let there = format!("echo {marker} > /tmp/planted; exec \"$@\"");
        let search = self.search();
        let search: Vec<&str> = search.iter().map(String::as_str).collect();
        let said = self
            .exec(&id, &[&["sh", "-c", &there, "sh"][..], &search].concat())
            .await;
        assert!(said.contains("in /tmp/planted"), "the search is blind: {said}");
    }

    async fn search_in_runs(&self) {
        let run =
            json!({ "command": ["sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true"] });
        let run = self.server.post("/runs", run).await;
        let path = format!("/runs/{}", run["id"].as_str().unwrap());
        self.server
            .until(&path, LIMIT, |run| !run["finished_at"].is_null())
            .await;
        let runs = self.server.get("/runs?limit=1000").await;
        let mut length = 0;
        for run in runs.as_array().unwrap() {
            let path = format!("/runs/{}/logs", run["id"].as_str().unwrap());
            let log = self.server.call(Method::GET, &path, None).await.1.to_string();
            length += log.len();
            assert_eq!(
                self.planted.in_bytes(log.as_bytes()),
                Vec::<&str>::new(),
                "{path}"
            );
            assert_eq!(
                self.planted.in_bytes(run.to_string().as_bytes()),
                Vec::<&str>::new(),
                "{run}"
            );
        }
        assert!(length > 100, "the runs said nothing");
        println!(
            "{} runs with {length} bytes of logs were looked at",
            runs.as_array().unwrap().len()
        );
    }

    /// The server's log, its data directory, and the environment of all processes but its own.
    fn search_on_the_host(&self) {
        let log = self.server.log();
        assert!(log.contains("DEBUG"), "{log}");
        assert_eq!(
            self.planted.in_bytes(log.as_bytes()),
            Vec::<&str>::new(),
            "the server's log"
        );
        // Where a secret is meant to be.
        let home = ["credential-key", "token-key", "server.json", "config.toml"]
            .map(|name| self.server.data().join(name));
        let mut files = Vec::new();
        all_files(self.dir.path(), &mut files);
        assert!(files.len() > 10, "{files:?}");
        for file in files.iter().filter(|file| !home.contains(file)) {
            let bytes = std::fs::read(file).unwrap_or_default();
            assert_eq!(
                self.planted.in_bytes(&bytes),
                Vec::<&str>::new(),
                "{}",
                file.display()
            );
        }
        for file in &home {
            use std::os::unix::fs::PermissionsExt;
            if file.ends_with("config.toml") {
                continue;
            }
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} can be read by others", file.display());
        }
        let own = self.server.pid().unwrap().to_string();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let bytes = std::fs::read(process.path().join("environ")).unwrap_or_default();
            if process.file_name().to_string_lossy() != own {
                assert_eq!(
                    self.planted.in_bytes(&bytes),
                    Vec::<&str>::new(),
                    "{}",
                    process.path().display()
                );
            }
        }
        println!("{} files of the data directory were looked at", files.len());
    }

    /// The files of SQLite are among those of the data directory; of PostgreSQL a dump.
    fn search_in_the_database(&self) {
        let Some(database) = &self.database else {
            assert!(self.server.data().join("ostler.db").is_file());
            return;
        };
        let dumped = Command::new(pg_dump())
            .args(["--dbname", &without_password(database)])
            .output()
            .unwrap();
        assert!(
            dumped.status.success(),
            "{}",
            String::from_utf8_lossy(&dumped.stderr)
        );
        let text = String::from_utf8_lossy(&dumped.stdout);
        assert!(text.contains("github_token"), "the credential is not in the dump");
        assert_eq!(
            self.planted.in_bytes(&dumped.stdout),
            Vec::<&str>::new(),
            "the dump"
        );
        println!("a dump of {} bytes was looked at", dumped.stdout.len());
    }
}

fn without_password(url: &str) -> String {
    let (user, place) = url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    format!("postgres://{}@{place}", user.split(':').next().unwrap())
}

fn pg_dump() -> PathBuf {
    in_path("pg_dump").unwrap_or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let mut found: Vec<PathBuf> = versions.flatten().map(|v| v.path().join("bin/pg_dump")).collect();
        found.sort();
        found.pop().unwrap()
    })
}

fn all_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all_files(&entry.path(), found),
            // Programs of ours, and drives of machines, which hold what sandboxes do.
            Ok(kind) if kind.is_file() && entry.metadata().is_ok_and(|meta| meta.len() < 8 << 20) => {
                found.push(entry.path());
            }
            _ => {}
        }
    }
}

fn ready(parts: &[Part]) -> bool {
    ostler_test_kit::has(parts)
}

#[tokio::test]
async fn of_a_server_with_processes_and_sqlite() {
    if ready(&[Part::Bubblewrap]) {
        play("process", false).await;
    }
}

#[tokio::test]
async fn of_a_server_with_containers_and_postgresql() {
    if ready(&[Part::BaseImage, Part::Postgres]) {
        play("docker", true).await;
    }
}

#[tokio::test]
async fn of_a_server_with_machines() {
    if ready(&[Part::Qemu]) {
        play("qemu", false).await;
    }
}
