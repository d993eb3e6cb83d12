//! What a test leaves behind is seen, named and removed.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use ostler_test_kit::{DockerEngine, LeakGuard, require};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The pids hierarchy of cgroup v1, or else the root of v2.
fn cgroups() -> &'static Path {
    let first = Path::new("/sys/fs/cgroup/pids");
    if first.is_dir() {
        first
    } else {
        Path::new("/sys/fs/cgroup")
    }
}

#[test]
fn what_is_left_is_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let id = format!("{:026}", std::process::id());
    let mut guard = LeakGuard::new(dir.path());
    guard.check();

    let mut children = Vec::new();
    let mut sleep = |command: &mut Command| {
        let child = command.arg("300").stdin(Stdio::null()).spawn().unwrap();
        children.push(child);
        children[children.len() - 1].id()
    };
    let by_directory = sleep(Command::new("sleep").current_dir(&dir));
    let by_environment = sleep(Command::new("sleep").env("SOMETHING", dir.path().join("data")));
    let mut expected = vec![
        format!("process {by_directory}:"),
        format!("process {by_environment}:"),
    ];
    let group = cgroups().join(format!("ostler-srv-{id}"));
    if is_root() {
        std::fs::write(dir.path().join("data/server-id"), format!("srv_{id}\n")).unwrap();
        std::fs::create_dir_all(group.join("inner")).unwrap();
        let by_cgroup = sleep(&mut Command::new("sleep"));
        std::fs::write(group.join("inner/cgroup.procs"), by_cgroup.to_string()).unwrap();
        let point = dir.path().join("point");
        std::fs::create_dir(&point).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&point)
            .status();
        assert!(mounted.unwrap().success());
        expected.extend([
            format!("process {by_cgroup}:"),
            format!("cgroup {}", group.join("inner").display()),
            format!("cgroup {}", group.display()),
            format!("mount {}", point.display()),
        ]);
    }
    let left = guard.left();
    for start in &expected {
        assert!(
            left.iter().any(|item| item.starts_with(start)),
            "{start} is not in {left:?}"
        );
    }
    assert_eq!(left.len(), expected.len(), "{left:?}");
    drop(guard);
    for mut child in children {
        assert!(!child.wait().unwrap().success());
    }
    LeakGuard::new(dir.path()).check();
    assert!(!group.exists());
}

#[test]
fn containers_are_found() {
    require!(Docker);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let script = "tar -c --files-from=/dev/null | docker -H $0 import - ostler-test-empty:1";
    let made = Command::new("sh")
        .args(["-c", script, &engine.url()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let label = format!("--label=ostler.instance={}", dir.path().display());
    engine
        .docker(&["create", "--network=none", &label, "ostler-test-empty:1", "none"])
        .unwrap();
    let left = guard.left();
    assert!(left.len() == 1 && left[0].starts_with("container "), "{left:?}");
    drop(guard);
    LeakGuard::new(dir.path()).with_engine(&engine).check();
}
