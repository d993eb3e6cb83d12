//! A task in words becomes merged, tested code: the real Claude Code on a scripted model, in each kind of sandbox and on
//! each store, and nothing is left.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{
    ClaudeCode, DockerEngine, FakeModel, LeakGuard, Planned, Postgres, Step, Story, TestServer, git,
    repository, require,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

/// It takes 20 seconds on two idle cores.
const LIMIT: Duration = Duration::from_secs(180);

fn story() -> Story {
    let worker = |word: &str| {
        [
            Step::add_line(&format!("words/{word}"), word),
            Step::run("sh check"),
            Step::commit(&format!("Write {word}")),
            Step::close(),
        ]
    };
    Story::plan([
        Planned::new("Write one"),
        Planned::new("Write two").after("Write one"),
        Planned::new("Write three").after("Write one"),
    ])
    .worker("Write one", worker("one"))
    .worker("Write two", worker("two"))
    .worker("Write three", worker("three"))
}

/// A server with a pool of one kind of sandbox, whose agents play a story on a small repository.
struct Stage {
    // Dropped in this order.
    server: TestServer,
    guard: LeakGuard,
    model: FakeModel,
    _engine: Option<DockerEngine>,
    template: Value,
    dir: TempDir,
}

impl Stage {
    async fn new(driver: &str, postgres: Option<&Postgres>, story: Story, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = LeakGuard::new(dir.path());
        repository(
            &dir.path().join("origin"),
            &[
                ("words/zero", "zero\n"),
                ("check", "grep -q zero words/zero"),
                (
                    "ostler.toml",
                    "[[check]]\nname = \"words\"\ncommand = \"sh check\"\n",
                ),
            ],
        );
        let model = FakeModel::start(story).unwrap();
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
            .args(["--dev"])
            .env("OSTLER_GATEWAY__ANTHROPIC__BASE_URL", model.base_url())
            .env("OSTLER_GATEWAY__ANTHROPIC__API_KEY", "key");
        for (name, value) in settings {
            server = server.env(name, value);
        }
        if let Some(postgres) = postgres {
            server = server.args(["--database".to_owned(), postgres.database()]);
        }
        let engine = (driver == "docker").then(DockerEngine::start);
        let template = if let Some(engine) = &engine {
            guard = guard.with_engine(engine);
            server = server.engine(engine).env("OSTLER_DRIVERS__PROCESS", "false");
            json!({ "driver": "docker", "image": engine.base_image() })
        } else {
            let claude = ClaudeCode::find().unwrap();
            server = server
                .env("OSTLER_AGENTS__CLAUDE_PROGRAM", "/opt/claude/claude")
                .env("OSTLER_DRIVERS__DOCKER", "false");
            let mount = json!({ "source": claude.dir(), "target": "/opt/claude", "writable": false });
            json!({ "driver": "process", "mounts": [mount] })
        };
        let stage = Self {
            server: server.start().await,
            guard,
            model,
            _engine: engine,
            template,
            dir,
        };
        stage.pool(1, 3).await;
        stage
    }

    async fn pool(&self, target: u32, max: u32) {
        let pool = json!({ "template": self.template, "target": target, "max": max });
        let (status, body) = self.server.call(Method::PUT, "/pools/default", Some(pool)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }

    /// A file on the project's main branch.
    fn merged(&self, path: &str) -> String {
        git(
            &self.dir.path().join("origin"),
            &["show", &format!("main:{path}")],
        )
    }

    async fn task(&self) -> String {
        self.server
            .task(&self.dir.path().join("origin"), "Words", "Write the words.")
            .await
    }

    /// The end of a test: without warm sandboxes, nothing is left of the server.
    async fn end(mut self) {
        self.pool(0, 0).await;
        let none = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
        self.server
            .until("/sandboxes", Duration::from_secs(30), none)
            .await;
        assert!(self.server.stop().await.success());
        self.guard.check();
    }
}

async fn done(driver: &str, postgres: Option<&Postgres>) {
    let stage = Stage::new(driver, postgres, story(), &[]).await;
    let task = stage.task().await;
    let is_over = |task: &Value| ["done", "planning_failed"].contains(&task["status"].as_str().unwrap());
    let ended = stage.server.until(&task, LIMIT, is_over).await;
    assert_eq!(ended["status"], "done", "{ended:#}");
    for word in ["one", "two", "three"] {
        assert_eq!(stage.merged(&format!("words/{word}")), format!("{word}\n"));
    }
    assert!(
        stage
            .model
            .turns()
            .iter()
            .all(|turn| turn.credential() == Some("key"))
    );
    stage.end().await;
}

#[tokio::test]
async fn in_processes_on_sqlite() {
    require!(ClaudeCode, Bubblewrap);
    done("process", None).await;
}

#[tokio::test]
async fn in_processes_on_postgresql() {
    require!(ClaudeCode, Bubblewrap, Postgres);
    done("process", Some(&Postgres::shared())).await;
}

#[tokio::test]
async fn in_containers_on_sqlite() {
    require!(BaseImage);
    done("docker", None).await;
}

#[tokio::test]
async fn in_containers_on_postgresql() {
    require!(BaseImage, Postgres);
    done("docker", Some(&Postgres::shared())).await;
}

/// One agent never closes its issue, one crashes, one hangs with a process that would outlive it.
#[tokio::test]
async fn agents_that_do_not_do_as_they_are_told() {
    require!(ClaudeCode, Bubblewrap);
    let good = |word: &str| {
        [
            Step::add_line(&format!("words/{word}"), word),
            Step::commit(&format!("Write {word}")),
            Step::close(),
        ]
    };
    let story = Story::plan(["Forget", "Crash", "Hang"])
        .worker("Forget", [Step::add_line("words/forgotten", "forgotten")])
        .worker("Crash", [Step::crash()])
        .worker("Crash", good("crashed"))
        .worker("Hang", [Step::stray(27_182), Step::hang()])
        .worker("Hang", good("hung"));
    let settings = [
        ("OSTLER_WORK__WORKER_ATTEMPTS", "3"),
        ("OSTLER_WORK__AGENT_TIMEOUT_SECONDS", "15"),
        ("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1"),
        ("OSTLER_WORK__BACKOFF_MAX_SECONDS", "0.2"),
    ];
    let stage = Stage::new("process", None, story, &settings).await;
    let task = stage.task().await;
    let status = |list: &Value, title: &str| {
        let mut all = list.as_array().into_iter().flatten();
        let found = all.find(|subtask| subtask["title"] == title);
        found.map_or(String::new(), |subtask| {
            let part = |name: &str| subtask[name].as_str().unwrap_or_default();
            format!("{} {}", part("status"), part("blocked_reason"))
        })
    };
    let settled = |list: &Value| {
        let all = ["Forget", "Crash", "Hang"].map(|title| status(list, title));
        all == ["blocked failure", "merged ", "merged "]
    };
    stage
        .server
        .until(&format!("{task}/subtasks"), LIMIT, settled)
        .await;
    assert_eq!(
        stage.merged("words/crashed") + &stage.merged("words/hung"),
        "crashed\nhung\n"
    );
    stage.end().await;
}

/// Two write the same file at the same time, one breaks the check, one is cancelled by a person.
#[tokio::test]
async fn conflicts_are_resolved_failed_checks_mended_and_cancelled_runs_stay_so() {
    require!(ClaudeCode, Bubblewrap);
    let side = |word: &str| {
        [
            Step::write("words/both", &format!("{word}\n")),
            Step::commit(&format!("Write {word}")),
            Step::close(),
        ]
    };
    let resolve = [
        Step::run("git merge -q origin/main || true"),
        Step::write("words/both", "left\nright\n"),
        Step::commit("Both"),
        Step::close(),
    ];
    let story = Story::plan(["Left", "Right", "Break", "Cancel"])
        .worker("Left", side("left"))
        .worker("Left", resolve.clone())
        .worker("Right", side("right"))
        .worker("Right", resolve)
        .worker(
            "Break",
            [
                Step::write("words/zero", "null\n"),
                Step::commit("Break"),
                Step::close(),
            ],
        )
        .worker(
            "Break",
            [
                Step::write("words/zero", "zero\nmended\n"),
                Step::commit("Mend"),
                Step::close(),
            ],
        )
        .worker("Cancel", [Step::stray(31_415), Step::hang()]);
    let settings = [
        ("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1"),
        ("OSTLER_WORK__BACKOFF_MAX_SECONDS", "0.2"),
    ];
    let stage = Stage::new("process", None, story, &settings).await;
    let task = stage.task().await;
    let subtasks = format!("{task}/subtasks");
    let of = |list: &Value, title: &str| {
        let mut all = list.as_array().into_iter().flatten();
        all.find(|subtask| subtask["title"] == title)
            .cloned()
            .unwrap_or_default()
    };
    let strays = || {
        let entries = std::fs::read_dir("/proc").unwrap();
        let lines = entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
        lines.filter(|line| line == b"sleep\x0031415\x00").count()
    };
    // Until its stray process runs there is nothing that could outlive a cancelled run.
    let end = std::time::Instant::now() + LIMIT;
    while strays() == 0 {
        assert!(
            std::time::Instant::now() < end,
            "the agent to be cancelled does not run"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let run = of(&stage.server.get(&subtasks).await, "Cancel")["run_id"].clone();
    let cancelled = std::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["run", "cancel", run.as_str().unwrap(), "--data"])
        .arg(stage.server.data())
        .output()
        .unwrap();
    assert!(cancelled.status.success(), "{cancelled:?}");
    let settled = |list: &Value| {
        let status = |title| of(list, title)["status"].clone();
        let merged = ["Left", "Right", "Break"]
            .iter()
            .all(|title| status(title) == "merged");
        merged && status("Cancel") == "blocked"
    };
    let list = stage.server.until(&subtasks, LIMIT, settled).await;
    assert_eq!(strays(), 0, "a child outlived its cancelled run");
    let error = of(&list, "Cancel")["error"].clone();
    assert!(error.as_str().unwrap().contains("cancelled"), "{error}");
    assert_eq!(stage.merged("words/both"), "left\nright\n");
    assert_eq!(stage.merged("words/zero"), "zero\nmended\n");
    let attempts = |title| of(&list, title)["attempts"].as_u64().unwrap();
    assert_eq!(attempts("Left") + attempts("Right"), 3, "{list:#}");
    assert_eq!(attempts("Break"), 2);
    // The second attempt at it went on in the conversation of the first.
    let path = format!("/subtasks/{}/runs", of(&list, "Break")["id"].as_str().unwrap());
    let runs = stage.server.get(&path).await;
    let sessions: Vec<&Value> = runs
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["kind"] == "worker")
        .map(|run| &run["agent_session"])
        .collect();
    assert!(
        sessions.len() == 2 && sessions[0] == sessions[1] && sessions[0].is_string(),
        "{runs:#}"
    );
    stage.end().await;
}
