//! `ostler project`, `ostler task` and `ostler subtask`.

use crate::streams::Proxy;
use crate::support::{Cli, Done, id, lines};
use ostler_test_kit::{TestServer, git, repository, require};
use serde_json::{Value, json};

#[tokio::test]
async fn projects_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    repository(&dir.path().join("shop"), &[("README", "sample\n")]);
    let settings = [
        ("OSTLER_WORK__AGENT_KIND", "command"),
        ("OSTLER_AGENTS__COMMAND_ARGV", r#"["false"]"#),
        ("OSTLER_WORK__PLANNER_ATTEMPTS", "2"),
        ("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1"),
        ("OSTLER_WORK__BACKOFF_MAX_SECONDS", "0.1"),
    ];
    let server = Cli::simulated(&dir.path().join("data"), &settings).await;
    let mut relative = server.command(&["project", "add", "--json", "shop"]);
    let relative = Done::of(relative.current_dir(dir.path()));
    let project: Value = serde_json::from_str(&relative.out).unwrap();
    assert_eq!(
        (&project["name"], &project["default_branch"]),
        (&"shop".into(), &"main".into())
    );
    let again = server.run(&["project", "add", dir.path().join("shop").to_str().unwrap()]);
    assert_eq!(again.code, 4, "{again:?}");
    assert!(server.ok(&["project", "list"]).contains("shop"));
    assert_eq!(server.json(&["project", "list"])[0], project);
    assert!(server.ok(&["project", "show", "shop"]).contains("main"));
    assert_eq!(server.ok(&["project", "cleanup", "shop"]), "nothing to remove\n");

    // The only sandbox is held, so that the planner waits; the watch says why.
    server.ok(&["pool", "set", "default", "--target", "0", "--max", "1"]);
    let destroyed = |sandboxes: &Value| sandboxes.as_array().unwrap().is_empty();
    server.until(&["sandbox", "list"], destroyed);
    let holder = id(&server.ok(&["agent", "provision"]), "sbx_");
    let created = server.run_with(
        &["task", "create", "-p", "shop", "-t", "Sell", "-d", "-"],
        "Sell what is there.\n",
    );
    assert_eq!(created.code, 0, "{created:?}");
    let task = id(&created.out, "tsk_");
    assert_eq!(
        server.json(&["task", "show", &task])["description"],
        "Sell what is there.\n"
    );
    assert!(server.ok(&["task", "list", "-p", "shop"]).contains("planning"));
    assert_eq!(server.json(&["task", "list"])[0]["id"], task.as_str());
    assert_eq!(server.json(&["subtask", "list", "-t", &task]), json!([]));
    let mut watch = server.start(&["task", "watch", &task]);
    watch.until_notes(" waits: ");
    server.ok(&["agent", "destroy", &holder]);
    // The agent of this server fails, so that planning does.
    let watched = watch.wait();
    assert_eq!(watched.code, 1, "{watched:?}");
    assert!(
        watched.out.contains("task Sell: planning (run run_"),
        "{watched:?}"
    );
    assert!(
        watched.out.contains("planning (attempt 2, run run_"),
        "{watched:?}"
    );
    assert!(
        watched.out.contains("task Sell: planning_failed: "),
        "{watched:?}"
    );
    assert!(
        watched.err.contains("the planner run run_") && watched.err.contains("in use"),
        "{watched:?}"
    );
    assert!(watched.err.contains("ostler task retry-planning"), "{watched:?}");

    assert_eq!(
        server.json(&["task", "retry-planning", &task])["status"],
        "planning"
    );
    let json = server.run(&["task", "watch", "--json", &task]);
    let last = lines(&json.out).pop().unwrap();
    assert_eq!(
        (json.code, &last["task"]["status"]),
        (1, &"planning_failed".into()),
        "{json:?}"
    );
    let early = server.run(&["task", "retry-planning", &task]);
    assert_eq!(early.code, 0, "{early:?}");
    let early = server.run(&["task", "retry-planning", &task]);
    assert_eq!(early.code, 4, "it is being planned: {early:?}");

    assert_eq!(server.ok(&["task", "delete", &task]), format!("{task} deleted\n"));
    let gone = server.run(&["task", "show", &task]);
    assert_eq!(gone.code, 3, "{gone:?}");
    for verb in ["show", "start", "retry", "merge", "diff", "kill"] {
        let missing = server.run(&["subtask", verb, "nothing-like-it"]);
        assert!(
            missing.code == 3 && missing.err.contains("no subtask"),
            "{verb}: {missing:?}"
        );
        let missing = server.run(&["subtask", verb, "sub_00000000000000000000000000"]);
        assert_eq!(missing.code, 3, "{verb}: {missing:?}");
    }
    assert_eq!(server.json(&["project", "remove", "shop"])["done"], "removed");
    assert_eq!(server.json(&["project", "list"]), json!([]));
}

/// Plans two subtasks of which the second waits for the first, and writes a file for each.
const AGENT: &str = r#"
set -e
cat > /dev/null
if [ "$OSTLER_ROLE" = planner ]; then
  first=$(bd create "first" -d "Write first." --parent "$OSTLER_ISSUE_ID" --silent)
  second=$(bd create "second" -d "Write second." --parent "$OSTLER_ISSUE_ID" --silent)
  bd dep add "$second" "$first" > /dev/null
else
  part=$(bd show "$OSTLER_ISSUE_ID" --json | tr -d '\n' | sed 's/.*"title": *"\([a-z]*\)".*/\1/')
  [ "$part" = first ] || sleep 2
  echo words > "$part"
  git add "$part"
  git commit -qm "Write $part"
fi
bd close "$OSTLER_ISSUE_ID" > /dev/null
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_step_by_step() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("shop");
    let check = "[[check]]\nname = \"words\"\ncommand = \"grep -q words README first\"\n";
    repository(&origin, &[("README", "words\n"), ("ostler.toml", check)]);
    let argv = json!(["sh", "-c", AGENT]).to_string();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_WORK__AGENT_KIND", "command")
        .env("OSTLER_AGENTS__COMMAND_ARGV", argv)
        .env("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1");
    let mut server = Cli(server.start().await);
    server.ok(&["project", "add", origin.to_str().unwrap()]);
    let task = id(
        &server.ok(&["task", "create", "-p", "shop", "-t", "Words"]),
        "tsk_",
    );
    let watch = server.start(&["task", "watch", &task]);
    let subtasks = server.until(&["subtask", "list", "-t", &task], |all| {
        all[0]["status"] == "ready"
    });
    let names: Vec<&str> = (0..2).map(|i| subtasks[i]["id"].as_str().unwrap()).collect();
    let [first, second] = names[..] else {
        unreachable!()
    };
    let early = server.run(&["subtask", "start", second]);
    assert!(
        early.code == 4 && early.err.contains("waits for others"),
        "{early:?}"
    );
    let early = server.run(&["subtask", "merge", first]);
    assert_eq!(early.code, 4, "{early:?}");

    assert_eq!(server.json(&["subtask", "start", first])["status"], "in_progress");
    let is = |status: &'static str| move |subtask: &Value| subtask["status"] == status;
    let done = server.until(&["subtask", "show", first], is("completed"));
    assert_eq!(done["runs"][1]["kind"], "worker", "{done:#}");
    let branch = done["branch"].as_str().unwrap();
    assert!(server.ok(&["subtask", "show", branch]).contains(first));
    let diff = server.run(&["subtask", "diff", first]);
    assert!(
        diff.out.contains("+words") && diff.err.contains("Write first"),
        "{diff:?}"
    );
    assert_eq!(server.json(&["subtask", "diff", first])["truncated"], false);
    assert!(server.ok(&["subtask", "merge", first]).contains("merged"));

    server.until(&["subtask", "show", second], is("ready"));
    server.ok(&["subtask", "start", second]);
    server.until(&["run", "list", "-t", &task, "--status", "running"], |runs| {
        runs[0].is_object()
    });
    assert!(server.ok(&["subtask", "kill", second]).contains("killed"));
    let killed = server.until(&["subtask", "show", second], is("blocked"));
    assert_eq!(killed["blocked_reason"], "failure");
    let stuck = watch.wait();
    assert!(
        stuck.code == 1 && stuck.err.contains("ostler subtask retry"),
        "{stuck:?}"
    );
    assert!(
        stuck.out.contains("first: in_progress (worker run run_"),
        "{stuck:?}"
    );
    assert!(
        stuck.out.contains("first: in_progress (check run run_"),
        "{stuck:?}"
    );
    assert!(
        stuck
            .out
            .contains(&format!("first: completed (ostler subtask merge {first})")),
        "{stuck:?}"
    );

    server.ok(&["subtask", "retry", second]);
    let proxy = Proxy::to(server.0.url()).await;
    let token = server.0.token.clone().unwrap();
    let through = ["--server", &proxy.url, "--token", &token];
    let mut watch = server.start(&[&through[..], &["task", "watch", "--json", &task]].concat());
    watch.until_prints("in_progress");
    proxy.now_to(server.0.url());
    server.until(&["subtask", "show", second], is("completed"));
    assert_eq!(server.json(&["subtask", "merge", second])["status"], "merged");
    let watched = watch.wait();
    assert!(
        watched.err.contains("is lost") && watched.err.contains("answers again"),
        "{watched:?}"
    );
    let last = lines(&watched.out).pop().unwrap();
    assert_eq!(
        (watched.code, &last["task"]["status"]),
        (0, &"done".into()),
        "{watched:?}"
    );
    let shown = server.ok(&["task", "show", &task]);
    assert!(shown.contains("done") && shown.contains("merged"), "{shown}");
    let cleaned = server.json(&["project", "cleanup", "shop"]);
    assert_eq!(cleaned["failures"], json!([]), "{cleaned}");
    server.0.stop().await;
    assert!(git(&origin, &["log", "--oneline", "main"]).contains("Write second"));
}

#[tokio::test]
async fn a_conflict_goes_back_to_the_agent() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("shop");
    repository(&origin, &[("README", "words\n")]);
    // The same file for both, and none waits for the other.
    let agent = AGENT
        .replace("bd dep add", ": bd dep add")
        .replace("echo words", "echo \"$part\"; part=same; echo $OSTLER_ISSUE_ID");
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_WORK__AGENT_KIND", "command")
        .env(
            "OSTLER_AGENTS__COMMAND_ARGV",
            json!(["sh", "-c", agent]).to_string(),
        );
    let mut server = Cli(server.start().await);
    server.ok(&["project", "add", origin.to_str().unwrap()]);
    let task = id(
        &server.ok(&["task", "create", "-p", "shop", "-t", "Words"]),
        "tsk_",
    );
    let list = ["subtask", "list", "-t", &task];
    let both = |status: &'static str| {
        move |all: &Value| all.as_array().unwrap().len() == 2 && (0..2).all(|i| all[i]["status"] == status)
    };
    let subtasks = server.until(&list, both("ready"));
    let names = [0, 1].map(|i| subtasks[i]["id"].as_str().unwrap());
    for name in names {
        server.ok(&["subtask", "start", name]);
    }
    server.until(&list, both("completed"));
    server.ok(&["subtask", "merge", names[0]]);
    let conflict = server.run(&["subtask", "merge", names[1]]);
    assert_eq!(conflict.code, 1, "{conflict:?}");
    assert!(conflict.out.contains("in_progress"), "{conflict:?}");
    assert!(
        conflict.err.contains("was not merged") && conflict.err.contains("same"),
        "{conflict:?}"
    );
    assert!(server.ok(&["task", "delete", &task]).contains("deleted"));
    server.0.stop().await;
}
