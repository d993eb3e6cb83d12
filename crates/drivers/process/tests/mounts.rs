//! Directories of the host in a sandbox.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use ostler_domain::{Mount, SandboxId};
use ostler_driver_process::Mode;
use ostler_sandbox::SandboxSpec;
use ostler_sandbox::conformance::{Guest, Subject};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn mounts_are_writable_only_where_asked_and_keep_their_owner() {
    let subject = Process::new(Mode::Namespaces);
    let driver = subject.open().await;
    let host = tempfile::tempdir().unwrap();
    std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let mount = |name: &str, writable| {
        let path = host.path().join(name);
        std::fs::create_dir(&path).unwrap();
        if writable && root {
            std::os::unix::fs::chown(&path, Some(12345), Some(12345)).unwrap();
        }
        std::fs::write(path.join("there"), name).unwrap();
        Mount {
            source: path.display().to_string(),
            target: format!("/opt/some/{name}"),
            writable,
        }
    };
    let mut template = subject.template();
    template.mounts = vec![mount("open", true), mount("closed", false)];
    let id = SandboxId::new();
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    let seen = guest
        .shell("cat /opt/some/*/there; echo made > /opt/some/open/new")
        .await;
    assert_eq!(seen, "closedopen");
    let refused = guest.run(&["sh", "-c", "echo made > /opt/some/closed/new"]).await;
    assert_ne!(refused.exited.code, 0, "{refused:?}");
    let made = host.path().join("open/new");
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&made), owner(made.parent().unwrap()));
    driver.remove(id, Duration::from_secs(1)).await.unwrap();
    assert!(
        made.exists(),
        "the removal of the sandbox removed what is not its own"
    );

    let mut template = subject.template();
    template.mounts = vec![Mount {
        source: host.path().join("absent").display().to_string(),
        target: "/opt/absent".into(),
        writable: false,
    }];
    let id = SandboxId::new();
    let failed = driver.start(&SandboxSpec::new(id, template)).await.unwrap_err();
    assert!(failed.to_string().contains("absent"), "{failed}");
    assert!(subject.leftovers(id).await.is_empty());
}
