//! `kill -9` of the server at random instants of tasks, on both stores: each task ends DONE, each run has one end, each
//! step of the work is there once, and nothing is left over.
//!
//! The agent is a script, so that a task takes seconds and the instants fall into every stage of it.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{LeakGuard, Postgres, TestServer, git, repository, require};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
