//! What only machines have: drives, a network of their own, snapshots, a kernel that may not start.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Qemu;
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::conformance::{Guest, Subject, eventually, leftovers_on_host};
use ostler_sandbox::{Driver, DriverStatus, SandboxSpec};
use ostler_test_kit::require;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

async fn start(driver: &dyn Driver, template: SandboxTemplate) -> (SandboxId, Guest) {
    let id = SandboxId::new();
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let guest = Guest::ready(driver, id).await;
    (id, guest)
}

#[tokio::test]
async fn drives_are_as_large_as_asked_and_the_original_stays_as_it_is() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let mut template = subject.template();
    let original = template.root_drive.clone().unwrap();
    let changed = || std::fs::metadata(&original).unwrap().mtime_nsec();
    let before = changed();
    let size_mb = std::fs::metadata(&original).unwrap().len() >> 20;
    template.disk_mb = Some(size_mb * 2);
    template.data_drive_mb = Some(64);
    template.cpus = 2;
    let (id, mut guest) = start(driver.as_ref(), template).await;
    let sizes = guest
        .shell("df --output=size -m / /data | tail -n 2; echo x > /data/file; echo y > /etc/new")
        .await;
    let sizes: Vec<u64> = sizes.split_whitespace().map(|s| s.parse().unwrap()).collect();
    assert!(
        sizes[0] > size_mb * 3 / 2,
        "the file system did not grow: {sizes:?} of {size_mb}"
    );
    assert!((40..64).contains(&sizes[1]), "{sizes:?}");
    guest
        .shell("dd if=/dev/zero of=/data/large bs=1M count=20 conv=fsync")
        .await;

    assert_eq!(guest.shell("nproc").await, "2\n");
    // More than fits on its way at a time.
    let numbers = guest.shell("seq 1 200000").await;
    assert!(
        (1..=200_000)
            .map(|n| n.to_string())
            .eq(numbers.lines().map(str::to_owned))
    );

    let usage = driver.usage(id).await.unwrap();
    assert!(
        usage.cpu_us.unwrap() > 100_000 && usage.memory_bytes.unwrap() > 50 << 20,
        "{usage:?}"
    );
    assert!(
        usage.written_bytes.unwrap() > 20 << 20 && usage.read_bytes.unwrap() > 1 << 20,
        "{usage:?}"
    );

    let qemu = std::fs::metadata(format!("/proc/{}", subject.pid(id)))
        .unwrap()
        .uid();
    if nix::unistd::geteuid().is_root() {
        assert!(qemu >= 0x7200_0000, "QEMU runs as {qemu}");
    }
    driver.remove(id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(changed(), before, "the original was written to");
}

#[tokio::test]
async fn an_open_network_is_configured_and_others_have_no_interface() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let mut template = subject.template();
    template.network = NetworkPolicy::Open;
    let (id, mut guest) = start(driver.as_ref(), template.clone()).await;
    let routes = guest.shell("cat /proc/net/route; cat /etc/resolv.conf").await;
    assert!(
        routes.contains("0202000A") && routes.contains("10.0.2.3"),
        "{routes}"
    );
    // The host, seen from inside; nothing leaves this machine.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("import socket; socket.create_connection((\"10.0.2.2\", {port}), 20)");
    let program = ["python3", "-c", &script];
    let (accepted, connected) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(30), listener.accept()),
        guest.run(&program),
    );
    assert_eq!(connected.exited.code, 0, "{connected:?}");
    accepted.unwrap().unwrap();
    driver.remove(id, Duration::ZERO).await.unwrap();

    template.network = NetworkPolicy::Filtered;
    let (id, mut guest) = start(driver.as_ref(), template).await;
    let devices = guest.shell("cat /proc/net/dev").await;
    assert!(!devices.contains("eth0"), "{devices}");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_machine_asked_to_end_does_so_in_its_grace() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let (id, _guest) = start(driver.as_ref(), subject.template()).await;
    let mut events = driver.events();
    let begun = Instant::now();
    driver.remove(id, Duration::from_secs(50)).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(40),
        "it was killed: {:?}",
        begun.elapsed()
    );
    assert!(events.try_recv().is_err(), "a removal was announced as a crash");
    assert_eq!(driver.status(id).await.unwrap(), DriverStatus::Gone);
}

#[tokio::test]
async fn a_snapshot_goes_on_where_it_was_taken_as_often_as_wanted() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let mut template = subject.template();
    template.data_drive_mb = Some(32);
    let (id, mut guest) = start(driver.as_ref(), template.clone()).await;
    // A process, a file in memory and files on both drives.
    guest.shell("echo memory > /run/m; echo root > /etc/m; echo data > /data/m; setsid sleep 12345 >/dev/null 2>&1 &").await;
    driver.snapshot(id, "ready").await.unwrap();
    assert_eq!(
        guest.shell("echo on").await,
        "on\n",
        "the original does not go on"
    );
    guest.shell("echo later > /etc/m").await;
    assert_eq!(driver.snapshots().await.unwrap(), ["ready"]);
    let again = driver.snapshot(id, "ready").await.unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");

    template.snapshot = Some("ready".into());
    let begun = Instant::now();
    let (first, mut one) = start(driver.as_ref(), template.clone()).await;
    let took = begun.elapsed();
    let (second, mut two) = start(driver.as_ref(), template.clone()).await;
    for copy in [&mut one, &mut two] {
        let seen = copy
            .shell("cat /run/m /etc/m /data/m; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .await;
        assert!(
            seen.starts_with("memory\nroot\ndata\n") && seen.contains("sleep 12345"),
            "{seen}"
        );
    }
    one.shell("echo one > /etc/m").await;
    assert_eq!(two.shell("cat /etc/m").await, "root\n", "copies share a drive");
    assert!(took < Duration::from_secs(30), "restored in {took:?}");

    let mut other = template.clone();
    other.memory_mb += 64;
    let refused = driver
        .start(&SandboxSpec::new(SandboxId::new(), other))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("MiB of memory: 256 and not 320"), "{refused}");
    for id in [id, first, second] {
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
    driver.remove_snapshot("ready").await.unwrap();
    driver.remove_snapshot("ready").await.unwrap();
    assert!(!subject.state().join("snapshots").exists());
    let gone = driver
        .start(&SandboxSpec::new(SandboxId::new(), template))
        .await
        .unwrap_err()
        .to_string();
    assert!(gone.contains("no snapshot named ready"), "{gone}");
}

#[tokio::test]
async fn a_snapshot_cut_off_with_its_server_leaves_a_machine_that_goes_on() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let (id, guest) = start(driver.as_ref(), subject.template()).await;
    // What a server leaves that is killed in the middle.
    std::fs::write(subject.dir(id).join("snapshot"), "half").unwrap();
    let half = subject.state().join("snapshots/.half");
    std::fs::create_dir_all(&half).unwrap();
    driver.pause(id).await.unwrap();
    drop((driver, guest));

    let driver = subject.open().await;
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell("echo on").await, "on\n");
    assert!(!half.exists() && !subject.dir(id).join("snapshot").exists());
    assert!(driver.snapshots().await.unwrap().is_empty());
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_keeps_a_machine_from_starting_is_told() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let spec = |change: &dyn Fn(&mut SandboxTemplate)| {
        let mut template = subject.template();
        change(&mut template);
        SandboxSpec::new(SandboxId::new(), template)
    };
    let refused = async |change: &dyn Fn(&mut SandboxTemplate), why: &str| {
        let spec = spec(change);
        let error = driver.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains(why), "no `{why}` in: {error}");
        assert_eq!(driver.status(spec.id).await.unwrap(), DriverStatus::Gone);
        assert_eq!(leftovers_on_host(spec.id), Vec::<String>::new());
    };
    refused(&|t| t.root_drive = None, "a root drive is needed").await;
    refused(
        &|t| t.root_drive = Some("/no/such/drive".into()),
        "/no/such/drive",
    )
    .await;
    refused(&|t| t.disk_mb = Some(1), "less than").await;
    refused(&|t| t.memory_mb = 64, "at least 128 MiB").await;
    refused(
        &|t| t.kernel = Some("/no/such/kernel".into()),
        "its kernel cannot be used: /no/such/kernel",
    )
    .await;
    let text = subject.state().join("text");
    std::fs::write(&text, "no kernel").unwrap();
    refused(&|t| t.kernel = Some(text.display().to_string()), "is no kernel").await;

    // A drive without a file system: the machine starts, says why it ends, and ends.
    let drive = subject.state().join("drive");
    std::fs::write(&drive, vec![0x55; 8 << 20]).unwrap();
    let mut events = driver.events();
    let broken = spec(&|t| t.root_drive = Some(drive.display().to_string()));
    driver.start(&broken).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(60), events.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.id, broken.id);
    let error = driver.connect(broken.id).await.err().unwrap().to_string();
    assert!(
        error.contains("the drive vda cannot be mounted as ext4"),
        "{error}"
    );
    driver.remove(broken.id, Duration::from_secs(1)).await.unwrap();

    // A kernel that waits for ever: nobody answers, at once, and it is removed all the same.
    let silent = spec(&|t| {
        t.kernel_args = Some("initcall_debug=0 rdinit=/no/such/init root=/dev/none rootwait".into());
    });
    driver.start(&silent).await.unwrap();
    let begun = Instant::now();
    let error = driver.connect(silent.id).await.err().unwrap().to_string();
    assert!(error.contains("does not answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    driver.remove(silent.id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(leftovers_on_host(silent.id), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_missing_is_found_with_what_mends_it() {
    require!(Qemu);
    let subject = Qemu::new();
    let all = subject.open().await.probe().await;
    assert!(all.iter().all(|f| f.ok), "{all:#?}");
    assert!(
        all.iter()
            .any(|f| f.subject == "processors" && f.detail.contains("started in")),
        "{all:#?}"
    );
    let mut options = subject.options();
    options.qemu = "/no/such/qemu".into();
    options.qemu_img = "/no/such/qemu-img".into();
    options.kernel = Some("/no/such/kernel".into());
    let bad = subject.with(options).await.probe().await;
    for (subject, mends) in [
        ("QEMU", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("kernel", "/no/such/kernel"),
    ] {
        let found = bad.iter().find(|f| f.subject == subject).unwrap();
        assert!(!found.ok && found.detail.contains(mends), "{found:?}");
    }
}

/// Where the part that is killed finds the state it is to work on.
const VICTIM: &str = "OSTLER_TEST_VICTIM";

/// Not a test of its own: the part that is killed, started by the test below.
#[tokio::test]
async fn victim() {
    let Some(state) = std::env::var_os(VICTIM) else {
        return;
    };
    let subject = Qemu::at(state.into());
    let driver = subject.open().await;
    loop {
        let id = SandboxId::new();
        driver
            .start(&SandboxSpec::new(id, subject.template()))
            .await
            .unwrap();
        if let Ok(stream) = driver.connect(id).await {
            drop(stream);
        }
    }
}

#[tokio::test]
async fn machines_of_a_killed_server_are_adopted_or_removed() {
    require!(Qemu);
    let subject = Qemu::new();
    // What the trial finds out is not to be found out by the victim.
    subject.open().await.probe().await;
    let mut adopted = 0;
    for round in 0..6u64 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact"])
            .env(VICTIM, subject.state())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(60 + round * 250)).await;
        // The last one gets as long as it takes to have a machine.
        let complete = || {
            let mut machines = std::fs::read_dir(subject.state()).unwrap().filter_map(Result::ok);
            machines.any(|dir| {
                let note = std::fs::read_to_string(dir.path().join("process.json"));
                note.is_ok_and(|text| text.contains("\"complete\":true"))
            })
        };
        assert!(
            eventually(async || round < 5 || complete()).await,
            "no machine starts"
        );
        victim.kill().unwrap();
        victim.wait().unwrap();
        let driver = subject.open().await;
        for id in driver.list().await.unwrap() {
            // One of a complete start goes on.
            if driver.status(id).await.unwrap() == DriverStatus::Running && adopted == 0 && round == 5 {
                let mut guest = Guest::ready(driver.as_ref(), id).await;
                assert_eq!(guest.shell("echo on").await, "on\n");
                adopted += 1;
            }
            driver.remove(id, Duration::ZERO).await.unwrap();
            let clean = eventually(async || {
                leftovers_on_host(id).is_empty() && subject.leftovers(id).await.is_empty()
            });
            assert!(clean.await, "round {round}: {:?}", leftovers_on_host(id));
        }
    }
    assert_eq!(adopted, 1, "no machine of a killed server went on");
}
