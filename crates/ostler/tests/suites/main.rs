//! Test suites that nobody here wrote, of Rust crates and Python packages from their registries, run as plans on processes
//! and in containers: the outcome of every case is that of running the suite directly. Of one crate and one package there
//! is a broken copy, too, so that there are failures to agree on.

#![allow(clippy::unwrap_used, reason = "test code")]

mod direct;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use direct::{Cases, Suite};
use ostler_test_kit::{DockerEngine, LeakGuard, TestServer, git, repository, require, suites_dir};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use support::Cli;

const DRIVERS: [&str; 2] = ["process", "docker"];
/// Where the sandboxes see the suites that they do not get as their workspace.
const SHOWN: &str = "/opt/suites";

/// A server with a pool of either driver, named by it. The suites are shown in both. `nested`: tests share containers.
async fn server(data: &Path, engine: &DockerEngine, nested: bool) -> Cli {
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .engine(engine)
        .env("OSTLER_DRIVERS__DOCKER__NESTED", nested.to_string())
        .start()
        .await;
    let cli = Cli(server);
    // What was made by itself would take up room.
    cli.ok(&["pool", "set", "default", "--target", "0", "--max", "0"]);
    let (image, mount) = (engine.base_image(), format!("{}:{SHOWN}", suites_dir().display()));
    for driver in DRIVERS {
        let mut pool = vec!["pool", "set", driver, "--driver", driver, "--mount", &mount];
        pool.extend(["--target", "1", "--max", "2", "--memory", "1G"]);
        if driver == "docker" {
            pool.extend(["--image", &image]);
        }
        cli.ok(&pool);
    }
    cli
}

/// Ends a server whose pools are emptied before.
async fn end(mut cli: Cli) {
    for driver in DRIVERS {
        cli.ok(&["pool", "set", driver, "--target", "0", "--max", "0"]);
    }
    cli.until(&["sandbox", "list"], |all| all.as_array().unwrap().is_empty());
    assert!(cli.0.stop().await.success());
}

fn submit(cli: &Cli, files: &Path, plan: &Value) -> (i32, Value) {
    let file = files.join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let done = cli.run(&["test", "run", "--lines", "200", file.to_str().unwrap()]);
    let name = plan["name"].as_str().unwrap();
    let shown = cli.json(&["test", "show", name]);
    assert!(
        [0, 1].contains(&done.code),
        "{}\n{}\n{shown:#}",
        done.out,
        done.err
    );
    (done.code, shown)
}

/// Where two sides disagree, in words.
fn differences(direct: &Cases, ours: &Cases) -> String {
    let mut text = String::new();
    for case in direct
        .keys()
        .chain(ours.keys().filter(|case| !direct.contains_key(*case)))
    {
        let (a, b) = (direct.get(case), ours.get(case));
        if a != b {
            let _ = writeln!(text, "{case}: {a:?} directly, {b:?} by Ostler");
        }
    }
    text
}

/// The cases that a test of a plan has left, as `name -> outcome`.
fn kept(cli: &Cli, files: &Path, plan: &str, test: &str) -> Cases {
    let to = files.join(test.replace(['/', ' '], "_"));
    cli.ok(&["test", "artifacts", plan, test, "-o", to.to_str().unwrap()]);
    let text = std::fs::read_to_string(to.join("ostler/cases.jsonl")).unwrap();
    let mut cases = Cases::new();
    for line in support::lines(&text) {
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        // Packages name their cases by class, programs of crates by suite.
        let of = if line["class"].is_string() {
            field("class")
        } else {
            field("suite")
        };
        let before = cases.insert(format!("{of} {}", field("name")), field("outcome"));
        assert!(before.is_none(), "{test}: told twice: {line}");
    }
    cases
}

/// Each suite is one test of a plan, which gets it as its workspace and expands into its cases by its report.
#[tokio::test(flavor = "multi_thread")]
async fn whole_suites_end_as_they_do_directly() {
    require!(Suites, Bubblewrap, BaseImage);
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = DockerEngine::start();
    let mut guard = LeakGuard::new(data.path()).with_engine(&engine);
    let cli = server(data.path(), &engine, false).await;

    let origin = files.path().join("origin");
    repository(&origin, &[("README", "Suites from registries.\n")]);
    for part in ["rust", "python"] {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(suites_dir().join(part))
            .arg(&origin)
            .status();
        assert!(copied.unwrap().success());
    }
    git(&origin, &["add", "--all", "--force"]);
    git(&origin, &["commit", "-q", "-m", "Suites"]);
    cli.ok(&["project", "add", origin.to_str().unwrap(), "--name", "suites"]);

    let suites = Suite::all();
    let tests: Vec<Value> = suites.iter().map(Suite::as_test).collect();
    let plan = json!({
        "name": "suites",
        "project": "suites",
        "matrix": { "driver": DRIVERS },
        "defaults": {
            "requires": { "pool": "${matrix.driver}" },
            "runner": "${matrix.driver}",
            "timeout": "4m",
        },
        "tests": tests,
    });
    let direct: BTreeMap<&str, Cases> = std::thread::scope(|scope| {
        let here = scope.spawn(|| {
            suites
                .iter()
                .map(|suite| (suite.name, suite.directly()))
                .collect()
        });
        let (code, shown) = submit(&cli, files.path(), &plan);
        assert_eq!(code, 1, "two suites are broken: {shown:#}");
        here.join().unwrap()
    });
    let mut told = String::new();
    for suite in &suites {
        let direct = &direct[suite.name];
        assert!(
            direct.len() >= suite.least,
            "{}: {} cases",
            suite.name,
            direct.len()
        );
        let failures = direct.values().filter(|outcome| *outcome == "failed").count();
        assert_eq!(failures > 0, suite.name.ends_with("-broken"), "{}", suite.name);
        for driver in DRIVERS {
            let test = format!("{} [driver={driver}]", suite.name);
            let ours = kept(&cli, files.path(), "suites", &test);
            let differ = differences(direct, &ours);
            if !differ.is_empty() {
                let _ = writeln!(told, "## {test}\n{differ}");
            }
            let shown = &cli.json(&["test", "show", "suites"])["tests"];
            let shown = shown
                .as_array()
                .unwrap()
                .iter()
                .find(|t| t["name"] == test.as_str())
                .unwrap();
            let of = |outcome: &str| direct.values().filter(|o| *o == outcome).count();
            assert_eq!(
                (
                    shown["status"].as_str(),
                    shown["cases"]["passed"].as_u64(),
                    shown["cases"]["skipped"].as_u64()
                ),
                (
                    Some(if failures > 0 { "failed" } else { "succeeded" }),
                    Some(of("passed") as u64),
                    Some(of("skipped") as u64)
                ),
                "{shown:#}"
            );
            assert_eq!(
                shown["cases"]["failed"].as_u64(),
                Some(failures as u64),
                "{shown:#}"
            );
        }
    }
    assert!(told.is_empty(), "{told}");
    end(cli).await;
    guard.check();
}

/// Every case is a test of its own, kept apart from the others: none needs what another left behind.
#[tokio::test(flavor = "multi_thread")]
async fn single_cases_end_as_they_do_directly() {
    require!(Suites, Bubblewrap, BaseImage);
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = DockerEngine::start();
    let mut guard = LeakGuard::new(data.path()).with_engine(&engine);
    let cli = server(data.path(), &engine, true).await;

    let programs = [
        "bytes/test_buf_mut",
        "heck/heck",
        "strsim/strsim",
        "strsim-broken/strsim",
    ];
    let mut direct: BTreeMap<&str, Cases> = BTreeMap::new();
    let mut tests = Vec::new();
    for program in programs {
        let cases = direct::program(&suites_dir().join("rust").join(program));
        let names: Vec<&String> = cases.keys().collect();
        tests.push(json!({
            "name": program,
            "run": [format!("{SHOWN}/rust/{program}"), "--exact", "${matrix.case}"],
            "matrix": { "driver": DRIVERS, "case": names },
        }));
        direct.insert(program, cases);
    }
    let plan = json!({
        "name": "cases",
        "defaults": { "requires": { "pool": "${matrix.driver}" }, "timeout": "1m" },
        "tests": tests,
    });
    let (_, shown) = submit(&cli, files.path(), &plan);
    let mut ours: BTreeMap<String, &str> = BTreeMap::new();
    for test in shown["tests"].as_array().unwrap() {
        let outcome = match (test["status"].as_str().unwrap(), test["exit_code"].as_i64()) {
            ("succeeded", Some(0)) => "passed",
            // What libtest ends with after a failure.
            ("failed", Some(101)) => "failed",
            _ => panic!("{test:#}"),
        };
        ours.insert(test["name"].as_str().unwrap().to_owned(), outcome);
    }
    let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
    for (program, cases) in &direct {
        for (case, outcome) in cases {
            for driver in DRIVERS {
                wanted.insert(format!("{program} [case={case}, driver={driver}]"), outcome);
            }
        }
    }
    assert!(wanted.len() > 600 && wanted.values().any(|outcome| *outcome == "failed"));
    assert_eq!(ours, wanted);
    end(cli).await;
    guard.check();
}
