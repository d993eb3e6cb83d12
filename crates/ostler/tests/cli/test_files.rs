//! The files that tests leave: which are kept, what is said of the others, and how they come back.

use crate::support::Cli;
use crate::test_run::{server, written};
use ostler_test_kit::require;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const PLAN: &str = r#"
name = "files"

[defaults]
artifacts = ["out/**"]
timeout = 120

[[tests]]
name = "passes"
run = """
mkdir -p out/sub && printf 'a report' >out/a.txt && echo b >out/sub/b
truncate -s 1M out/holes && printf end >>out/holes
ln -s /etc/passwd out/link && mkfifo out/pipe
"""

[[tests]]
name = "fails"
run = "mkdir out && echo why >out/why; exit 3"

[[tests]]
name = "hangs"
run = "mkdir out && echo partial >out/partial; sleep 600"
timeout = 3

[[tests]]
name = "large"
run = "mkdir out && head -c 3000000 /dev/zero >out/big && echo s >out/small"
artifact_limits = { max_bytes = "1MiB" }
"#;

/// The files of a test by their paths.
fn kept(server: &Cli, plan: &str, test: &str) -> Vec<Value> {
    let listed = server.json(&["test", "artifacts", plan, test]);
    let listed = listed.as_array().unwrap().iter();
    listed.map(|one| one["artifact"].clone()).collect()
}

fn paths(files: &[Value]) -> Vec<&str> {
    files.iter().map(|file| file["path"].as_str().unwrap()).collect()
}

fn test<'v>(shown: &'v Value, name: &str) -> &'v Value {
    let tests = shown["tests"].as_array().unwrap();
    tests.iter().find(|test| test["name"] == name).unwrap()
}

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

async fn get(server: &Cli, path: &str) -> Response {
    let request = Client::new().get(format!("{}/api/v1{path}", server.0.url()));
    request
        .bearer_auth(server.0.token.clone().unwrap())
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tests_leave_is_kept_whatever_their_end() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = written(files.path(), "plan.toml", PLAN);
    let done = server.run(&["test", "run", &plan]);
    assert_eq!(done.code, 1, "{done:?}");
    let shown = server.json(&["test", "show", "files"]);

    let passed = kept(&server, "files", "passes");
    assert_eq!(
        paths(&passed),
        ["out/a.txt", "out/holes", "out/sub/b"],
        "{done:?}"
    );
    let problems = test(&shown, "passes")["problems"].to_string();
    for wanted in [
        "out/link: a symbolic link is not followed",
        "out/pipe: it is neither a file nor a directory",
    ] {
        assert!(problems.contains(wanted), "{problems}");
    }
    assert_eq!(paths(&kept(&server, "files", "fails")), ["out/why"]);
    assert_eq!(test(&shown, "hangs")["status"], "timed_out");
    assert_eq!(paths(&kept(&server, "files", "hangs")), ["out/partial"]);
    assert_eq!(paths(&kept(&server, "files", "large")), ["out/small"]);
    let problems = test(&shown, "large")["problems"].to_string();
    assert!(
        problems.contains("out/big: ") && problems.contains("3000000 bytes"),
        "{problems}"
    );

    // As they were, by the command line ...
    let to = files.path().join("saved");
    server.ok(&["test", "artifacts", "files", "passes", "-o", to.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(to.join("out/a.txt")).unwrap(), "a report");
    let holes = std::fs::read(to.join("out/holes")).unwrap();
    assert_eq!(holes.len(), (1 << 20) + 3);
    assert!(holes.ends_with(b"\0end") && holes[..1 << 20].iter().all(|byte| *byte == 0));
    for file in &passed {
        let path = to.join(file["path"].as_str().unwrap());
        assert_eq!(sha256(&path), file["sha256"].as_str().unwrap(), "{file}");
        assert_eq!(path.metadata().unwrap().len(), file["bytes"].as_u64().unwrap());
    }
    // ... in part, and by the link to the latest.
    let run = test(&shown, "passes")["run_id"].as_str().unwrap().to_owned();
    let key = test(&shown, "passes")["key"].as_str().unwrap().to_owned();
    let latest = format!("/tests/{key}/artifacts/latest/out/a.txt");
    let answer = get(&server, &latest).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let location = answer.headers()["content-location"].to_str().unwrap().to_owned();
    assert_eq!(location, format!("/api/v1/runs/{run}/artifacts/out/a.txt"));
    assert_eq!(answer.text().await.unwrap(), "a report");
    let again = written(
        files.path(),
        "again.toml",
        &PLAN.replace("a report", "another one"),
    );
    server.run(&["test", "run", &again]);
    assert_eq!(get(&server, &latest).await.text().await.unwrap(), "another one");
    let first = get(&server, &format!("/runs/{run}/artifacts/out/a.txt")).await;
    assert_eq!(first.text().await.unwrap(), "a report", "the older one stays");
    let gone = get(&server, &format!("/tests/{key}/artifacts/latest/out/none")).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_may_be_kept_are_cut_and_told() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let plan = "name = 'many'\n[[tests]]\nname = 'many'\nartifacts = ['out/*']\n\
        run = 'mkdir out && cd out && seq 100000 | xargs touch'\n";
    let plan = written(files.path(), "plan.toml", plan);
    let done = server.run(&["test", "run", &plan]);
    assert_eq!(done.code, 0, "what cannot be kept fails no test: {done:?}");
    let shown = server.json(&["test", "show", "many"]);
    let many = test(&shown, "many");
    assert_eq!(many["artifacts"], 10_000, "{many}");
    let problems = many["problems"].to_string();
    assert!(problems.contains("10000 files are the limit"), "{problems}");
    assert!(
        done.out.contains("10000 files are the limit"),
        "it is said at once: {done:?}"
    );
    assert_eq!(kept(&server, "many", "many").len(), 10_000);
    server.0.stop().await;
}
