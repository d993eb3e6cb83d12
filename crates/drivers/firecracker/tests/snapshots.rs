//! Pausing, snapshots, and machines that are restored from them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Machines, spec, traces};
use ostler_domain::SandboxId;
use ostler_sandbox::conformance::{Guest, Subject};
use ostler_sandbox::{Driver, DriverError, SandboxSpec};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

#[tokio::test]
async fn machines_are_restored_from_a_snapshot_beside_the_one_it_was_taken_of() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let mut template = machines.template();
    template.data_drive_mb = Some(8);
    template.env.insert("BAKED".into(), "in it".into());
    let first = SandboxId::new();
    driver.start(&spec(first, template.clone())).await.unwrap();
    Guest::ready(driver.as_ref(), first).await;
    driver.snapshot(first, "base-1").await.unwrap();
    let asked = machines.requests(first);
    let paused = asked.iter().position(|l| l.starts_with("PATCH /vm")).unwrap();
    assert_eq!(
        asked[paused..],
        [
            r#"PATCH /vm {"state":"Paused"}"#,
            r#"PUT /snapshot/create {"mem_file_path":"new.memory","snapshot_path":"new.state","snapshot_type":"Full"}"#,
            r#"PATCH /vm {"state":"Resumed"}"#,
        ]
    );
    assert_eq!(driver.snapshots().await.unwrap(), ["base-1"]);
    let again = driver.snapshot(first, "base-1").await.unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");
    let mut guest = Guest::ready(driver.as_ref(), first).await;
    assert_eq!(guest.shell("echo goes on").await, "goes on\n");

    // What is baked in need not be named again, and both may have one context id.
    template.root_drive = None;
    template.kernel = None;
    template.data_drive_mb = None;
    template.snapshot = Some("base-1".into());
    let copies = [SandboxId::new(), SandboxId::new()];
    for id in copies {
        driver.start(&spec(id, template.clone())).await.unwrap();
        assert_eq!(
            machines.requests(id),
            [concat!(
                r#"PUT /snapshot/load {"mem_backend":{"backend_path":"vm.memory","backend_type":"File"},"#,
                r#""resume_vm":true,"snapshot_path":"vm.state"}"#
            )]
        );
        let mut guest = Guest::ready(driver.as_ref(), id).await;
        assert_eq!(guest.shell("echo $BAKED").await, "in it\n");
        let of = |name: &str| std::fs::metadata(machines.root(id).join(name)).unwrap();
        let kept =
            |name: &str| std::fs::metadata(machines.path("state/snapshots/base-1").join(name)).unwrap();
        assert_eq!(of("vm.memory").ino(), kept("vm.memory").ino(), "memory is shared");
        assert_ne!(of("root.img").ino(), kept("root.img").ino(), "drives are not");
        assert_eq!(of("data.img").len(), 8 << 20);
    }
    // A snapshot of a restored machine does not touch what that was restored from.
    driver.snapshot(copies[0], "base-2").await.unwrap();
    assert_eq!(driver.snapshots().await.unwrap(), ["base-1", "base-2"]);

    // Machines hold what they were restored from.
    for name in ["base-1", "base-1", "../state", "base-2"] {
        driver.remove_snapshot(name).await.unwrap();
    }
    assert!(driver.snapshots().await.unwrap().is_empty());
    let mut guest = Guest::ready(driver.as_ref(), copies[1]).await;
    assert_eq!(guest.shell("echo still").await, "still\n");
    for id in [first, copies[0], copies[1]] {
        driver.remove(id, Duration::ZERO).await.unwrap();
        assert_eq!(traces(id), Vec::<String>::new());
    }
    assert_eq!(
        std::fs::read_dir(machines.path("state/snapshots"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_template_that_differs_from_the_snapshot_is_refused() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let id = SandboxId::new();
    driver.start(&spec(id, machines.template())).await.unwrap();
    driver.snapshot(id, "base").await.unwrap();
    let mut good = machines.template();
    good.snapshot = Some("base".into());
    driver.check(&good).unwrap();
    let refused = |words: &str, change: &dyn Fn(&mut ostler_domain::SandboxTemplate)| {
        let mut template = good.clone();
        change(&mut template);
        let error = driver.check(&template).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    refused("CPUs: 1 and not 2", &|t| t.cpus = 2);
    refused("memory in MiB: 256 and not 512", &|t| t.memory_mb = 512);
    refused("another environment", &|t| {
        t.env.insert("NEW".into(), "value".into());
    });
    refused("a data drive in MiB: none and not 5", &|t| {
        t.data_drive_mb = Some(5);
    });
    refused("the root drive", &|t| t.root_drive = Some("/other".into()));

    // Another Firecracker reads no snapshots of this one.
    let other = machines.with("firecracker-v1.14.2").await;
    let error = other.check(&good).unwrap_err().to_string();
    assert!(error.contains("the version 1.15.0 and not 1.14.2"), "{error}");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn versions_that_lose_the_guest_are_not_used_for_it() {
    let machines = Machines::new();
    for (name, snapshot, pause) in [
        ("firecracker-v1.16.0", false, false),
        ("firecracker-v1.16.1", true, false),
        ("firecracker-v1.16.2", true, true),
    ] {
        let driver = machines.with(name).await;
        let can = driver.capabilities();
        assert_eq!((can.snapshot, can.pause), (snapshot, pause), "{name}");
        let id = SandboxId::new();
        driver.start(&spec(id, machines.template())).await.unwrap();
        for (done, fine) in [
            (driver.snapshot(id, name).await, snapshot),
            (driver.pause(id).await, pause),
            (driver.resume(id).await, pause),
        ] {
            match done {
                Ok(()) => assert!(fine, "{name}"),
                Err(e) => assert!(
                    !fine && matches!(e, DriverError::Unsupported { .. }),
                    "{name}: {e}"
                ),
            }
        }
        let mut template = machines.template();
        template.snapshot = Some(name.into());
        assert_eq!(driver.check(&template).is_ok(), snapshot, "{name}");
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing_and_the_machine_running() {
    let machines = Machines::new();
    for (whim, words) in [
        (
            "firecracker-refuses-create",
            "PUT /snapshot/create with status 400: refused by this test",
        ),
        ("firecracker-hangs-create", "did not answer PUT /snapshot/create"),
        ("firecracker-refuses-Paused", "PATCH /vm with status 400"),
    ] {
        let mut options = machines.options(whim);
        options.start_limit = Duration::from_secs(2);
        let driver = ostler_driver_firecracker::FirecrackerDriver::open(options)
            .await
            .unwrap();
        let id = SandboxId::new();
        driver.start(&spec(id, machines.template())).await.unwrap();
        let error = driver.snapshot(id, "base").await.unwrap_err().to_string();
        assert!(error.contains(words), "{whim}: {error}");
        assert!(driver.snapshots().await.unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(machines.path("state/snapshots"))
                .unwrap()
                .count(),
            0
        );
        assert!(!machines.state(id).join("snapshot-under-way").exists(), "{whim}");
        let mut guest = Guest::ready(&driver, id).await;
        assert_eq!(guest.shell("echo runs").await, "runs\n", "{whim}");
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_loaded_is_a_failed_start() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let id = SandboxId::new();
    driver.start(&spec(id, machines.template())).await.unwrap();
    driver.snapshot(id, "base").await.unwrap();
    let memory = machines.path("state/snapshots/base/vm.memory");
    std::fs::remove_file(&memory).unwrap();
    std::fs::write(&memory, "short").unwrap();
    let mut template = machines.template();
    template.snapshot = Some("base".into());
    let other = SandboxId::new();
    let error = driver
        .start(&spec(other, template))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the memory is not that of the state"), "{error}");
    assert_eq!(traces(other), Vec::<String>::new());
    assert!(!machines.state(other).exists());
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_machine_paused_for_a_snapshot_goes_on_with_the_next_server() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let id = SandboxId::new();
    driver.start(&spec(id, machines.template())).await.unwrap();
    Guest::ready(driver.as_ref(), id).await;
    // What a server leaves that is killed in the middle of a snapshot.
    driver.pause(id).await.unwrap();
    std::fs::write(machines.state(id).join("snapshot-under-way"), "").unwrap();
    std::fs::write(machines.root(id).join("new.memory"), "half").unwrap();
    std::fs::create_dir_all(machines.path("state/snapshots/.base")).unwrap();
    drop(driver);

    let driver = machines.open().await;
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell("echo on").await, "on\n");
    assert!(!machines.root(id).join("new.memory").exists());
    assert!(!machines.path("state/snapshots/.base").exists());
    assert!(!machines.state(id).join("snapshot-under-way").exists());

    // One that its holder paused stays so, also through a snapshot.
    driver.pause(id).await.unwrap();
    driver.snapshot(id, "base").await.unwrap();
    let last = machines.requests(id).pop().unwrap();
    assert!(last.starts_with("PUT /snapshot/create"), "{last}");
    driver.resume(id).await.unwrap();
    driver.remove(id, Duration::ZERO).await.unwrap();
    let gone = driver.snapshot(id, "gone").await;
    assert!(matches!(gone, Err(DriverError::NotFound { .. })), "{gone:?}");
    let spec = SandboxSpec {
        vsock_cid: Some(u32::MAX),
        ..SandboxSpec::new(id, machines.template())
    };
    assert!(driver.start(&spec).await.is_err(), "that context id means any");
}
