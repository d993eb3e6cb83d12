//! Plans that cannot be what somebody wants, and what is said of them.

use crate::support::{Cli, Done};
use crate::test_run::{server, written};
use ostler_test_kit::require;

fn refused(server: &Cli, dir: &std::path::Path, plan: &str) -> Done {
    let file = written(dir, "plan.toml", plan);
    let done = server.run(&["test", "run", &file]);
    assert_eq!((done.code, done.out.as_str()), (2, ""), "{done:?}");
    assert_eq!(
        server.json(&["test", "list"]),
        serde_json::json!([]),
        "nothing was submitted"
    );
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_is_refused_at_submission() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Cli::simulated(dir.path(), &[]).await;
    let test = |name: &str, more: &str| format!("[[tests]]\nname = '{name}'\nrun = 'true'\n{more}\n");
    let plan = |tests: &[String]| format!("name = 'p'\n{}", tests.concat());
    for (plan, wanted) in [
        (
            plan(&[
                test("a", "needs = ['c']"),
                test("b", "needs = ['a']"),
                test("c", "needs = ['b']"),
            ]),
            vec![
                "the tests need each other in a circle: a → c → b → a",
                "remove one of these needs",
            ],
        ),
        (
            plan(&[test("a", "artifacts = ['../secret']")]),
            vec!["leads out of the workspace", "plan.toml:5:"],
        ),
        (plan(&[test("a", "artifacts = ['/etc/*']")]), vec!["is absolute"]),
        (
            plan(&[test("a", "timout = 5")]),
            vec!["plan.toml:5:1", "did you mean `timeout`?"],
        ),
        (plan(&[test("a", "needs = ['b']")]), vec!["no test is named `b`"]),
        (
            plan(&[test("a", "requires = { memory_mb = 99999999 }")]),
            vec!["the test `a` can never be executed", "default", "memory"],
        ),
        (
            plan(&[
                test("a", "requires = { pool = 'gpu' }"),
                test("b", "requires = { arch = 'vax' }"),
            ]),
            vec!["`a` can never be executed", "`b` can never be executed", "vax"],
        ),
    ] {
        let done = refused(&server, files.path(), &plan);
        for wanted in wanted {
            assert!(done.err.contains(wanted), "no `{wanted}`: {}", done.err);
        }
    }
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_whole_is_no_success_and_its_cases_count() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = r#"
name = "reports"
[[tests]]
name = "broken"
run = "echo '<testsuite name=\"s\"><testcase name=\"one\"/><testcase name=\"two\">' >r.xml"
reports = ["*.xml"]
[[tests]]
name = "short"
run = "echo 1..3; echo ok 1 - first; echo ok 2 - second"
reports = [{ path = "stdout", format = "tap" }]
[[tests]]
name = "absent"
run = "true"
reports = ["nothing/*.xml"]
"#;
    let plan = written(files.path(), "plan.toml", plan);
    let done = server.run(&["test", "run", &plan]);
    assert_eq!(done.code, 1, "{done:?}");
    let shown = server.json(&["test", "show", "reports"]);
    let tests = shown["tests"].as_array().unwrap();
    let test = |name: &str| tests.iter().find(|test| test["name"] == name).unwrap();
    let error = |name: &str| test(name)["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(test("broken")["status"], "failed", "{shown:#}");
    let problems = test("broken")["problems"].to_string();
    assert!(
        error("broken").contains("two") && problems.contains("is not whole"),
        "{shown:#}"
    );
    assert_eq!(test("broken")["cases"]["passed"], 1, "{shown:#}");
    assert_eq!(test("short")["status"], "failed", "{shown:#}");
    assert!(
        error("short").contains("3 tests were planned, 2 ran"),
        "{}",
        error("short")
    );
    assert_eq!(test("short")["cases"]["passed"], 2, "{shown:#}");
    let problems = test("absent")["problems"].to_string();
    assert!(problems.contains("no report is at `nothing/*.xml`"), "{problems}");
    server.0.stop().await;
}
