//! Services start once, are shared, and end with their last user, however that ends.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ostler_test_kit::{DockerEngine, Postgres, in_path, require};

fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Command lines of all processes.
fn processes() -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .collect()
}

fn query(url: &str, sql: &str) -> Option<String> {
    let output = Command::new("psql").args([url, "-Atc", sql]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

#[test]
fn databases_of_the_shared_server_are_apart() {
    require!(Postgres);
    let (one, other) = (Postgres::shared(), Postgres::shared());
    let (a, b) = (one.database(), other.database());
    assert_eq!(
        query(&a, "create table t (x int); select 1").as_deref(),
        Some("CREATE TABLE\n1")
    );
    assert_eq!(
        query(&b, "select count(*) from pg_tables where tablename = 't'").as_deref(),
        Some("0")
    );
}

#[test]
fn a_server_of_ones_own_stops_starts_and_leaves_nothing() {
    require!(Postgres);
    let mut server = Postgres::start();
    let url = server.database();
    query(&url, "create table kept (x int)").unwrap();
    server.down();
    assert_eq!(query(&url, "select 1"), None);
    server.up();
    assert_eq!(query(&url, "select count(*) from kept").as_deref(), Some("0"));
    let dir = url
        .split('@')
        .nth(1)
        .unwrap()
        .split("%2Fserver")
        .next()
        .unwrap()
        .replace("%2F", "/");
    assert!(Path::new(&dir).exists() && processes().iter().any(|line| line.contains(&dir)));
    drop(server);
    assert!(!Path::new(&dir).exists() && !processes().iter().any(|line| line.contains(&dir)));
}

/// The victim of the next test: starts a server, says where, and waits to be killed.
#[test]
#[ignore = "is started by another test"]
fn holds_a_server() {
    let server = Postgres::start();
    println!("\nurl={}", server.database());
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_killed_test_leaves_nothing() {
    require!(Postgres);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "holds_a_server"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    let url = output
        .find_map(|line| line.unwrap().strip_prefix("url=").map(str::to_owned))
        .unwrap();
    let dir = url
        .split('@')
        .nth(1)
        .unwrap()
        .split("%2Fserver")
        .next()
        .unwrap()
        .replace("%2F", "/");
    assert!(processes().iter().any(|line| line.contains(&dir)));
    victim.kill().unwrap();
    victim.wait().unwrap();
    within(Duration::from_secs(20), "the server outlived its test", || {
        !Path::new(&dir).exists() && !processes().iter().any(|line| line.contains(&dir))
    });
}

#[test]
fn containers_run_from_the_base_image() {
    require!(BaseImage);
    let (engine, other) = (DockerEngine::start(), DockerEngine::start());
    assert_eq!(engine.url(), other.url());
    let image = engine.base_image();
    let script = "git --version && python3 -c 'import unittest, json; print(\"python\")' && cat /etc/debian_version \
                  && claude --version";
    let said = engine
        .docker(&["run", "--rm", "--network=none", &image, "sh", "-c", script])
        .unwrap();
    for part in ["git version", "python", "12.", ostler_test_kit::CLAUDE_VERSION] {
        assert!(said.contains(part), "{said}");
    }
    let error = engine
        .docker(&["run", "--rm", "ostler-test:absent", "true"])
        .unwrap_err();
    assert!(!error.is_empty());
}

/// The victim of the next test, with temporary and cache directories of its own.
#[test]
#[ignore = "is started by another test"]
fn holds_a_container() {
    let engine = DockerEngine::start();
    let script =
        "tar -ch $(which sleep) $(ldd $(which sleep) | grep -o '/[^ ]*') | docker -H $0 import - tiny";
    let import = Command::new("sh")
        .args(["-c", script, &engine.url()])
        .stdout(Stdio::null())
        .status();
    assert!(import.unwrap().success());
    let mark = std::env::var("OSTLER_TEST_MARK").unwrap();
    let program = in_path("sleep").unwrap().display().to_string();
    engine
        .docker(&[
            "run",
            "--detach",
            "--network=none",
            "--stop-signal=KILL",
            "tiny",
            &program,
            &mark,
        ])
        .unwrap();
    println!("\nready");
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_killed_test_leaves_no_engine_and_no_container() {
    require!(Docker);
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("30{}", std::process::id());
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "holds_a_container"])
        .env("OSTLER_TEST_MARK", &mark)
        .env("OSTLER_TEST_CACHE", dir.path().join("cache"))
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    output
        .find(|line| line.as_deref().is_ok_and(|line| line == "ready"))
        .unwrap()
        .unwrap();
    let name = dir.path().to_string_lossy().into_owned();
    let runs = |what: &str| processes().iter().any(|line| line.contains(what));
    assert!(runs(&format!("sleep {mark}")) && runs(&name));
    victim.kill().unwrap();
    victim.wait().unwrap();
    within(Duration::from_secs(60), "something outlived its test", || {
        !runs(&format!("sleep {mark}")) && !runs(&name)
    });
}
