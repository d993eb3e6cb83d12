//! Runs of agents in real sandboxes: the workspace in and out, `bd` through the guest, leftovers, sessions, adoption.
//!
//! The agent is a shell script of the kind `command`, which keeps these tests about the executor; the end-to-end tests
//! of the binary use Claude Code.

#![allow(clippy::unwrap_used, reason = "test code")]

mod world;

use ostler_agents::{KindSettings, Kinds};
use ostler_control::{Control, NewTask, WorkSettings};
use ostler_domain::{
    Clock, DriverKind, Project, Run, RunId, RunKind, RunStatus, ServerId, SubtaskStatus, SystemClock, Task,
    TaskStatus,
};
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_sandbox::Driver;
use ostler_store::RunFilter;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use world::me;

const LIMIT: Duration = Duration::from_secs(60);

/// Plans two parts of which the second waits for the first; works by appending to a file.
const AGENT: &str = r#"
set -e
prompt=$(cat)
if [ "$OSTLER_ROLE" = planner ]; then
  a=$(bd create "Write one" -d "Write the word one into words." --parent "$OSTLER_ISSUE_ID" --silent)
  b=$(orchestrator create "Write two" -d "Append two." --parent "$OSTLER_ISSUE_ID" --silent)
  bd dep add "$b" "$a" >/dev/null
  bd close "$OSTLER_ISSUE_ID" >/dev/null
  exit 0
fi
title=$(bd show "$OSTLER_ISSUE_ID" --json | tr -d '\n' | sed 's/.*"title": *"\([^"]*\)".*/\1/')
WORK
bd close "$OSTLER_ISSUE_ID" >/dev/null
echo '<result>{"did": "it"}</result>'
"#;

struct World {
    dir: tempfile::TempDir,
    server_id: ServerId,
    kinds: Kinds,
    timeout: u64,
}

struct Server {
    control: Control,
    driver: Arc<dyn Driver>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@t.invalid"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl World {
    /// `work` is what a worker does, with `$title` of its issue.
    fn new(work: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let origin = dir.path().join("origin");
        std::fs::create_dir(&origin).unwrap();
        git(&origin, &["init", "-q", "-b", "main"]);
        std::fs::write(origin.join("words"), "zero\n").unwrap();
        std::fs::write(
            origin.join("ostler.toml"),
            "[[check]]\nname = \"words\"\ncommand = \"grep -q zero words && ! grep -q bad words\"\n",
        )
        .unwrap();
        git(&origin, &["add", "-A"]);
        git(&origin, &["commit", "-qm", "First"]);
        let argv = ["sh", "-c", &AGENT.replace("WORK", work)]
            .map(str::to_owned)
            .to_vec();
        Self {
            dir,
            server_id: ServerId::new(),
            kinds: Kinds::new(KindSettings {
                command_argv: argv,
                ..KindSettings::default()
            }),
            timeout: 60,
        }
    }

    async fn start(&self) -> Server {
        let root = self.dir.path();
        let guest = ostler_guest_binary::install(&root.join("guest")).unwrap();
        // Others must not take these for leftovers of their own.
        let instance = self.server_id.to_string().replace('_', "-");
        let mut options = ProcessOptions::new(instance, root.join("sandboxes"), guest);
        options.mode = Mode::Auto;
        options.without_limits = true;
        let driver: Arc<dyn Driver> = Arc::new(ProcessDriver::open(options).await.unwrap());
        let control = world::server(root, self.server_id, |parts| {
            parts.kinds = self.kinds.clone();
            parts.drivers = BTreeMap::from([(DriverKind::Process, Arc::clone(&driver))]).into();
            parts.work = WorkSettings {
                agent_kind: "command".into(),
                agent_timeout_seconds: self.timeout,
                worker_attempts: 3,
                ..parts.work.clone()
            };
        })
        .await;
        let (stop, executing) = world::execute(&control, ("default", DriverKind::Process, 1), 2).await;
        let (settling, stopped) = (control.clone(), stop.clone());
        let settling = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                settling.settle_all().await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Server {
            control,
            driver,
            stop,
            tasks: vec![executing, settling],
        }
    }

    async fn begin(&self, server: &Server) -> (Project, Task) {
        let origin = self.dir.path().join("origin");
        let project = server
            .control
            .add_project(&me(), origin.to_str().unwrap(), Some("words"))
            .await
            .unwrap();
        let new = NewTask {
            title: "Count".into(),
            auto: true,
            ..NewTask::default()
        };
        let task = server.control.create_task(&me(), project.id, new).await.unwrap();
        (project, task)
    }
}

impl Server {
    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&Control) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look(&self.control).await {
                return found;
            }
            if Instant::now() > end {
                self.story().await;
                panic!("waiting for {what}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn done(&self, task: &Task) {
        self.until("the task to be done", async |control| {
            let task = control.task(&me(), task.id).await.unwrap();
            (task.status == TaskStatus::Done).then_some(())
        })
        .await;
    }

    async fn runs(&self) -> Vec<Run> {
        let mut runs = self
            .control
            .runs(
                &me(),
                RunFilter {
                    limit: 1000,
                    ..RunFilter::default()
                },
            )
            .await
            .unwrap();
        runs.reverse();
        runs
    }

    /// What happened, for the message of a test that fails.
    async fn story(&self) {
        for run in self.runs().await {
            println!(
                "{} {} {:?} {:?}",
                run.submitted.id, run.submitted.kind, run.status, run.outcome
            );
            if let Some(mut log) = self.control.run_log(&me(), run.submitted.id).await.unwrap() {
                for record in log.next_batch().unwrap() {
                    print!(
                        "  {}: {}",
                        record.stream.as_str(),
                        String::from_utf8_lossy(&record.bytes)
                    );
                }
            }
        }
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.control.end_sandboxes().await.unwrap();
        let records = self.control.sandboxes(&me()).await.unwrap();
        assert_eq!(self.driver.list().await.unwrap(), [], "{records:?}");
        self.control.store().close().await;
    }
}

#[tokio::test]
async fn a_task_goes_from_words_to_merged_code() {
    // The first part is committed by the agent, the second left for Ostler to commit.
    let world = World::new(
        r#"case "$title" in
             *one) echo one >> words; git commit -qam "One";;
             *two) grep -q one words; echo two >> words;;
           esac"#,
    );
    let server = world.start().await;
    let (project, task) = world.begin(&server).await;
    server.done(&task).await;
    assert_eq!(
        git(&world.dir.path().join("origin"), &["show", "main:words"]),
        "zero\none\ntwo\n"
    );
    let runs = server.runs().await;
    let kinds: Vec<RunKind> = runs.iter().map(|run| run.submitted.kind).collect();
    assert_eq!(
        kinds,
        [
            RunKind::Planner,
            RunKind::Worker,
            RunKind::Check,
            RunKind::Worker,
            RunKind::Check
        ]
    );
    for run in &runs {
        assert_eq!(run.status, RunStatus::Succeeded, "{run:?}");
    }
    assert_eq!(runs[1].outcome.result, Some(serde_json::json!({"did": "it"})));
    assert!(runs[1].outcome.head.is_some() && runs[2].outcome.head.is_none());
    let subjects = git(&world.dir.path().join("origin"), &["log", "--format=%s", "main"]);
    assert!(
        subjects.contains("Work left uncommitted by attempt 1"),
        "{subjects}"
    );
    let issues = server.control.issues(&me(), project.id).await.unwrap();
    assert!(issues.iter().all(|issue| issue.closed_at.is_some()), "{issues:?}");
    server.end().await;
}

#[tokio::test]
async fn a_failed_check_is_told_to_the_next_attempt() {
    let world = World::new(
        r#"case "$title-$OSTLER_ATTEMPT" in
             *one-1) echo bad >> words;;
             *one-*) sed -i /bad/d words; echo "$prompt" | grep -q "grep -q bad" && echo one >> words;;
             *two-*) echo two >> words;;
           esac"#,
    );
    let server = world.start().await;
    let (_, task) = world.begin(&server).await;
    server.done(&task).await;
    assert_eq!(
        git(&world.dir.path().join("origin"), &["show", "main:words"]),
        "zero\none\ntwo\n"
    );
    server.end().await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_ended_with_all_its_children() {
    let mut world = World::new("setsid sh -c 'trap \"\" TERM; sleep 987654' & sleep 987654");
    world.timeout = 2;
    let server = world.start().await;
    let (project, _) = world.begin(&server).await;
    let subtask = server
        .until("the subtask to be blocked", async |control| {
            let task = control.tasks(&me(), project.id).await.unwrap().pop()?;
            let subtasks = control.subtasks(&me(), task.id).await.unwrap();
            subtasks
                .into_iter()
                .find(|subtask| subtask.error.is_some() && subtask.status == SubtaskStatus::Blocked)
        })
        .await;
    assert!(
        subtask.error.as_ref().unwrap().contains("time-out"),
        "{subtask:?}"
    );
    let left = Command::new("sh")
        .args(["-c", "grep -lsz '^987654$' /proc/[0-9]*/cmdline"])
        .output()
        .unwrap();
    assert!(left.stdout.is_empty(), "{left:?}");
    server.end().await;
}

#[test]
fn a_run_is_adopted_by_the_next_server_and_its_commands_count_once() {
    let world = World::new(
        r#"case "$title" in
             *one) bd create "Noticed on the way" --silent > /dev/null; for i in 1 2 3 4 5 6 7 8; do echo step $i; sleep 0.5; done; echo one >> words;;
             *two) echo two >> words;;
           esac"#,
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (project, task, run) = runtime.block_on(begun(&world));
    // What a kill leaves: nothing is said good-bye to, the sandboxes go on.
    runtime.shutdown_timeout(Duration::from_secs(10));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(taken_up(&world, &project, &task, &run));
}

/// What a run has logged so far, of all its streams.
async fn log_text(control: &Control, id: RunId) -> String {
    let Some(mut log) = control.run_log(&me(), id).await.unwrap() else {
        return String::new();
    };
    let records = log.next_batch().unwrap().into_iter();
    let bytes: Vec<u8> = records.flat_map(|record| record.bytes).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// To the middle of the first worker's run.
async fn begun(world: &World) -> (Project, Task, Run) {
    let server = world.start().await;
    let (project, task) = world.begin(&server).await;
    let run = server
        .until("the worker to be under way", async |control| {
            let filter = RunFilter {
                kind: Some(RunKind::Worker),
                ..RunFilter::default()
            };
            let run = control.runs(&me(), filter).await.unwrap().pop()?;
            let text = log_text(control, run.submitted.id).await;
            text.contains("step 2").then_some(run)
        })
        .await;
    (project, task, run)
}

async fn taken_up(world: &World, project: &Project, task: &Task, run: &Run) {
    let server = world.start().await;
    server.done(task).await;
    let now = server.control.run(&me(), run.submitted.id).await.unwrap();
    assert_eq!((now.status, now.attempt), (RunStatus::Succeeded, 1), "{now:?}");
    let text = log_text(&server.control, run.submitted.id).await;
    for step in 1..=8 {
        assert_eq!(text.matches(&format!("step {step}\n")).count(), 1, "{text}");
    }
    let issues = server.control.issues(&me(), project.id).await.unwrap();
    let noticed = issues
        .iter()
        .filter(|issue| issue.title == "Noticed on the way")
        .count();
    assert_eq!(noticed, 1);
    assert!(SystemClock.now() > now.finished_at.unwrap());
    server.end().await;
}
