//! The real Claude Code program plays a story, with Ostler's own prompts and a small `bd` beside it.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use ostler_agents::{FeedbackPrompt, PlannerPrompt, Prompts, WorkerPrompt};
use ostler_test_kit::{
    ClaudeCode, FakeModel, LeakGuard, Planned, Step, Story, git,
    model::{Assignment, Turn},
    repository, require,
};
use serde_json::Value;

fn planner(attempt: u32) -> String {
    let prompt = PlannerPrompt {
        title: "A task: with a colon",
        description: "Its description.",
        project: "sample",
        default_branch: "main",
        epic: "ab-1",
        instruction_file: Some("CLAUDE.md"),
        attempt,
        feedback: (attempt > 1).then_some("The epic was not closed."),
    };
    Prompts::embedded().unwrap().planner(&prompt).unwrap()
}

fn worker(title: &str, issue: &str, attempt: u32) -> String {
    let prompt = WorkerPrompt {
        task_title: "A task: with a colon",
        title,
        spec: "",
        plan: "",
        project: "sample",
        default_branch: "main",
        branch: "1-one",
        issue,
        checks: &["make test".to_owned()],
        instruction_file: None,
        attempt,
        feedback: (attempt > 1).then_some("`make test` failed."),
    };
    Prompts::embedded().unwrap().worker(&prompt).unwrap()
}

fn feedback(title: &str, issue: &str, attempt: u32, fault: Option<&str>) -> String {
    let prompt = FeedbackPrompt {
        title,
        issue,
        branch: "1-one",
        checks: &[],
        feedback: fault,
        attempt,
    };
    Prompts::embedded().unwrap().feedback(&prompt).unwrap()
}

#[test]
fn assignments_are_read_from_the_prompts() {
    let assignment = |issue: &str, title: Option<&str>, attempt| {
        Some(Assignment {
            issue: issue.to_owned(),
            title: title.map(str::to_owned),
            attempt,
        })
    };
    let title = r#"Say: "hello" (now)"#;
    for attempt in [1, 2] {
        let number = attempt as usize;
        assert_eq!(
            Assignment::read(&planner(attempt)),
            assignment("ab-1", None, number)
        );
        assert_eq!(
            Assignment::read(&worker(title, "ab-1.2", attempt)),
            assignment("ab-1.2", Some(title), number)
        );
    }
    for fault in [None, Some("`make test` failed.")] {
        assert_eq!(
            Assignment::read(&feedback("One", "ab-1.2", 3, fault)),
            assignment("ab-1.2", Some("One"), 3)
        );
    }
    assert_eq!(Assignment::read("Write me a poem."), None);
}

/// Keeps issues as `{id: {title, status, after}}` in the file that `BD_FILE` names.
const BD: &str = r#"#!/usr/bin/env python3
import json, os, sys
path, (verb, *rest) = os.environ["BD_FILE"], sys.argv[1:]
issues = json.load(open(path)) if os.path.exists(path) else {}
if verb == "list":
    print(json.dumps([{"id": i, "title": v["title"]} for i, v in issues.items()]))
elif verb == "create":
    new = f"ab-1.{len(issues) + 1}"
    issues[new] = {"title": rest[0], "status": "open", "after": []}
    print(new)
elif verb == "dep":
    issues[rest[1]]["after"].append(rest[2])
elif verb == "close":
    issues.setdefault(rest[0], {"title": "", "after": []})["status"] = "closed"
else:
    sys.exit(f"bd: {verb}?")
json.dump(issues, open(path, "w"))
"#;

/// A directory with a work tree, a home and a `bd`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "bin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let bd = dir.path().join("bin/bd");
        fs::write(&bd, BD).unwrap();
        fs::set_permissions(&bd, PermissionsExt::from_mode(0o755)).unwrap();
        repository(&dir.path().join("tree"), &[("words", "zero\n")]);
        Self(dir)
    }

    fn tree(&self) -> std::path::PathBuf {
        self.0.path().join("tree")
    }

    fn issues(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join("issues")).unwrap()).unwrap()
    }

    fn agent(&self, model: &FakeModel, prompt: &str) -> Command {
        let claude = ClaudeCode::find().unwrap();
        let mut command = Command::new(claude.program);
        let bin = self.0.path().join("bin").display().to_string();
        command
            .args(ClaudeCode::headless(prompt))
            .current_dir(self.tree())
            .envs(ClaudeCode::env(&model.base_url(), "token"))
            .env("HOME", self.0.path().join("home"))
            .env("BD_FILE", self.0.path().join("issues"))
            .env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()))
            .stdin(Stdio::null());
        for (name, value) in [("NAME", "Agent"), ("EMAIL", "agent@localhost")] {
            command.env(format!("GIT_AUTHOR_{name}"), value);
            command.env(format!("GIT_COMMITTER_{name}"), value);
        }
        command
    }

    fn play(&self, model: &FakeModel, prompt: &str) -> Output {
        self.agent(model, prompt).output().unwrap()
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_task_is_planned_and_worked_on() {
    require!(ClaudeCode);
    let place = Place::new();
    let mut guard = LeakGuard::new(place.0.path());
    let story = Story::plan([
        Planned::new("It's one"),
        Planned::new("Two").after("It's one").spec("Say \"two\""),
        Planned::new("Three").after("It's one").after("Two"),
    ])
    .planner([Step::run("true")])
    .worker(
        "It's one",
        [
            Step::write("some dir/it's", "one\n"),
            Step::add_line("words", "one"),
            Step::run("grep -q one words"),
            Step::commit("It's one"),
            Step::close(),
        ],
    )
    .worker("Two", [Step::add_line("words", "two")])
    .worker("Two", [Step::commit("Two, at attempt 2"), Step::close()]);
    let model = FakeModel::start(story).unwrap();

    succeeded(&place.play(&model, &planner(1)));
    assert!(
        !place.0.path().join("issues").exists(),
        "the first attempt only looks around"
    );
    // Another attempt finds what the one before has made, and makes the rest.
    succeeded(&place.play(&model, &planner(2)));
    let planned = place.issues();
    succeeded(&place.play(&model, &planner(2)));
    let titles = |issues: &Value| {
        let of = |id: &str| issues[id]["title"].as_str().unwrap_or_default().to_owned();
        ["ab-1.1", "ab-1.2", "ab-1.3"].map(of)
    };
    assert_eq!(titles(&planned), ["It's one", "Two", "Three"]);
    assert_eq!(titles(&place.issues()), titles(&planned));
    assert_eq!(place.issues().as_object().unwrap().len(), 4, "with the epic");
    assert_eq!(
        planned["ab-1.3"]["after"],
        serde_json::json!(["ab-1.1", "ab-1.2"])
    );
    assert_eq!(planned["ab-1"]["status"], "closed");

    succeeded(&place.play(&model, &worker("It's one", "ab-1.1", 1)));
    assert_eq!(place.issues()["ab-1.1"]["status"], "closed");
    succeeded(&place.play(&model, &worker("Two", "ab-1.2", 1)));
    assert_eq!(place.issues()["ab-1.2"]["status"], "open");
    succeeded(&place.play(&model, &feedback("Two", "ab-1.2", 2, None)));
    assert_eq!(place.issues()["ab-1.2"]["status"], "closed");
    assert_eq!(git(&place.tree(), &["show", "HEAD:words"]), "zero\none\ntwo\n");
    assert_eq!(git(&place.tree(), &["show", "HEAD~1:some dir/it's"]), "one\n");
    assert_eq!(
        git(&place.tree(), &["log", "--format=%s"]),
        "Two, at attempt 2\nIt's one\nFirst\n"
    );
    let unknown = place.play(&model, &worker("Four", "ab-1.4", 1));
    assert!(!unknown.status.success(), "{unknown:?}");
    guard.check();
}

#[test]
fn agents_crash_are_refused_and_hang() {
    require!(ClaudeCode);
    let place = Place::new();
    let mut guard = LeakGuard::new(place.0.path());
    let story = Story::plan(["Crash", "Refuse", "Hang"])
        .worker("Crash", [Step::crash()])
        .worker("Refuse", [Step::refuse()])
        .worker(
            "Hang",
            [
                Step::stray(31_415),
                Step::turn(Turn::bash("touch here")),
                Step::hang(),
            ],
        );
    let model = FakeModel::start(story).unwrap();
    let crashed = place.play(&model, &worker("Crash", "ab-1.1", 1));
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&crashed.status),
        Some(9),
        "{crashed:?}"
    );
    let refused = place.play(&model, &worker("Refuse", "ab-1.2", 1));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let mut hanging = place.agent(&model, &worker("Hang", "ab-1.3", 1));
    let mut hanging = hanging.stdout(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !place.tree().join("here").exists() {
        assert!(Instant::now() < end && hanging.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        hanging.try_wait().unwrap().is_none(),
        "it did not wait for the model"
    );
    hanging.kill().unwrap();
    hanging.wait().unwrap();
    // What the agent's program started beside it may take a moment to end.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = guard.left();
        if left.len() == 1 && left[0].ends_with("sleep 31415") {
            break;
        }
        assert!(Instant::now() < end, "{left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
