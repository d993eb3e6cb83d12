//! What whoever runs a plan chooses besides its text; single cases; quarantine, history and the counters.

use crate::support::Cli;
use crate::test_run::{server, written};
use ostler_test_kit::require;
use serde_json::{Value, json};

fn statuses(server: &Cli, plan: &str) -> Vec<(String, String)> {
    let shown = server.json(&["test", "show", plan]);
    let mut tests = shown["tests"].as_array().unwrap().clone();
    tests.sort_by_key(|test| test["index"].as_u64());
    let text = |test: &Value, field: &str| test[field].as_str().unwrap().to_owned();
    tests
        .iter()
        .map(|test| (text(test, "name"), text(test, "status")))
        .collect()
}

fn named(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = wanted
        .iter()
        .map(|(name, status)| ((*name).to_owned(), (*status).to_owned()));
    owned.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_plan_with_variables_until_the_first_failure() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = r#"
name = "shop"
max_parallel = 1
env = { MOOD = "plan" }
[[tests]]
name = "build"
run = "true"
[[tests]]
name = "unit"
run = 'test "$MOOD $PLACE" = "good here"'
needs = ["build"]
[[tests]]
name = "bad"
run = "false"
priority = 5
[[tests]]
name = "other"
run = "true"
"#;
    let plan = written(files.path(), "plan.toml", plan);
    // With what it needs and nothing else, and variables over those of the text.
    let mut command = server.command(&[
        "test",
        "run",
        &plan,
        "-t",
        "uni",
        "-e",
        "MOOD=good",
        "--env",
        "PLACE",
    ]);
    let done = crate::support::Done::of(command.env("PLACE", "here"));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        statuses(&server, "shop"),
        named(&[("build", "succeeded"), ("unit", "succeeded")])
    );
    // Without the first failure ending it, and with.
    let done = server.run(&["test", "run", &plan, "-t", "bad", "-t", "other"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(
        statuses(&server, "shop"),
        named(&[("bad", "failed"), ("other", "succeeded")])
    );
    let done = server.run(&["test", "run", &plan, "-t", "bad", "-t", "other", "--fail-fast"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(
        statuses(&server, "shop"),
        named(&[("bad", "failed"), ("other", "cancelled")])
    );

    for (arguments, wanted) in [
        (
            ["-t", "nothing"],
            "no test of the plan has a name that contains `nothing`",
        ),
        (["--env", "NOT_SET_ANYWHERE"], "is not set here"),
        (["--env", "OSTLER_SHARD_INDEX=1"], "is set by Ostler"),
        (["--revision", "0d8f"], "without `project`"),
    ] {
        let done = server.run(&[&["test", "run", plan.as_str()], &arguments[..]].concat());
        assert!(
            [2, 4].contains(&done.code) && done.err.contains(wanted),
            "{arguments:?}: {done:?}"
        );
    }
    server.0.stop().await;
}

const CASES: &str = r#"
name = "cases"
[[tests]]
name = "suite"
run = "echo TAP version 14; echo 1..3; echo ok 1 - adds; echo not ok 2 - divides; echo 'ok 3 - waits # SKIP later'; exit 1"
reports = [{ path = "stdout", format = "tap" }]
[[tests]]
name = "sometimes"
run = 'test "$(date +%s)" -ge "$THEN"'
retries = 10
retry_delay = 3
[[tests]]
name = "plain"
run = "true"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn single_cases_are_told_and_reported() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = written(files.path(), "plan.toml", CASES);
    // Passes only after some tries.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let then = format!("THEN={}", now.unwrap().as_secs() + 10);
    let out = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (junit, tap, jsonl) = (out("o.xml"), out("o.tap"), out("o.jsonl"));
    let done = server.run(&[
        "test", "run", &plan, "-e", &then, "--junit", &junit, "--tap", &tap, "--jsonl", &jsonl,
    ]);
    assert_eq!(done.code, 1, "{done:?}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    for wanted in [
        r#"<testsuite name="suite" tests="3" failures="1" errors="0" skipped="1""#,
        r#"<testcase name="adds""#,
        r#"<testcase name="divides""#,
        r#"<testcase name="plain" classname="cases""#,
        r#"<testcase name="sometimes" classname="cases""#,
        "<flakyFailure",
    ] {
        assert!(xml.contains(wanted), "no `{wanted}`: {xml}");
    }
    assert!(
        !xml.contains(r#"<testcase name="suite""#),
        "it is told by its cases: {xml}"
    );
    let tap = std::fs::read_to_string(&tap).unwrap();
    assert!(tap.contains("divides") && tap.contains("not ok"), "{tap}");
    let jsonl = std::fs::read_to_string(&jsonl).unwrap();
    assert!(
        jsonl.lines().count() >= 4 && jsonl.contains(r#""name":"waits""#),
        "{jsonl}"
    );

    let shown = server.json(&["test", "show", "cases"]);
    let tests = shown["tests"].as_array().unwrap();
    let suite = tests.iter().find(|test| test["name"] == "suite").unwrap();
    let path = format!("/runs/{}/cases", suite["run_id"].as_str().unwrap());
    let cases = server.0.get(&path).await;
    let told: Vec<(&str, &str)> = cases
        .as_array()
        .unwrap()
        .iter()
        .map(|case| (case["name"].as_str().unwrap(), case["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("adds", "passed"), ("divides", "failed"), ("waits", "skipped")]
    );
    let failed = server.0.get(&format!("{path}?outcome=failed")).await;
    assert_eq!(failed.as_array().unwrap().len(), 1, "{failed}");
    let second = server.0.get(&format!("{path}?offset=1&limit=1")).await;
    assert_eq!(second[0]["name"], "divides", "{second}");
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_history_and_figures() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan =
        "name = 'shop'\n[[tests]]\nname = 'bad'\nrun = 'false'\n[[tests]]\nname = 'good'\nrun = 'true'\n";
    let plan = written(files.path(), "plan.toml", plan);
    assert_eq!(server.run(&["test", "run", &plan]).code, 1);
    assert!(
        server
            .ok(&["test", "quarantine"])
            .contains("no test is in quarantine")
    );
    let listed = server.json(&[
        "test",
        "quarantine",
        "bad",
        "-p",
        "shop",
        "--reason",
        "it fails at night",
    ]);
    let key = listed["key"].as_str().unwrap();
    let done = server.run(&["test", "run", &plan]);
    assert_eq!(done.code, 0, "its failure counts for nothing: {done:?}");
    assert!(done.out.contains("TOLERATED"), "{done:?}");
    let all = server.ok(&["test", "quarantine"]);
    assert!(all.contains("it fails at night") && all.contains(key), "{all}");
    assert_eq!(server.json(&["test", "history", key])["quarantined"], true);
    // By its key, again, and off.
    server.ok(&["test", "quarantine", key, "--reason", "another"]);
    assert_eq!(server.json(&["test", "quarantine"])[0]["reason"], "another");
    server.ok(&["test", "unquarantine", "bad", "-p", "shop"]);
    assert_eq!(server.run(&["test", "unquarantine", key]).code, 3);
    assert_eq!(server.run(&["test", "run", &plan]).code, 1);
    let unknown = server.run(&["test", "quarantine", &"0".repeat(32)]);
    assert_eq!(unknown.code, 3, "{unknown:?}");

    // What was executed so far, in all the places that say it.
    let chart = server.0.get("/tests/chart?plan=shop&test=good").await;
    assert_eq!(chart["points"].as_array().unwrap().len(), 3, "{chart}");
    assert_eq!(
        (&chart["measure"], &chart["points"][0]["median"]),
        (&json!("duration"), &Value::Null)
    );
    let health = server.0.get("/health").await;
    let orchestrator = &health["orchestrator"];
    let figures =
        ["queued", "active", "completed", "failed", "plans"].map(|name| orchestrator[name].as_i64());
    assert_eq!(figures.map(Option::unwrap), [0, 0, 6, 3, 0], "{health}");
    let metrics = server.0.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for wanted in [
        "ostler_runs{status=\"succeeded\"} 3\n",
        "ostler_runs{status=\"failed\"} 3\n",
        "ostler_runs{status=\"running\"} 0\n",
        "ostler_plans_open 0\n",
        "# TYPE ostler_sandboxes gauge\n",
    ] {
        assert!(metrics.contains(wanted), "no `{wanted}`: {metrics}");
    }
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_share_their_items_by_how_long_each_took() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = r#"
name = "parts"
[[tests]]
name = "unit"
shards = 2
items = ["slow", "a", "b", "c"]
reports = ["r.xml"]
run = '''
echo $OSTLER_SHARD_ITEMS
echo '<testsuite name="s">' >r.xml
for t in $OSTLER_SHARD_ITEMS; do
  case $t in slow) s=9;; *) s=1;; esac
  echo "<testcase name=\"$t\" time=\"$s\"/>" >>r.xml
done
echo '</testsuite>' >>r.xml
'''
"#;
    let plan = written(files.path(), "plan.toml", plan);
    for (first, second) in [
        ("slow b\n", "a c\n"),
        ("slow\n", "a b c\n"),
        ("slow\n", "a b c\n"),
    ] {
        let done = server.run(&["test", "run", &plan]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(server.ok(&["test", "logs", "parts", "shard=1/2"]), first);
        assert_eq!(server.ok(&["test", "logs", "parts", "shard=2/2"]), second);
    }
    server.0.stop().await;
}
