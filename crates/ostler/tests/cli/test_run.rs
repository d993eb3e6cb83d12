//! `ostler test`: plans on a real server with the process driver.

use crate::streams::Proxy;
use crate::support::{Cli, id, lines};
use ostler_test_kit::{TestServer, require};
use std::fmt::Write as _;
use std::path::Path;

const PLAN: &str = r#"
name = "shop"

[[tests]]
name = "adds"
run = "echo fine"

[[tests]]
name = "subtracts"
run = "echo '2 != 3'; echo panicked >&2; exit 3"

[[tests]]
name = "after subtracts"
run = "true"
needs = ["subtracts"]

[[tests]]
name = "sleeps"
run = "echo begins; sleep 600"
timeout = 1

[[tests]]
name = "known"
run = "false"
quarantined = true
"#;

pub(crate) async fn server(data: &Path) -> Cli {
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data);
    Cli(server.env("OSTLER_DRIVERS__DOCKER", "false").start().await)
}

pub(crate) fn written(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_run_and_looked_at() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let file = written(files.path(), "plan.toml", PLAN);
    let junit = files.path().join("out.xml").to_str().unwrap().to_owned();
    let done = server.run(&["test", "run", &file, "--junit", &junit]);
    assert_eq!(done.code, 1, "{done:?}");
    for wanted in [
        "Plan shop: 5 tests",
        "PASS [",
        "subtracts (exit 3)",
        "    --- stdout ---\n    2 != 3\n    --- stderr ---\n    panicked\n",
        "TIMEOUT [",
        "    begins\n",
        "SKIP ",
        "TOLERATED [",
        "5 tests: 1 passed, 1 failed, 1 timed out, 1 failed but tolerated, 1 skipped",
    ] {
        assert!(done.out.contains(wanted), "no `{wanted}`: {}", done.out);
    }
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(
        xml.matches("<testcase").count() == 5 && xml.contains("2 != 3"),
        "{xml}"
    );

    // Looked at afterwards, by its name.
    let all = server.json(&["test", "list"]);
    assert_eq!(
        (&all[0]["name"], &all[0]["status"]),
        (&"shop".into(), &"failed".into())
    );
    let shown = server.ok(&["test", "show", "shop"]);
    assert!(
        shown.contains("after subtracts") && shown.contains("timed_out"),
        "{shown}"
    );
    let failed = server.json(&["test", "show", "shop", "--status", "failed"]);
    assert_eq!(failed["tests"].as_array().unwrap().len(), 2, "{failed}");
    let logs = server.run(&["test", "logs", "shop", "subtr"]);
    assert_eq!(logs.code, 2, "two tests are called so: {logs:?}");
    let logs = server.run(&["test", "logs", "shop", "subtracts"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("2 != 3\n", "panicked\n"));
    let logs = server.run(&["test", "logs", "shop", "--failed"]);
    assert!(
        logs.out.contains("begins") && logs.err.contains("==> sleeps <=="),
        "{logs:?}"
    );
    let watched = server.run(&["test", "watch", "shop", "--lines", "0"]);
    assert!(
        watched.code == 1 && !watched.out.contains("panicked"),
        "{watched:?}"
    );
    let history = server.json(&["test", "history", "adds", "--plan", "shop"]);
    assert_eq!(history["runs"][0]["status"], "succeeded", "{history}");
    let key = history["key"].as_str().unwrap();
    assert!(server.ok(&["test", "history", key]).contains("succeeded"));
    assert_eq!(server.run(&["test", "history", "adds"]).code, 2);
    assert_eq!(server.ok(&["test", "flaky"]), "no test was flaky\n");
    assert!(server.ok(&["test", "explain", "shop"]).contains("failed"));
    assert_eq!(server.ok(&["test", "artifacts", "shop"]), "no files were kept\n");

    // And once more, for programs.
    let again = server.run(&["--json", "test", "rerun", "shop", "--failed"]);
    let told = lines(&again.out);
    assert_eq!(again.code, 1, "{again:?}");
    assert_eq!(told.first().unwrap()["plan"]["name"], "shop");
    let last = told.last().unwrap();
    assert_eq!(
        (&last["exit_code"], &last["plan"]["status"]),
        (&1.into(), &"failed".into())
    );
    let named = |name: &str| told.iter().any(|line| line["test"]["name"] == name);
    assert!(named("subtracts") && !named("adds"), "{told:?}");
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_shown_where_they_are() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Cli::simulated(dir.path(), &[]).await;
    let text = "name = \"shop\"\n\n[[tests]]\nname = \"adds\"\nrum = \"true\"\n";
    let file = written(files.path(), "plan.toml", text);
    let done = server.run(&["test", "run", &file]);
    assert_eq!((done.code, done.out.as_str()), (2, ""), "{done:?}");
    for wanted in [
        "plan.toml:5:1\n",
        "5 | rum = \"true\"\n  | ^\n",
        "did you mean `run`?",
    ] {
        assert!(done.err.contains(wanted), "no `{wanted}`: {}", done.err);
    }
    let done = server.run_with(&["--json", "test", "run", "-", "--format", "toml"], text);
    let error = &lines(&done.err)[0]["error"];
    assert_eq!(
        (done.code, &error["details"]["errors"][0]["line"]),
        (2, &5.into()),
        "{done:?}"
    );
    for arguments in [
        ["test", "run", "-"],
        ["test", "run", "/nonexistent.toml"],
        ["test", "show", "nothing"],
    ] {
        let done = server.run(&arguments);
        let wanted = if arguments[1] == "show" { 3 } else { 2 };
        assert_eq!(done.code, wanted, "{done:?}");
    }
    let file = written(
        files.path(),
        "plan.json",
        r#"{"name":"x","tests":[{"name":"a","run":"true"}]}"#,
    );
    let done = server.run(&[
        "test",
        "run",
        &file,
        "--junit",
        "/nonexistent/out.xml",
        "--detach",
    ]);
    assert_eq!(done.code, 2, "{done:?}");
    assert_eq!(
        server.json(&["test", "list"]),
        serde_json::json!([]),
        "nothing was submitted"
    );
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_and_a_second_one_leaves() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = "name = \"long\"\n[[tests]]\nname = \"sleeps\"\nrun = \"sleep 600\"\n";
    let file = written(files.path(), "plan.toml", plan);
    let mut run = server.start(&["test", "run", &file]);
    run.until_prints("Plan long");
    server.until(&["test", "show", "long"], |shown| {
        shown["tests"][0]["status"] == "running"
    });
    run.interrupt();
    let done = run.wait();
    assert_eq!(done.code, 130, "{done:?}");
    assert!(done.out.contains("1 cancelled"), "{done:?}");
    assert_eq!(
        server.json(&["test", "show", "long"])["plan"]["status"],
        "cancelled"
    );

    // Detached, followed, and left.
    let plan = id(&server.ok(&["test", "run", "-d", &file]), "pln_");
    let mut watch = server.start(&["test", "watch", &plan]);
    watch.until_prints("Plan long");
    watch.interrupt();
    assert_eq!(watch.wait().code, 130);
    assert_eq!(server.json(&["test", "show", &plan])["plan"]["status"], "running");
    assert!(server.ok(&["test", "cancel", &plan]).starts_with(&plan));
    server.until(&["test", "show", &plan], |shown| {
        shown["plan"]["status"] == "cancelled"
    });
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_followed_over_broken_connections_and_a_restart() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let proxy = Proxy::to(server.0.url()).await;
    let token = server.0.token.clone().unwrap();
    let mut plan = "name = \"long\"\nmax_parallel = 1\n".to_owned();
    for n in 1..=6 {
        writeln!(
            plan,
            "[[tests]]\nname = \"test {n}\"\nrun = \"sleep 1; echo {n}\""
        )
        .unwrap();
    }
    let file = written(files.path(), "plan.toml", &plan);
    let mut run = server.start(&["--server", &proxy.url, "--token", &token, "test", "run", &file]);
    run.until_prints("PASS");
    proxy.now_to(server.0.url());
    run.until_prints("(2/6)");
    server.0.kill_9();
    server.0.start_again().await;
    proxy.now_to(server.0.url());
    let done = run.wait();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.out.matches("PASS").count(), 6, "{done:?}");
    assert!(done.err.contains("the server answers again"), "{done:?}");
    server.0.stop().await;
}
