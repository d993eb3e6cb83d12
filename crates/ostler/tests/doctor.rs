//! `ostler doctor` by the real binary, on hosts that lack something.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_process::{ProcessDriver, ProcessOptions};
use ostler_sandbox::{Driver, DriverStatus, SandboxSpec};
use ostler_test_kit::{DockerEngine, LeakGuard, MachineParts, TestServer, in_path, require};
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the doctor said.
struct Said {
    code: i32,
    checks: Vec<Value>,
    all: String,
}

impl Said {
    /// The status of what was looked at, and everything that was said of it.
    fn on(&self, subject: &str) -> (&str, String) {
        let check = self.checks.iter().find(|check| check["subject"] == subject);
        let check = check.unwrap_or_else(|| panic!("nothing on {subject}: {}", self.all));
        (check["status"].as_str().unwrap(), check.to_string())
    }
}

fn doctor(data: &Path, change: impl FnOnce(&mut Command)) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    for (name, _) in std::env::vars_os() {
        let foreign = ["OSTLER_", "ANTHROPIC_", "CLAUDE_", "OPENAI_", "DOCKER_"];
        if foreign
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
        .args(["doctor", "--json", "--data"])
        .arg(data)
        .env("OSTLER_LISTEN", "127.0.0.1:0")
        // Finding out what works of it takes seconds; the tests that want it say so.
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "false")
        .env("OSTLER_DRIVERS__FIRECRACKER__ENABLED", "false")
        .stdin(Stdio::null());
    change(&mut command);
    let output = command.output().unwrap();
    let all = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(&all).unwrap_or_default();
    assert_eq!(value["ok"], output.status.success(), "{all}");
    Said {
        code: output.status.code().unwrap(),
        checks: value["checks"].as_array().cloned().unwrap_or_default(),
        all,
    }
}

/// A path on which only these programs are.
fn path(dir: &Path, programs: &[&str]) -> std::path::PathBuf {
    let path = dir.join("bin");
    std::fs::create_dir(&path).unwrap();
    for program in programs {
        symlink(in_path(program).unwrap(), path.join(program)).unwrap();
    }
    path
}

#[test]
fn a_host_with_bubblewrap_is_enough() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let said = doctor(&data, |command| {
        command.env("OSTLER_DRIVERS__DOCKER", "false");
    });
    assert_eq!(said.code, 0, "{}", said.all);
    for subject in [
        "data directory",
        "file system",
        "database",
        "artifacts",
        "bubblewrap",
        "git",
        "clock",
    ] {
        assert_eq!(said.on(subject).0, "ok", "{}", said.all);
    }
    assert_eq!(said.on("process sandbox").0, "ok", "{}", said.all);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_directory_that_cannot_be_used_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Even root cannot write there.
    for data in [file.join("data"), "/proc/ostler".into()] {
        let said = doctor(&data, |_| {});
        let (status, text) = said.on("data directory");
        assert_eq!((said.code, status), (1, "failure"), "{text}");
        assert!(text.contains("--data"), "{text}");
    }
}

#[test]
fn a_host_without_bubblewrap_and_engine_can_execute_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = path(dir.path(), &["git"]);
    let socket = format!("unix://{}", dir.path().join("no.sock").display());
    let said = doctor(&dir.path().join("data"), |command| {
        command.env("PATH", &path).env("DOCKER_HOST", &socket);
    });
    let (status, text) = said.on("bubblewrap");
    assert_eq!(status, "warning", "{text}");
    assert!(text.contains("install the package `bubblewrap`"), "{text}");
    let (status, text) = said.on("docker engine");
    assert_eq!(status, "warning", "{text}");
    assert!(
        text.contains("no.sock") && text.contains("systemctl start docker"),
        "{text}"
    );
    assert_eq!(
        (said.code, said.on("sandboxes").0),
        (1, "failure"),
        "{}",
        said.all
    );

    // Without being kept apart from the host only where the operator says so.
    let said = doctor(&dir.path().join("data"), |command| {
        command
            .env("PATH", &path)
            .env("OSTLER_DRIVERS__DOCKER", "false")
            .env("OSTLER_DRIVERS__PROCESS__SEPARATION", "auto")
            .env("OSTLER_DRIVERS__PROCESS__LIMITS", "false");
    });
    let (status, text) = said.on("bubblewrap");
    assert_eq!((said.code, status), (0, "warning"), "{}", said.all);
    assert!(text.contains("can read and change"), "{text}");
    assert_eq!(said.on("process sandbox").0, "ok", "{}", said.all);

    // What the settings call for is a failure by itself.
    let said = doctor(&dir.path().join("data"), |command| {
        command
            .env("OSTLER_DRIVERS__SIM", "true")
            .env("OSTLER_DRIVERS__DOCKER", "true")
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("DOCKER_HOST", &socket);
    });
    assert_eq!(
        (said.code, said.on("docker engine").0),
        (1, "failure"),
        "{}",
        said.all
    );
}

#[test]
fn an_engine_and_its_images_are_looked_at() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let look = |image: &str| {
        doctor(&dir.path().join("data"), |command| {
            command
                .env("OSTLER_DRIVERS__PROCESS", "false")
                .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
                .env("OSTLER_DRIVERS__DOCKER__IMAGE", image);
        })
    };
    let said = look(&engine.base_image());
    assert_eq!(said.code, 0, "{}", said.all);
    assert_eq!(said.on("docker sandbox").0, "ok", "{}", said.all);
    assert!(said.on("docker engine").1.contains("version "), "{}", said.all);

    let said = look("ostler-test:absent");
    let (status, text) = said.on("docker image");
    assert_eq!((said.code, status), (1, "warning"), "{text}");
    assert!(text.contains("docker pull ostler-test:absent"), "{text}");
    let left = engine
        .docker(&[
            "ps",
            "-aq",
            "--filter",
            "label=ostler.instance",
            "--filter",
            "name=doctor",
        ])
        .unwrap();
    assert_eq!(left, "");
}

#[test]
fn a_further_engine_that_is_away_is_named_and_the_others_are_used() {
    require!(BaseImage);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let said = doctor(&dir.path().join("data"), |command| {
        command
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
            .env("OSTLER_DRIVERS__DOCKER__IMAGE", engine.base_image())
            .env(
                "OSTLER_DRIVERS__DOCKER__HOSTS__BUILD1__ENGINE",
                "unix:///nowhere.sock",
            );
    });
    let (status, text) = said.on("docker on build1: engine");
    assert_eq!((said.code, status), (0, "warning"), "{text}");
    assert!(
        text.contains("nowhere.sock") && text.contains("drivers.docker.hosts"),
        "{text}"
    );
    assert_eq!(said.on("docker sandbox").0, "ok", "{}", said.all);
    let (status, text) = said.on("image building");
    let complete = in_path("mmdebstrap").is_some() && in_path("mke2fs").is_some();
    assert_eq!(status, if complete { "ok" } else { "info" }, "{text}");
}

#[test]
fn machines_that_nobody_asked_for_are_told_and_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let look = |enabled: &str| {
        doctor(&dir.path().join("data"), |command| {
            command
                .env("OSTLER_DRIVERS__DOCKER", "false")
                .env("OSTLER_DRIVERS__QEMU__ENABLED", enabled)
                .env("OSTLER_DRIVERS__QEMU__PROGRAM", "/nowhere/qemu")
                .env("OSTLER_DRIVERS__FIRECRACKER__ENABLED", enabled)
                .env("OSTLER_DRIVERS__FIRECRACKER__PROGRAM", "/nowhere/firecracker");
        })
    };
    let said = look("auto");
    for (subject, how) in [
        ("qemu driver", "install qemu-system-x86"),
        ("firecracker driver", "install it from"),
    ] {
        let (status, text) = said.on(subject);
        assert_eq!(status, "info", "{text}");
        assert!(text.contains("/nowhere/") && text.contains(how), "{text}");
    }
    let said = look("true");
    assert_eq!(
        (said.code, said.on("qemu QEMU").0),
        (1, "failure"),
        "{}",
        said.all
    );
    assert_eq!(said.on("firecracker firecracker").0, "failure", "{}", said.all);
}

#[test]
fn whether_kvm_works_is_found_out_by_booting_once() {
    require!(Qemu);
    let parts = MachineParts::find().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _guard = LeakGuard::new(dir.path());
    // As a server that has run here leaves it.
    std::fs::create_dir_all(dir.path().join("sandboxes/qemu")).unwrap();
    let look = || {
        let begun = Instant::now();
        let said = doctor(dir.path(), |command| {
            command
                .env("OSTLER_DRIVERS__PROCESS", "false")
                .env("OSTLER_DRIVERS__DOCKER", "false")
                .env("OSTLER_DRIVERS__QEMU__ENABLED", "true")
                .env("OSTLER_DRIVERS__QEMU__KERNEL", &parts.kernel)
                .env("OSTLER_DRIVERS__QEMU__MODULES", &parts.modules);
        });
        (said, begun.elapsed())
    };
    let (said, first) = look();
    let (status, text) = said.on("qemu processors");
    assert_eq!((said.code, status), (0, "ok"), "{}", said.all);
    assert!(text.contains("a kernel started in"), "{text}");
    assert!(said.on("qemu sandbox").1.contains("--root-drive"), "{}", said.all);
    let (again, second) = look();
    assert_eq!(again.on("qemu processors").1, text);
    assert!(second < first, "{second:?} after {first:?}");
}

#[test]
fn the_network_of_filtered_sandboxes_is_tried() {
    require!(HostNetwork);
    let dir = tempfile::tempdir().unwrap();
    let _guard = LeakGuard::new(dir.path());
    let said = doctor(&dir.path().join("data"), |command| {
        command
            .env("OSTLER_DRIVERS__DOCKER", "false")
            .env("OSTLER_EGRESS__INTERFACES", "true");
    });
    let (status, text) = said.on("host network");
    assert_eq!(status, "ok", "{text}");
    assert!(text.contains("was made in"), "{text}");
    // What must be there and cannot be is a failure; elsewhere it is only told.
    for (interfaces, wanted) in [("true", "failure"), ("auto", "info")] {
        let said = doctor(&dir.path().join("data"), |command| {
            command
                .env("OSTLER_DRIVERS__DOCKER", "false")
                .env("OSTLER_EGRESS__INTERFACES", interfaces)
                .env("OSTLER_EGRESS__RANGE", "10.0.0.0/40");
        });
        let (status, text) = said.on("host network");
        assert_eq!(status, wanted, "{text}");
        assert!(text.contains("10.0.0.0/40"), "{text}");
    }
}

#[test]
fn missing_programs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = path(dir.path(), &["true"]);
    let said = doctor(&dir.path().join("data"), |command| {
        command.env("PATH", &path);
    });
    assert_eq!((said.code, said.on("git").0), (1, "failure"), "{}", said.all);
    let (status, text) = said.on("agent claude");
    assert_eq!(status, "warning", "{text}");
    assert!(text.contains("npm install -g"), "{text}");
    // A program that is there, but does nothing.
    std::fs::write(path.join("git"), "#!/bin/sh\necho git version 2.20.1\n").unwrap();
    std::fs::set_permissions(
        path.join("git"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let said = doctor(&dir.path().join("data"), |command| {
        command.env("PATH", &path);
    });
    assert!(said.on("git").1.contains("too old"), "{}", said.all);
}

#[test]
fn keys_are_found_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert_eq!(doctor(&data, |_| {}).on("model API").0, "warning");
    let said = doctor(&data, |command| {
        command
            .env("ANTHROPIC_API_KEY", "planted-a")
            .env("OSTLER_GATEWAY__OPENAI__API_KEY", "planted-b");
    });
    let (status, text) = said.on("model API");
    assert_eq!(status, "ok", "{text}");
    assert!(text.contains("Anthropic") && text.contains("OpenAI"), "{text}");
    assert!(!said.all.contains("planted"), "{}", said.all);
}

#[test]
fn wrong_settings_are_a_failure_and_the_rest_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "[drivers]\nprocesses = true\n").unwrap();
    let said = doctor(dir.path(), |_| {});
    let (status, text) = said.on("settings");
    assert_eq!((said.code, status), (1, "failure"), "{text}");
    assert!(text.contains("processes") && text.contains("line 2"), "{text}");
    assert_eq!(said.on("git").0, "ok", "{}", said.all);
}

#[tokio::test]
async fn a_running_server_is_found_and_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path())
        .env("OSTLER_DRIVERS__SIM", "true")
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await;
    let look = || doctor(dir.path(), |_| {});
    let said = look();
    let (status, text) = said.on("server");
    assert_eq!(status, "ok", "{text}");
    assert!(text.contains(server.url()), "{text}");
    assert!(said.on("database").1.contains("1 pools"), "{}", said.all);
    server.get("/health").await;
    // Another server on the same directory would end this one's sandboxes.
    let second = Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["serve", "--listen", "127.0.0.1:0", "--database"])
        .arg(format!("sqlite:{}", dir.path().join("other.db").display()))
        .arg("--data")
        .arg(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && text.contains("another Ostler server"),
        "{text}"
    );
    drop(server);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = doctor(dir.path(), |command| {
        command.env("OSTLER_LISTEN", &address);
    });
    let (status, text) = said.on("server");
    assert_eq!((said.code, status), (1, "failure"), "{text}");
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");
}

#[tokio::test]
async fn what_a_killed_doctor_has_left_is_removed() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let trial = dir.path().join(format!(".doctor-{}-x", gone.id()));
    let guest = ostler_guest_binary::install(&trial.join("guest")).unwrap();
    let instance = format!("doctor-{}", gone.id());
    let _guard = LeakGuard::new(dir.path()).with_word(&instance);
    let options = ProcessOptions::new(&instance, trial.join("process"), guest);
    let driver = ProcessDriver::open(options).await.unwrap();
    let spec = SandboxSpec::new(SandboxId::new(), SandboxTemplate::new(DriverKind::Process));
    driver.start(&spec).await.unwrap();
    let said = doctor(dir.path(), |_| {});
    assert_eq!(said.on("process sandbox").0, "ok", "{}", said.all);
    assert_eq!(driver.status(spec.id).await.unwrap(), DriverStatus::Gone);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
