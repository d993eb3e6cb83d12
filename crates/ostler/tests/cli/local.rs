//! Commands without a server, and output that nobody reads.

use crate::support::{Cli, Done, binary};
use serde_json::Value;

#[test]
fn what_needs_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| -> Done { binary(dir.path()).args(arguments).output().unwrap().into() };
    let version = run(&["version"]);
    assert_eq!(version.out, format!("ostler {}\n", env!("CARGO_PKG_VERSION")));
    let version: Value = serde_json::from_str(&run(&["version", "--json"]).out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(
            script.code == 0 && script.out.contains("retry-planning"),
            "{shell}: {script:?}"
        );
    }
    for verb in [
        &["migrate", "up"][..],
        &["migrate", "status"],
        &["migrate", "down", "--to", "0"],
    ] {
        let done = run(&[verb, &["--json"]].concat());
        let rows: Value = serde_json::from_str(&done.out).unwrap();
        let applied = verb[1] != "down";
        assert!(
            rows.as_array()
                .unwrap()
                .iter()
                .all(|row| row["applied"] == applied),
            "{rows}"
        );
    }
    let config: Done = binary(dir.path())
        .args(["config", "print", "--json"])
        .env("OSTLER_GATEWAY__OPENAI__API_KEY", "planted")
        .env("OSTLER_WORK__WORKER_ATTEMPTS", "3")
        .output()
        .unwrap()
        .into();
    let value: Value = serde_json::from_str(&config.out).unwrap();
    assert_eq!(value["work"]["worker_attempts"], 3);
    assert_eq!(value["gateway"]["openai"]["api_key"], "***");
    assert!(!config.out.contains("planted"));
    let wrong: Done = binary(dir.path())
        .args(["config", "print", "--json"])
        .env("OSTLER_WORK__WORKER_ATEMPTS", "3")
        .output()
        .unwrap()
        .into();
    let error: Value = serde_json::from_str(&wrong.err).unwrap();
    assert!(
        wrong.code == 1
            && error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("worker_atempts"),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn nobody_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    for arguments in [
        &["pool", "list"][..],
        &["kinds", "--json"],
        &["completions", "bash"],
        &["version"],
        &["config", "print"],
        &["run", "submit", "-f", "--", "echo", "x"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done: Done = server.command(arguments).stdout(writer).output().unwrap().into();
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        assert!(
            !done.err.contains("error") && !done.err.contains("panic"),
            "{arguments:?}: {done:?}"
        );
    }
}
