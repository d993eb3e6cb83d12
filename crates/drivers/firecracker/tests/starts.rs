//! Starts: what Firecracker and its jailer are asked for, what is refused, and what becomes of a start that fails or hangs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Machines, root, spec, traces};
use ostler_domain::SandboxId;
use ostler_driver_firecracker::FirecrackerDriver;
use ostler_sandbox::conformance::{Guest, Subject, eventually};
use ostler_sandbox::{Driver, DriverError, DriverStatus, SandboxSpec};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_machine_is_configured_in_order_and_its_guest_answers() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let mut template = machines.template();
    template.cpus = 2;
    template.data_drive_mb = Some(8);
    template.kernel_args = Some("quiet".into());
    let id = SandboxId::new();
    driver
        .start(&SandboxSpec {
            vsock_cid: Some(77),
            ..SandboxSpec::new(id, template)
        })
        .await
        .unwrap();
    let expected = [
        r#"PUT /machine-config {"mem_size_mib":256,"vcpu_count":2}"#,
        "PUT /boot-source ",
        r#"PUT /drives/root {"drive_id":"root","is_read_only":false,"is_root_device":true,"path_on_host":"root.img"}"#,
        r#"PUT /drives/data {"drive_id":"data","is_read_only":false,"is_root_device":false,"path_on_host":"data.img"}"#,
        r#"PUT /vsock {"guest_cid":77,"uds_path":"v.sock"}"#,
        r#"PUT /actions {"action_type":"InstanceStart"}"#,
    ];
    let asked = machines.requests(id);
    assert_eq!(asked.len(), expected.len(), "{asked:#?}");
    for (asked, expected) in asked.iter().zip(expected) {
        assert!(asked.starts_with(expected), "{asked} instead of {expected}");
    }
    assert!(
        asked[1].contains("console=ttyS0")
            && asked[1].contains(r#" quiet","initrd_path":"initrd","kernel_image_path":"kernel"}"#),
        "{}",
        asked[1]
    );

    // The drives are the machine's own; the image is untouched and its blocks are those of the file system's choice.
    let drive = std::fs::metadata(machines.root(id).join("root.img")).unwrap();
    let image = std::fs::metadata(machines.path("images/root")).unwrap();
    assert_eq!((drive.len(), drive.nlink()), (image.len(), 1));
    assert_ne!(drive.ino(), image.ino());
    let data = std::fs::metadata(machines.root(id).join("data.img")).unwrap();
    assert_eq!(data.len(), 8 << 20);
    assert!(
        data.blocks() * 512 < 4 << 20,
        "the empty drive takes {} blocks",
        data.blocks()
    );

    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell("echo from inside").await, "from inside\n");
    let usage = driver.usage(id).await.unwrap();
    assert!(
        usage.memory_bytes.unwrap() > 1 << 20 && usage.cpu_us.is_some(),
        "{usage:?}"
    );
    driver.remove(id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(driver.status(id).await.unwrap(), DriverStatus::Gone);
    assert!(matches!(
        driver.usage(id).await,
        Err(DriverError::NotFound { .. })
    ));
    assert_eq!(traces(id), Vec::<String>::new());
}

#[tokio::test]
async fn every_jailed_machine_has_a_user_of_its_own() {
    if !root() {
        return;
    }
    let machines = Machines::new();
    let driver = machines.open().await;
    let mut users = Vec::new();
    let ids = [SandboxId::new(), SandboxId::new()];
    for id in ids {
        driver.start(&spec(id, machines.template())).await.unwrap();
        let user = machines.note(id, "sandbox.json")["user"].as_u64().unwrap();
        let process = std::fs::metadata(format!("/proc/{}", machines.pid(id))).unwrap();
        assert_eq!((u64::from(process.uid()), u64::from(process.gid())), (user, user));
        let owner = |name: &str| u64::from(std::fs::metadata(machines.root(id).join(name)).unwrap().uid());
        assert_eq!((owner(""), owner("root.img")), (user, user));
        // Everybody may read it, so it is the same file, and still its owner's.
        assert_eq!(owner("kernel"), 0);
        users.push(user);

        let name = id.to_string().replace('_', "-");
        let base = machines.state(id).join("jail");
        let told = std::fs::read_to_string(base.join("firecracker").join(&name).join("arguments")).unwrap();
        let told: Vec<&str> = told.lines().collect();
        let user = user.to_string();
        let exec = machines.path("bin/firecracker").canonicalize().unwrap();
        assert_eq!(
            told[..10],
            [
                "--id",
                &name,
                "--exec-file",
                exec.to_str().unwrap(),
                "--uid",
                &user,
                "--gid",
                &user,
                "--chroot-base-dir",
                base.to_str().unwrap(),
            ]
        );
        assert_eq!(told[told.len() - 3..], ["--", "--api-sock", "api.sock"]);
        assert!(
            told.contains(&"--cgroup-version") && told.contains(&"--parent-cgroup"),
            "{told:?}"
        );
        assert!(!traces(id).iter().all(|t| !t.starts_with("cgroup")), "no cgroups");
    }
    assert_ne!(users[0], users[1]);
    for id in ids {
        driver.remove(id, Duration::ZERO).await.unwrap();
        assert_eq!(traces(id), Vec::<String>::new());
        assert!(!machines.state(id).exists());
    }
    let parent = |e: std::fs::DirEntry| {
        e.path().join(format!(
            "ostler-{}-machines",
            machines.options("firecracker").instance
        ))
    };
    let parents: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(parent)
        .filter(|p| p.exists())
        .collect();
    assert!(parents.is_empty(), "{parents:?}");
}

#[tokio::test]
async fn without_a_jailer_it_works_the_same() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let mut template = machines.template();
    template.jailer = Some(false);
    let id = SandboxId::new();
    driver.start(&spec(id, template)).await.unwrap();
    assert_eq!(
        machines.root(id),
        machines.state(id).canonicalize().unwrap().join("root")
    );
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell("echo direct").await, "direct\n");
    driver.remove(id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(traces(id), Vec::<String>::new());
}

#[tokio::test]
async fn every_kind_of_refusal_is_told_in_its_own_words() {
    let machines = Machines::new();
    for (whim, words) in [
        (
            "firecracker-refuses-machine-config",
            "PUT /machine-config with status 400: refused by this test",
        ),
        (
            "firecracker-refuses-boot-source",
            "PUT /boot-source with status 400: refused by this test",
        ),
        (
            "firecracker-refuses-drives",
            "PUT /drives/root with status 400: refused by this test",
        ),
        (
            "firecracker-refuses-InstanceStart",
            "PUT /actions with status 400: refused by this test",
        ),
        (
            "firecracker-babbles-vsock",
            "PUT /vsock with status 500: <html>it broke",
        ),
        ("firecracker-breaks-vsock", "panicked, says this test"),
        ("firecracker-dies", "cannot go on, says this test"),
    ] {
        let driver = machines.with(whim).await;
        let id = SandboxId::new();
        let error = driver
            .start(&spec(id, machines.template()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{whim}: {error}");
        assert_eq!(traces(id), Vec::<String>::new(), "{whim}");
        assert!(!machines.state(id).exists(), "{whim}");
    }
}

#[tokio::test]
async fn a_start_that_hangs_ends_in_time_and_leaves_nothing() {
    let machines = Machines::new();
    for (whim, words) in [
        ("firecracker-silent", "GET /"),
        (
            "firecracker-hangs-drives",
            "did not answer PUT /drives/root within 500ms",
        ),
        ("firecracker-hangs-InstanceStart", "did not answer PUT /actions"),
    ] {
        let mut options = machines.options(whim);
        options.start_limit = Duration::from_secs(2);
        options.answer_limit = Duration::from_millis(500);
        let driver = FirecrackerDriver::open(options).await.unwrap();
        let id = SandboxId::new();
        let begun = Instant::now();
        let error = driver
            .start(&spec(id, machines.template()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{whim}: {error}");
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{whim}: {:?}",
            begun.elapsed()
        );
        assert_eq!(traces(id), Vec::<String>::new(), "{whim}");
        assert!(!machines.state(id).exists(), "{whim}");
    }
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_an_error_in_time() {
    let machines = Machines::new();
    for (whim, words) in [
        ("firecracker-mute", "did not connect to"),
        ("firecracker-lonely", "listens on vsock port 1024 (yet)"),
    ] {
        let mut options = machines.options(whim);
        options.answer_limit = Duration::from_millis(500);
        let driver = FirecrackerDriver::open(options).await.unwrap();
        let id = SandboxId::new();
        driver.start(&spec(id, machines.template())).await.unwrap();
        let begun = Instant::now();
        let error = driver.connect(id).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{whim}: {error}");
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{whim}: {:?}",
            begun.elapsed()
        );
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_that_does_not_end_when_asked_is_ended() {
    let machines = Machines::new();
    for (whim, grace) in [("firecracker", 20), ("firecracker-stubborn", 1)] {
        let driver = machines.with(whim).await;
        let id = SandboxId::new();
        driver.start(&spec(id, machines.template())).await.unwrap();
        Guest::ready(driver.as_ref(), id).await;
        let begun = Instant::now();
        driver.remove(id, Duration::from_secs(grace)).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{whim}: {took:?}");
        assert_eq!(
            took >= Duration::from_secs(1),
            whim != "firecracker",
            "{whim}: {took:?}"
        );
        assert_eq!(traces(id), Vec::<String>::new());
    }
}

#[tokio::test]
async fn templates_that_no_machine_can_be_made_of_are_refused() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let good = machines.template();
    driver.check(&good).unwrap();
    let refused = |words: &str, change: &dyn Fn(&mut ostler_domain::SandboxTemplate)| {
        let mut template = good.clone();
        change(&mut template);
        let error = driver.check(&template).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    refused("without a root drive", &|t| t.root_drive = None);
    refused("No such file", &|t| t.root_drive = Some("/no/such/drive".into()));
    refused("not a regular file", &|t| t.root_drive = Some("/dev/null".into()));
    refused("must be absolute", &|t| t.root_drive = Some("drive".into()));
    refused("without a kernel", &|t| t.kernel = None);
    refused("the kernel /no/such/kernel", &|t| {
        t.kernel = Some("/no/such/kernel".into());
    });
    refused("at most 32", &|t| t.cpus = 33);
    refused("control character", &|t| t.kernel_args = Some("a\nb".into()));
    refused("2047 are the most", &|t| t.kernel_args = Some("x".repeat(2000)));
    refused("a data drive of no size", &|t| t.data_drive_mb = Some(0));
    refused("a disk limit of 10 MiB", &|t| {
        t.disk_mb = Some(10);
        t.data_drive_mb = Some(10);
    });
    refused("the snapshot other, which is not there", &|t| {
        t.snapshot = Some("other".into());
    });
    refused("a snapshot named `../x`", &|t| t.snapshot = Some("../x".into()));
    let mut fits = good.clone();
    fits.disk_mb = Some(1000);
    driver.check(&fits).unwrap();

    for (cid, words) in [
        (None, "without a vsock context id"),
        (Some(2), "3 is the first one"),
    ] {
        let spec = SandboxSpec {
            vsock_cid: cid,
            ..SandboxSpec::new(SandboxId::new(), good.clone())
        };
        let error = driver.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!machines.state(spec.id).exists());
    }

    let mut options = machines.options("firecracker");
    options.firecracker = machines.path("bin/absent");
    let absent = FirecrackerDriver::open(options).await.unwrap();
    let id = SandboxId::new();
    let error = absent.start(&spec(id, good.clone())).await.unwrap_err();
    assert!(matches!(error, DriverError::Unavailable { .. }), "{error}");
    assert!(!machines.state(id).exists());
    let mut options = machines.options("firecracker");
    options.jailer = machines.path("bin/absent");
    let absent = FirecrackerDriver::open(options).await.unwrap();
    let jailed = ostler_domain::SandboxTemplate {
        jailer: Some(true),
        ..good
    };
    let error = absent.check(&jailed).unwrap_err().to_string();
    assert!(error.contains("jailer"), "{error}");
}

#[tokio::test]
async fn the_doctor_sees_each_part() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let findings = driver.probe().await;
    let of = |findings: &[ostler_sandbox::Finding], subject: &str| {
        findings.iter().find(|f| f.subject == subject).unwrap().clone()
    };
    for subject in ["/dev/kvm", "cgroups", "mke2fs"] {
        assert!(!of(&findings, subject).detail.is_empty());
    }
    let firecracker = of(&findings, "firecracker");
    assert!(
        firecracker.ok && firecracker.detail.ends_with("1.15.0"),
        "{firecracker:?}"
    );
    assert!(
        of(&findings, "jailer").ok && of(&findings, "guest program").ok,
        "{findings:?}"
    );

    let mut options = machines.options("firecracker-v1.16.1");
    options.kernel = Some("/no/such/kernel".into());
    let other = FirecrackerDriver::open(options).await.unwrap();
    let findings = other.probe().await;
    let firecracker = of(&findings, "firecracker");
    assert!(
        !firecracker.ok && firecracker.detail.contains("1.16.1"),
        "{firecracker:?}"
    );
    if root() {
        let jailer = of(&findings, "jailer");
        assert!(
            !jailer.ok && jailer.detail.contains("from one release"),
            "{jailer:?}"
        );
    }
    assert!(!of(&findings, "kernel").ok);
}

#[tokio::test]
async fn a_crash_is_announced_within_a_moment_with_its_signal() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let id = SandboxId::new();
    driver.start(&spec(id, machines.template())).await.unwrap();
    Guest::ready(driver.as_ref(), id).await;
    let mut events = driver.events();
    let begun = Instant::now();
    machines.kill(id);
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((event.id, event.exit.signal), (id, Some(9)));
    assert!(eventually(async || traces(id).iter().all(|t| !t.starts_with("process"))).await);
    driver.remove(id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(traces(id), Vec::<String>::new());
}

#[tokio::test]
async fn the_guest_and_the_environment_come_after_an_archive_of_the_operator() {
    let machines = Machines::new();
    let driver = machines.open().await;
    let mut template = machines.template();
    template.env.insert("SECRET".into(), "first\nline".into());
    let id = SandboxId::new();
    driver.start(&spec(id, template.clone())).await.unwrap();
    // The environment is for the machine alone.
    let initrd = machines.root(id).join("initrd");
    let meta = std::fs::metadata(&initrd).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(!machines.requests(id).join("").contains("SECRET"));
    // Any archive will do; this one has a guest and an environment of its own.
    std::fs::copy(&initrd, machines.path("images/modules")).unwrap();
    driver.remove(id, Duration::ZERO).await.unwrap();

    let mut options = machines.options("firecracker");
    options.initrd = Some(machines.path("images/modules"));
    let driver = FirecrackerDriver::open(options).await.unwrap();
    template.env.insert("SECRET".into(), "second\nline".into());
    let id = SandboxId::new();
    driver.start(&spec(id, template)).await.unwrap();
    let both = std::fs::metadata(machines.root(id).join("initrd")).unwrap();
    assert!(both.len() > meta.len() * 3 / 2);
    let mut guest = Guest::ready(&driver, id).await;
    assert_eq!(guest.shell("echo \"$SECRET\"").await, "second\nline\n");
    driver.remove(id, Duration::ZERO).await.unwrap();
}
