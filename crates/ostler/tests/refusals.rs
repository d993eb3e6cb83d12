//! Bad input and broken surroundings, as a user meets them: what is said of what happened, why, and what to do.
//!
//! Two servers on one data directory are in `doctor.rs`, a full disk under work in `disk.rs`, context ids that run out in
//! `context_ids.rs`.

#![allow(clippy::unwrap_used, reason = "test code")]

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ostler_test_kit::{Authority, DockerEngine, LeakGuard, TestServer, in_path, require};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A server with one of the drivers `process`, `docker` and `sim`.
fn with(driver: &str, data: &Path) -> TestServer {
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data).args(["--dev"]);
    for other in ["process", "docker", "sim"] {
        let variable = format!("OSTLER_DRIVERS__{}", other.to_uppercase());
        server = server.env(variable, (other == driver).to_string());
    }
    for other in ["QEMU", "FIRECRACKER"] {
        server = server.env(format!("OSTLER_DRIVERS__{other}"), "false");
    }
    server
}

/// A request that must be refused: with which status and words.
async fn refused(server: &TestServer, method: Method, path: &str, body: Value) -> (StatusCode, String) {
    let (status, answer) = server.call(method, path, Some(body)).await;
    assert!(status.is_client_error() || status.is_server_error(), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap().to_owned();
    (status, message)
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

/// `ostler serve` with settings under which it must not start: what it says.
fn does_not_start(data: &Path, settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CERT_PATH");
    for driver in ["PROCESS", "DOCKER", "QEMU", "FIRECRACKER"] {
        command.env(format!("OSTLER_DRIVERS__{driver}__ENABLED"), "false");
    }
    for (name, value) in settings {
        command.env(format!("OSTLER_DRIVERS__{name}"), value);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    said
}

#[tokio::test]
async fn a_pool_that_no_driver_can_satisfy_is_refused_with_every_field() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut server = with("process", dir.path()).start().await;
    let template = json!({
        "driver": "process", "image": "an:image", "network": "open", "root_drive": "/drive", "kernel": "/kernel",
        "snapshot": "s", "user": "me", "devices": ["kvm"], "cpus": 0, "memory_mb": 1,
        "mounts": [{ "source": "/usr/../etc", "target": "relative" }, { "source": "/usr", "target": "/proc/x" }],
    });
    let body = json!({ "template": template });
    let (status, message) = refused(&server, Method::PUT, "/pools/all", body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{message}");
    says(
        &message,
        &[
            "the process driver cannot do this",
            "it has no images",
            "network policy open",
            "a root drive",
            "a kernel",
            "a start from a snapshot",
            "a user for its programs",
            "the device kvm",
            "at least one CPU",
            "at least 16 MiB",
            "/usr/../etc",
            "a mount on /proc/x",
        ],
    );
    // What no pool offers is refused before anything waits for it, pool by pool.
    let wanted = json!({ "requirements": { "memory_mb": 99_999_999, "isolation": "vm" } });
    let (status, message) = refused(&server, Method::POST, "/agents", wanted).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{message}");
    says(&message, &["default", "99999999", "vm"]);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn what_no_host_of_a_driver_can_do_is_told_host_by_host() {
    require!(BaseImage);
    let (near, far) = (DockerEngine::start(), DockerEngine::remote());
    let dir = tempfile::tempdir().unwrap();
    let mut guards = [&near, &far].map(|engine| LeakGuard::new(dir.path()).with_engine(engine));
    let mut server = with("docker", dir.path())
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", near.url())
        .env("OSTLER_DRIVERS__DOCKER__HOSTS__BUILD1__ENGINE", far.tcp())
        .env(
            "OSTLER_DRIVERS__DOCKER__HOSTS__BUILD1__CERTIFICATES",
            far.certificates(),
        )
        .start()
        .await;
    let template = json!({
        "driver": "docker", "image": near.base_image(), "devices": ["kvm"],
        "mounts": [{ "source": "/usr/share", "target": "/data" }],
    });
    let body = json!({ "template": template, "target": 0 });
    let (status, message) = refused(&server, Method::PUT, "/pools/both", body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{message}");
    says(
        &message,
        &[
            "the device kvm: it offers none; ",
            "mounts of host directories (on build1)",
        ],
    );
    assert!(
        !message.contains("mounts of host directories;"),
        "the engine here can: {message}"
    );
    assert!(server.stop().await.success());
    guards.iter_mut().for_each(LeakGuard::check);
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named() {
    require!(Docker);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let mut server = with("docker", dir.path())
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
        .start()
        .await;
    let template = json!({ "driver": "docker", "image": "ostler-test:absent" });
    let body = json!({ "template": template, "target": 1 });
    let (status, pool) = server.call(Method::PUT, "/pools/boxes", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{pool}");
    let failed = |explained: &Value| explained["summary"].as_str().unwrap().contains("absent");
    let explained = server.until("/pools/boxes/explain", LIMIT, failed).await;
    let words = [
        "it cannot be filled",
        "ostler-test:absent",
        "pull ostler-test:absent`",
        "drivers.docker.pull = true",
    ];
    says(explained["summary"].as_str().unwrap(), &words);
    let (status, message) = refused(&server, Method::POST, "/agents", json!({ "pool": "boxes" })).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    says(&message, &words[1..]);
    // It is nobody's host that is to blame: others can still be started there.
    let hosts = server.get("/hosts").await;
    assert_eq!(hosts[0]["failures"], 0, "{hosts}");
    assert!(server.stop().await.success());
    guard.check();
}

/// A directory with a program called `bwrap` that does for sandboxes what the script says, and all else as the real one.
fn instead_of_bubblewrap(dir: &Path, script: &str) -> String {
    let (bin, real) = (dir.join("bin"), in_path("bwrap").unwrap());
    std::fs::create_dir(&bin).unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n*--version|*/usr/bin/true) exec {} \"$@\";;\nesac\n{script}\n",
        real.display()
    );
    std::fs::write(bin.join("bwrap"), text).unwrap();
    std::fs::set_permissions(bin.join("bwrap"), PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn a_start_that_hangs_is_given_up() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let mut server = with("process", &dir.path().join("data"))
        .env("PATH", instead_of_bubblewrap(dir.path(), "exec sleep 1000"))
        .env("OSTLER_SANDBOXES__START_SECONDS", "2")
        .start()
        .await;
    let template = json!({ "driver": "process" });
    let body = json!({ "template": template, "target": 0 });
    server.call(Method::PUT, "/pools/slow", Some(body)).await;
    let begun = Instant::now();
    let (status, message) = refused(&server, Method::POST, "/agents", json!({ "pool": "slow" })).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    says(
        &message,
        &[
            "a sandbox of the pool slow did not start",
            "within 2s",
            "start_seconds",
        ],
    );
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    let hosts = server.get("/hosts").await;
    says(hosts[0]["last_error"].as_str().unwrap(), &["within 2s"]);
    assert!(server.stop().await.success());
    guard.check();
}

/// In place of the guest program: something that lives and never listens.
fn mute_guest(data: &Path) {
    let guest = data.join("guest/ostler-guest");
    std::fs::remove_file(&guest).unwrap();
    std::fs::write(&guest, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&guest, PermissionsExt::from_mode(0o755)).unwrap();
}

async fn mute(mut server: TestServer, template: Value, words: &[&str]) {
    server = server.start().await;
    mute_guest(server.data());
    let body = json!({ "template": template, "target": 0 });
    server.call(Method::PUT, "/pools/mute", Some(body)).await;
    let (status, message) = refused(&server, Method::POST, "/agents", json!({ "pool": "mute" })).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    says(
        &message,
        &[
            "a sandbox of the pool mute did not start",
            "`sandboxes.start_seconds`",
            "ostler doctor",
        ],
    );
    says(&message, words);
    let left = server.get("/sandboxes").await;
    let left = left.as_array().unwrap().iter().filter(|s| s["pool"] == "mute");
    assert_eq!(left.count(), 0);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_guest_that_never_answers_is_given_up() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let server = with("process", dir.path()).env("OSTLER_SANDBOXES__START_SECONDS", "2");
    // This driver waits for its guest itself.
    mute(
        server,
        json!({ "driver": "process" }),
        &["did not start sbx_", "within 2s"],
    )
    .await;
    guard.check();
}

#[tokio::test]
async fn a_container_whose_guest_never_answers_is_given_up() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let server = with("docker", dir.path())
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
        .env("OSTLER_SANDBOXES__START_SECONDS", "8");
    let template = json!({ "driver": "docker", "image": engine.base_image() });
    mute(server, template, &["does not answer", "waited 8s"]).await;
    guard.check();
}

#[tokio::test]
async fn an_engine_that_goes_away_is_waited_for() {
    require!(BaseImage);
    let mut engine = DockerEngine::private();
    let dir = tempfile::tempdir().unwrap();
    let mut server = with("docker", dir.path())
        .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
        .env("OSTLER_DRIVERS__DOCKER__IMAGE", engine.base_image())
        .env("OSTLER_SANDBOXES__HEALTH_SECONDS", "1")
        .env("OSTLER_EXECUTOR__POLL_SECONDS", "1")
        // How long a host that fails is left alone is tried in `hosts.rs`.
        .env("OSTLER_SANDBOXES__QUARANTINE_FAILURES", "100")
        .start()
        .await;
    let set = json!({ "target": 1 });
    server.call(Method::PUT, "/pools/default", Some(set)).await;
    server
        .until("/pools", LIMIT, |pools: &Value| pools[0]["warm"] == 1)
        .await;
    let held = server.post("/agents", json!({})).await;
    engine.down();
    let (status, message) = refused(&server, Method::POST, "/agents", json!({})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    says(&message, &["engine at unix://", "systemctl start docker"]);
    let submitted = json!({ "command": ["echo", "after"] });
    let run = server.post("/runs", submitted).await;
    let run = format!("/runs/{}", run["id"].as_str().unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = server.get(&run).await;
    assert!(waiting["finished_at"].is_null(), "{waiting}");

    // The same server goes on with the engine that is back.
    engine.up();
    let done = server
        .until(&run, LIMIT * 2, |run| !run["finished_at"].is_null())
        .await;
    assert_eq!(done["status"], "succeeded", "{done}");
    let gone = server
        .until("/sandboxes", LIMIT, |all: &Value| {
            all.as_array().unwrap().iter().all(|s| s["id"] != held["id"])
        })
        .await;
    assert!(gone.is_array());
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_full_disk_starts_nothing_and_leaves_nothing() {
    require!(Bubblewrap);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(
        Some("tmpfs"),
        &disk,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=32m"),
    )
    .unwrap();
    let mut server = with("process", &disk.join("data")).start().await;
    let none = json!({ "target": 0 });
    server.call(Method::PUT, "/pools/default", Some(none)).await;
    std::fs::write(disk.join("fill"), vec![0; 64 << 20]).unwrap_err();
    let (status, message) = refused(&server, Method::POST, "/agents", json!({})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    says(&message, &["free some space"]);
    std::fs::remove_file(disk.join("fill")).unwrap();
    let agent = server.post("/agents", json!({})).await;
    assert_eq!(agent["status"], "running", "{agent}");
    assert!(server.stop().await.success());
    drop(server);
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    guard.check();
}

#[test]
fn settings_that_point_to_nothing_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = ("DOCKER__ENGINE", "unix:///nowhere.sock");
    let certificates = ("DOCKER__HOSTS__B__CERTIFICATES", "/nowhere");
    for (settings, words) in [
        (
            vec![("DOCKER__ENABLED", "true"), engine],
            vec!["unix:///nowhere.sock", "drivers.docker.enabled = true"],
        ),
        (
            vec![("QEMU__ENABLED", "true"), ("QEMU__PROGRAM", "/nowhere/qemu")],
            vec!["/nowhere/qemu", "name the program", "drivers.qemu.enabled = true"],
        ),
        (
            vec![
                ("FIRECRACKER__ENABLED", "true"),
                ("FIRECRACKER__PROGRAM", "/nowhere/firecracker"),
            ],
            vec!["/nowhere/firecracker", "install it from"],
        ),
        (
            vec![
                ("FIRECRACKER__ENABLED", "true"),
                ("FIRECRACKER__PROGRAM", "/bin/true"),
            ],
            vec!["/bin/true", "version"],
        ),
        (
            vec![("QEMU__ENABLED", "true"), ("QEMU__ACCELERATOR", "fast")],
            vec!["drivers.qemu.accelerator", "`fast`", "`kvm` or `tcg`"],
        ),
        (
            vec![
                ("DOCKER__ENABLED", "true"),
                ("DOCKER__ENGINE", "tcp://127.0.0.1:1"),
                certificates,
                ("DOCKER__HOSTS__B__ENGINE", "tcp://127.0.0.1:1"),
            ],
            vec!["tcp://127.0.0.1:1", "certificates"],
        ),
    ] {
        let said = does_not_start(dir.path(), &settings);
        says(&said, &words);
    }
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    require!(Qemu);
    let dir = tempfile::tempdir().unwrap();
    let said = does_not_start(
        dir.path(),
        &[("QEMU__ENABLED", "true"), ("QEMU__KERNEL", "/nowhere/kernel")],
    );
    says(&said, &["there is no kernel /nowhere/kernel", "in the settings"]);
}

#[test]
fn an_engine_whose_certificate_is_not_believed_is_not_used() {
    require!(Docker);
    let (near, far) = (DockerEngine::start(), DockerEngine::remote());
    let dir = tempfile::tempdir().unwrap();
    let start = |certificates: &Path| {
        does_not_start(
            &dir.path().join("data"),
            &[
                ("DOCKER__ENABLED", "true"),
                ("DOCKER__ENGINE", &near.url()),
                ("DOCKER__HOSTS__BUILD1__ENGINE", &far.tcp()),
                (
                    "DOCKER__HOSTS__BUILD1__CERTIFICATES",
                    certificates.to_str().unwrap(),
                ),
            ],
        )
    };
    let said = start(&dir.path().join("none"));
    says(&said, &["none/ca.pem", "drivers.docker"]);

    // An authority that has not signed the engine's certificate.
    let stranger = dir.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    let other = Authority::new();
    other.write(&stranger, &other.issue(&["client"], 2100));
    let said = start(&stranger);
    says(&said, &["certificate", "ca.pem"]);

    // The right authority for the engine, and a certificate of ours that the engine does not know.
    let unknown = dir.path().join("unknown");
    std::fs::create_dir(&unknown).unwrap();
    other.write(&unknown, &other.issue(&["client"], 2100));
    std::fs::copy(far.certificates().join("ca.pem"), unknown.join("ca.pem")).unwrap();
    let said = start(&unknown);
    says(&said, &["certificate"]);
    eprintln!("{said}");
}

/// Where nothing was given, only the driver says no: it makes no snapshots.
#[tokio::test]
async fn what_was_once_given_environment_is_never_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = with("sim", dir.path()).start().await;
    let kept = async |agent: &str| {
        let body = json!({ "name": "ready" });
        refused(&server, Method::POST, &format!("{agent}/snapshot"), body).await
    };
    let provision = async |config: Value| {
        let agent = server.post("/agents", json!({ "config": config })).await;
        format!("/agents/{}", agent["id"].as_str().unwrap())
    };
    let exec = async |agent: &str, env: Value| {
        let body = json!({ "command": ["true"], "env": env });
        server.post(&format!("{agent}/exec"), body).await;
    };
    let configure = async |agent: &str, config: Value| {
        server
            .post(&format!("{agent}/configure"), json!({ "config": config }))
            .await;
    };
    // By a program, whatever is started after it.
    let agent = provision(Value::Null).await;
    exec(&agent, json!({})).await;
    configure(&agent, json!({ "idle_pause_seconds": 0 })).await;
    assert_eq!(kept(&agent).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    exec(&agent, json!({ "TOKEN": "planted-value" })).await;
    exec(&agent, json!({})).await;
    let (status, message) = kept(&agent).await;
    assert_eq!(status, StatusCode::CONFLICT, "{message}");
    says(&message, &["its programs were given, the last at 20"]);
    assert!(!message.contains("planted"), "{message}");
    // By its configuration, also after that was taken away.
    let agent = provision(json!({ "env": { "TOKEN": "planted-value" } })).await;
    let (status, message) = kept(&agent).await;
    assert_eq!(status, StatusCode::CONFLICT, "{message}");
    says(&message, &["the environment of its configuration"]);
    configure(&agent, json!({})).await;
    configure(&agent, json!({ "env": {} })).await;
    let (status, message) = kept(&agent).await;
    assert_eq!(status, StatusCode::CONFLICT, "{message}");
    says(&message, &["its programs were given"]);
    assert!(server.stop().await.success());
}
