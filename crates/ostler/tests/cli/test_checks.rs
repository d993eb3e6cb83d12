//! A plan of tests as a check of a project's work, from the agent to the merge request.

use crate::support::{Cli, LIMIT, id};
use ostler_test_kit::{TestServer, git, repository, require};
use serde_json::{Value, json};
use std::path::Path;

/// Plans one subtask. Its worker fails the tests at first, and reads what failed; in other repositories it weakens them, or
/// asks for another sandbox.
const AGENT: &str = r#"
set -e
prompt=$(cat)
if [ "$OSTLER_ROLE" = planner ]; then
  bd create "words" -d "Write words." --parent "$OSTLER_ISSUE_ID" --silent > /dev/null
elif [ -e weaken ]; then
  sed -i 's/grep -q right words/true/' tests/plan.toml
  git commit -qam "Weaken"
elif [ -e greedy ] && [ ! -e words ]; then
  echo right > words
  sed -i '0,/^run/s//requires = { pool = "default" }\nrun/' tests/plan.toml
  git add words
  git commit -qam "Ask for a pool"
elif echo "$prompt" | grep -q "it says: wrong"; then
  echo right > words
  git commit -qam "Mend"
else
  echo wrong > words
  git add words
  git commit -qm "Write words"
fi
bd close "$OSTLER_ISSUE_ID" > /dev/null
"#;
const CHECK: &str =
    "[[check]]\nname = \"there\"\ncommand = \"test -e words\"\n\n[tests]\nplan = \"tests/plan.toml\"\n";
const PLAN: &str = r#"
name = "acceptance"

[[tests]]
name = "content"
run = "echo it says: $(cat words); grep -q right words"

[[tests]]
name = "after"
run = "true"
needs = ["content"]
"#;

async fn server(dir: &Path) -> Cli {
    let argv = json!(["sh", "-c", AGENT]).to_string();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.join("data"))
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_WORK__AGENT_KIND", "command")
        .env("OSTLER_AGENTS__COMMAND_ARGV", argv)
        .env("OSTLER_WORK__SYNC_SECONDS", "600")
        .env("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1");
    Cli(server.start().await)
}

/// Adds the repository, and creates a task whose only subtask is worked on.
fn begun(cli: &Cli, origin: &Path) -> String {
    cli.ok(&["project", "add", origin.to_str().unwrap()]);
    let name = origin.file_name().unwrap().to_str().unwrap();
    let task = id(&cli.ok(&["task", "create", "-p", name, "-t", "Words"]), "tsk_");
    let all = cli.until(&["subtask", "list", "-t", &task], |all| {
        all[0]["status"] == "ready"
    });
    let subtask = all[0]["id"].as_str().unwrap().to_owned();
    cli.ok(&["subtask", "start", &subtask]);
    subtask
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_decides_whether_work_is_accepted() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("shop");
    repository(
        &origin,
        &[
            ("README", "words\n"),
            ("ostler.toml", CHECK),
            ("tests/plan.toml", PLAN),
        ],
    );
    let mut cli = server(dir.path()).await;
    let began = std::time::Instant::now();
    let subtask = begun(&cli, &origin);
    let is = |status: &'static str| move |subtask: &Value| subtask["status"] == status;
    let done = cli.until(&["subtask", "show", &subtask], is("completed"));
    assert!(
        began.elapsed() < LIMIT,
        "the end of a plan is what goes on, not the next round"
    );
    assert_eq!(done["attempts"], 2, "{done:#}");
    assert!(cli.ok(&["subtask", "diff", &subtask]).contains("+right"));

    // Both plans can be looked at: of the branch, at its commits.
    let plans = cli.json(&["test", "list"]);
    let told: Vec<(&str, &str)> = plans
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| (plan["status"].as_str().unwrap(), plan["branch"].as_str().unwrap()))
        .collect();
    let branch = done["branch"].as_str().unwrap();
    assert_eq!(told, [("passed", branch), ("failed", branch)], "{plans:#}");
    assert!(
        cli.ok(&["test", "history", "content", "--plan", "acceptance"])
            .contains("50.0 %")
    );
    assert!(cli.ok(&["subtask", "merge", &subtask]).contains("merged"));
    assert_eq!(git(&origin, &["show", "main:words"]), "right\n");
    cli.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_weakened_or_missing_is_not_followed_blindly() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let cli = &mut server(dir.path()).await;
    let origin = dir.path().join("weak");
    let files = [
        ("words", "right\n"),
        ("weaken", ""),
        ("ostler.toml", CHECK),
        ("tests/plan.toml", PLAN),
    ];
    repository(&origin, &files);
    cli.ok(&["project", "add", origin.to_str().unwrap()]);
    let task = cli.ok(&["task", "create", "-p", "weak", "-t", "Words", "--auto"]);
    let task = id(&task, "tsk_");
    let waits = cli.until(&["subtask", "list", "-t", &task], |all| {
        all[0]["error"].is_string()
    });
    assert_eq!(waits[0]["status"], "completed", "{waits:#}");
    let why = waits[0]["error"].as_str().unwrap();
    assert!(why.contains("`content`") && why.contains("by hand"), "{why}");

    // Where tests are executed is not the branch's to say.
    let origin = dir.path().join("greedy");
    let files = [("greedy", ""), ("ostler.toml", CHECK), ("tests/plan.toml", PLAN)];
    repository(&origin, &files);
    let subtask = begun(cli, &origin);
    let refused = cli.until(&["subtask", "show", &subtask], |subtask| {
        subtask["attempts"].as_u64() > Some(1)
    });
    let why = refused["error"].as_str().unwrap();
    assert!(
        why.contains("`content` asks for a sandbox that no test on main asks for"),
        "{why}"
    );
    cli.0.stop().await;
}
