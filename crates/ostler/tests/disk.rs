//! A data directory without room: clear errors, nothing lost, and all is well again when there is room.

#![allow(clippy::unwrap_used, reason = "test code")]

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ostler_test_kit::{LeakGuard, TestServer, repository, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A file system of a few MiB, which goes with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=32m"),
        )
        .unwrap();
        Self(path.to_owned())
    }

    /// Takes all the room there is, until the file is removed.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("fill");
        let written = std::fs::write(&file, vec![0; 64 << 20]);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever still has a file open there keeps it only for itself.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

async fn run(server: &TestServer, script: &str) -> Value {
    let run = server
        .post("/runs", json!({ "command": ["sh", "-c", script] }))
        .await;
    let path = format!("/runs/{}", run["id"].as_str().unwrap());
    server
        .until(&path, LIMIT, |run| !run["finished_at"].is_null())
        .await
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_says_what_to_do() {
    require!(Bubblewrap);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let disk = SmallDisk::new(&dir.path().join("disk"));
    repository(&dir.path().join("origin"), &[("file", "text\n")]);
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), disk.0.join("data"))
        .args(["--dev"])
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await;
    assert_eq!(run(&server, "echo before").await["status"], "succeeded");

    // More output than there is room for: the program is not held up, the server goes on, the cut is told.
    let flood = run(&server, "yes | head -c 200000000; echo end >&2; exit 3").await;
    assert_eq!(
        (&flood["status"], &flood["exit_code"]),
        (&json!("failed"), &json!(3)),
        "{flood:#}"
    );
    let error = flood["error"].as_str().unwrap();
    assert!(
        error.contains("log could not be written on: No space left"),
        "{error}"
    );

    let fill = disk.fill();
    let submit = json!({ "command": ["true"] });
    let (status, refused) = server.call(Method::POST, "/runs", Some(submit)).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
    assert!(message.contains("free some space"), "{message}");
    let add = json!({ "source": dir.path().join("origin") });
    let (status, refused) = server.call(Method::POST, "/projects", Some(add.clone())).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
    assert!(message.contains("free some space"), "{message}");
    assert_eq!(server.get("/runs").await.as_array().unwrap().len(), 2);

    std::fs::remove_file(fill).unwrap();
    assert_eq!(run(&server, "echo after").await["status"], "succeeded");
    server.post("/projects", add).await;
    server.kill_9();
    server.start_again().await;
    let runs = server.get("/runs").await;
    let ends: Vec<&str> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["status"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["succeeded", "failed", "succeeded"]);
    assert!(server.stop().await.success());
    drop((server, disk));
    guard.check();
}
