//! Kernels as what is tested: several of them, and each way in which they can end.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Qemu;
use ostler_domain::{KernelEnd, SandboxId, SandboxTemplate};
use ostler_sandbox::conformance::{Guest, Subject, leftovers_on_host};
use ostler_sandbox::console::{Kind, Reader, Report, plain};
use ostler_sandbox::{Driver, DriverStatus, ExitInfo, MachineEnd, SandboxSpec};
use ostler_test_kit::{MachineKernels, require};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Longest wait for something that a machine does.
const LIMIT: Duration = Duration::from_secs(60);

async fn start(driver: &dyn Driver, template: SandboxTemplate) -> (SandboxId, Guest) {
    let id = SandboxId::new();
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let guest = Guest::ready(driver, id).await;
    (id, guest)
}

/// All that is kept of a console.
async fn console(driver: &dyn Driver, id: SandboxId) -> Vec<u8> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let piece = driver.console(id, at).await.unwrap();
        if piece.bytes.is_empty() {
            return all;
        }
        at = piece.start + piece.bytes.len() as u64;
        all.extend(piece.bytes);
    }
}

fn report(console: &[u8]) -> Report {
    let mut reader = Reader::default();
    reader.push(console);
    reader.report()
}

/// Waits until the console says something of that kind.
async fn said(driver: &dyn Driver, id: SandboxId, kind: Kind) -> Report {
    let found = async {
        loop {
            let report = report(&console(driver, id).await);
            if report.count(kind) > 0 {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if let Ok(report) = tokio::time::timeout(LIMIT, found).await {
        return report;
    }
    panic!("no {kind:?} in: {}", plain(&console(driver, id).await));
}

/// Does something in a moment, when the guest has answered.
async fn soon(guest: &mut Guest, script: &str) {
    guest
        .shell(&format!("setsid sh -c 'sleep 0.3; {script}' >/dev/null 2>&1 &"))
        .await;
}

/// Starts a machine, does something that ends it, and returns how it ended and what it said.
async fn ends(subject: &Qemu, kernel: Option<&str>, script: &str) -> (ExitInfo, Vec<u8>) {
    let driver = subject.open().await;
    let mut template = subject.template();
    template.kernel = kernel.map(str::to_owned);
    let (id, mut guest) = start(driver.as_ref(), template).await;
    let mut events = driver.events();
    soon(&mut guest, script).await;
    let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap();
    assert_eq!(event.id, id);
    let status = driver.status(id).await.unwrap();
    assert_eq!(status, DriverStatus::Exited(event.exit.clone()));
    // Also for a server that comes later.
    drop(driver);
    let driver = subject.open().await;
    assert_eq!(driver.status(id).await.unwrap(), status);
    let said = console(driver.as_ref(), id).await;
    driver.remove(id, Duration::ZERO).await.unwrap();
    assert_eq!(leftovers_on_host(id), Vec::<String>::new());
    assert!(
        driver.console(id, 0).await.is_err(),
        "a removed machine has no console"
    );
    (event.exit, said)
}

#[tokio::test]
async fn a_panic_is_told_by_the_machine_and_by_its_console() {
    require!(Qemu);
    let subject = Qemu::new();
    for kernel in &MachineKernels::find().unwrap().versions {
        let (exit, said) = ends(&subject, Some(kernel), "echo c > /proc/sysrq-trigger").await;
        assert_eq!(exit.machine, Some(MachineEnd::Panic), "{kernel}");
        let report = report(&said);
        let panic = report
            .first(Kind::Panic)
            .unwrap_or_else(|| panic!("{kernel}: {}", plain(&said)));
        assert_eq!(panic.text, "sysrq triggered crash", "{kernel}");
        assert!(panic.at_us.unwrap() > 100_000, "{panic:?}");
        assert!(
            panic.trace.iter().any(|line| line.contains("panic+0x")),
            "{panic:?}"
        );
        assert_eq!(report.end(exit.machine), Some(KernelEnd::Panic));
        assert_eq!(report.boot_failure(), None);
    }
}

#[tokio::test]
async fn restart_and_power_off_are_told_apart() {
    require!(Qemu);
    let subject = Qemu::new();
    let reboot = |how: u32| format!("sync; python3 -c \"import ctypes; ctypes.CDLL(None).reboot({how})\"");
    for (how, machine, kind, end) in [
        (0x0123_4567, MachineEnd::Reboot, Kind::Restart, KernelEnd::Reboot),
        (
            0x4321_fedc,
            MachineEnd::PowerOff,
            Kind::PowerOff,
            KernelEnd::Poweroff,
        ),
    ] {
        let (exit, said) = ends(&subject, None, &reboot(how)).await;
        assert_eq!((exit.machine, exit.code), (Some(machine), Some(0)));
        let report = report(&said);
        assert_eq!(report.count(kind), 1, "{}", plain(&said));
        assert_eq!(report.end(exit.machine), Some(end));
        assert_eq!(report.end(None), Some(end), "by the console alone");
    }
}

#[tokio::test]
async fn a_machine_without_memory_says_who_was_killed() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let mut template = subject.template();
    template.memory_mb = 128;
    let (id, mut guest) = start(driver.as_ref(), template).await;
    let hog = "import sys\nkept = []\nwhile True: kept.append(bytearray(1 << 20))";
    let outcome = guest.run(&["python3", "-c", hog]).await;
    assert_eq!(outcome.exited.signal, 9, "{outcome:?}");
    let report = said(driver.as_ref(), id, Kind::OutOfMemory).await;
    let killed = report.first(Kind::OutOfMemory).unwrap();
    let victim = killed.victim.as_ref().unwrap();
    assert!(victim.name.starts_with("python3") && !victim.group, "{killed:?}");
    assert_eq!(report.end(None), Some(KernelEnd::Oom));
    assert_eq!(guest.shell("echo on").await, "on\n", "the machine goes on");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_task_that_hangs_in_the_kernel_is_told() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let mut template = subject.template();
    template.data_drive_mb = Some(32);
    let (id, mut guest) = start(driver.as_ref(), template).await;
    // Whoever writes to a frozen file system waits for ever.
    let freeze = "import fcntl, os; fcntl.ioctl(os.open(\"/data\", os.O_RDONLY), 0xC0045877, 0)";
    let script = format!(
        "cd /proc/sys/kernel; echo 1 > hung_task_timeout_secs; echo 1 > hung_task_check_interval_secs; \
         python3 -c '{freeze}'; setsid touch /data/never >/dev/null 2>&1 &"
    );
    guest.shell(&script).await;
    let report = said(driver.as_ref(), id, Kind::Hang).await;
    let hang = report.first(Kind::Hang).unwrap();
    assert!(hang.text.contains("task touch:"), "{hang:?}");
    assert_eq!(report.end(None), Some(KernelEnd::Hang));
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_hangs_altogether_runs_and_does_not_answer() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let (id, mut guest) = start(driver.as_ref(), subject.template()).await;
    let spin = "import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))\nwhile True: pass";
    let script = format!(
        "echo -1 > /proc/sys/kernel/sched_rt_runtime_us; setsid python3 -c '{spin}' >/dev/null 2>&1 &"
    );
    guest.shell(&script).await;
    let silent = async {
        while guest.health(Duration::from_secs(2)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, silent).await.unwrap();
    assert_eq!(driver.status(id).await.unwrap(), DriverStatus::Running);
    let report = report(&console(driver.as_ref(), id).await);
    assert_eq!(report.count(Kind::Panic), 0);
    assert!(
        matches!(report.end(None), None | Some(KernelEnd::Hang)),
        "{report:?}"
    );
    driver.remove(id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(leftovers_on_host(id), Vec::<String>::new());
}

#[tokio::test]
async fn an_oops_is_told_and_the_machine_goes_on() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let (id, mut guest) = start(driver.as_ref(), subject.template()).await;
    let mut encoded = String::new();
    for byte in broken_module(&subject.module("kernel/drivers/misc/pvpanic/pvpanic-pci.ko")) {
        let _ = write!(encoded, "{byte:02x}");
    }
    for chunk in encoded.as_bytes().chunks(50_000) {
        let chunk = String::from_utf8_lossy(chunk);
        guest.shell(&format!("printf %s {chunk} >> /tmp/module")).await;
    }
    let insert = "import ctypes, os\n\
         open('/tmp/m.ko', 'wb').write(bytes.fromhex(open('/tmp/module').read()))\n\
         ctypes.CDLL(None, use_errno=True).syscall(313, os.open('/tmp/m.ko', os.O_RDONLY), b'', 0)\n\
         print(ctypes.get_errno())";
    let outcome = guest.run(&["python3", "-c", insert]).await;
    assert_ne!(
        outcome.exited.signal, 0,
        "it is killed in the kernel: {outcome:?}"
    );
    let report = said(driver.as_ref(), id, Kind::Oops).await;
    let oops = report.first(Kind::Oops).unwrap();
    assert_eq!(report.count(Kind::Oops), 1, "{report:?}");
    assert!(oops.text.starts_with("invalid opcode: 0000 [#1]"), "{oops:?}");
    assert!(
        oops.trace.iter().any(|line| line.contains("do_init_module+0x")),
        "{oops:?}"
    );
    assert_eq!(report.end(None), Some(KernelEnd::Oops));
    assert_eq!(guest.shell("echo on").await, "on\n");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

/// A module whose first function begins with an instruction that no processor has.
fn broken_module(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    // Without its signature, which would not hold any more: the length of that is told before the mark.
    if let Some(signed) = bytes.strip_suffix(b"~Module signature appended~\n") {
        let (rest, length) = signed.split_last_chunk::<4>().unwrap();
        let length = rest.len() - 8 - u32::from_be_bytes(*length) as usize;
        bytes.truncate(length);
    }
    let number = |at: usize, length: usize| {
        let part = &bytes[at..at + length];
        part.iter()
            .rev()
            .fold(0usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    // The headers of sections (ELF, 64 bits, little endian): 64 bytes each, the names in one of them.
    let (table, count, names) = (number(0x28, 8), number(0x3c, 2), number(0x3e, 2));
    let place = |section: usize| number(table + section * 64 + 0x18, 8);
    let is_init = |section: &usize| {
        let name = place(names) + number(table + section * 64, 4);
        bytes[name..].starts_with(b".init.text\0")
    };
    let mut at = place((0..count).find(is_init).unwrap());
    // What tracing looks at stays as it is: a mark for indirect jumps, and a call.
    for skipped in [b"\xf3\x0f\x1e\xfa".as_slice(), b"\xe8\0\0\0\0"] {
        if bytes[at..].starts_with(skipped) {
            at += skipped.len();
        }
    }
    bytes[at..at + 2].copy_from_slice(b"\x0f\x0b");
    bytes
}

#[tokio::test]
async fn kernels_of_the_catalogue_boot_by_name_and_by_version() {
    require!(Qemu);
    let subject = Qemu::new();
    let kernels = MachineKernels::find().unwrap();
    let mut options = subject.options();
    options.kernel_dir.clone_from(&kernels.dir);
    let (old, new) = (&kernels.versions[0], kernels.versions.last().unwrap());
    options.kernels.insert(
        "named".into(),
        ostler_driver_qemu::KernelFile {
            image: kernels.image(new),
            modules: Some(kernels.modules.clone()),
        },
    );
    let driver = subject.with(options).await;
    let offered = &driver.capabilities().kernels;
    assert_eq!(offered.len(), kernels.versions.len() + 1, "{offered:?}");
    let series = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    for (wanted, prefix) in [
        (old.clone(), old.clone()),
        ("named".to_owned(), new.clone()),
        (series(new), format!("{}.", series(new))),
        (kernels.image(old).display().to_string(), old.clone()),
    ] {
        let mut template = subject.template();
        template.kernel = Some(wanted.clone());
        let (id, mut guest) = start(driver.as_ref(), template).await;
        let runs = guest.shell("uname -r").await;
        assert!(runs.starts_with(&prefix), "{wanted}: {runs}");
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
    let mut template = subject.template();
    template.kernel = Some("4.4".into());
    let refused = driver.check(&template).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("there is no kernel 4.4: there are {}", offered[0].name)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_kernel_that_does_not_boot_is_told_apart() {
    require!(Qemu);
    let subject = Qemu::new();
    let driver = subject.open().await;
    let kernels = MachineKernels::find().unwrap();
    let image = kernels.image(&kernels.versions[0]);

    // It is none.
    let text = subject.state().join("text");
    std::fs::write(&text, "no kernel").unwrap();
    let mut template = subject.template();
    template.kernel = Some(text.display().to_string());
    let spec = SandboxSpec::new(SandboxId::new(), template.clone());
    let error = driver.start(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains("text is no kernel: it begins neither like a bzImage"),
        "{error}"
    );
    assert_eq!(driver.status(spec.id).await.unwrap(), DriverStatus::Gone);

    // It has nothing to start: the driver is told by the machine, before any module could be loaded.
    let mut events = driver.events();
    template.kernel = Some(image.display().to_string());
    template.kernel_args = Some("rdinit=/none init=/none".into());
    let spec = SandboxSpec::new(SandboxId::new(), template.clone());
    driver.start(&spec).await.unwrap();
    let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap();
    assert_eq!(event.exit.machine, Some(MachineEnd::Panic));
    let said = console(driver.as_ref(), spec.id).await;
    let report = report(&said);
    let why = report
        .boot_failure()
        .unwrap_or_else(|| panic!("{}", plain(&said)));
    assert!(why.text.contains("init") || why.text.contains("root fs"), "{why}");
    let error = driver.connect(spec.id).await.err().unwrap().to_string();
    assert!(
        error.contains("its machine has ended: its kernel panicked; its console ends with: "),
        "{error}"
    );
    assert!(error.contains("Kernel panic - not syncing"), "{error}");
    driver.remove(spec.id, Duration::ZERO).await.unwrap();

    // It is one that is damaged: nobody ever answers.
    let mut bytes = std::fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0x55);
    let damaged = subject.state().join("damaged");
    std::fs::write(&damaged, bytes).unwrap();
    template.kernel = Some(damaged.display().to_string());
    template.kernel_args = Some("earlyprintk=serial".into());
    let spec = SandboxSpec::new(SandboxId::new(), template);
    driver.start(&spec).await.unwrap();
    let found = self::said(driver.as_ref(), spec.id, Kind::BootFailure).await;
    assert!(found.boot_failure().is_some());
    let error = driver.connect(spec.id).await.err().unwrap().to_string();
    assert!(
        error.contains("does not answer") && error.contains("System halted"),
        "{error}"
    );
    driver.remove(spec.id, Duration::ZERO).await.unwrap();
    assert_eq!(leftovers_on_host(spec.id), Vec::<String>::new());
}
