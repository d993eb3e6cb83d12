//! What programs in a sandbox may ask of the kernel, how much disk they get, and what is counted of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use ostler_domain::SandboxId;
use ostler_driver_process::Mode;
use ostler_sandbox::conformance::{Guest, Subject, eventually, leftovers_on_host};
use ostler_sandbox::{Driver, SandboxSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn start(subject: &Process, disk_mb: Option<u64>) -> (Arc<dyn Driver>, SandboxId, Guest) {
    let driver = subject.open().await;
    let mut template = subject.template();
    template.disk_mb = disk_mb;
    let id = SandboxId::new();
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let guest = Guest::ready(driver.as_ref(), id).await;
    (driver, id, guest)
}

/// Calls the kernel with harmless arguments and prints the error of each.
#[cfg(target_arch = "x86_64")]
const CALLS: &str = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    arguments = [ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(name, errno.errorcode.get(ctypes.get_errno(), "ok" if result >= 0 else "?"))
call("getpid", 39)
call("clone_newuser", 56, 0x10000000 | 17, 0)
call("clone_newnet", 56, 0x40000000 | 17, 0)
call("clone3", 435, 0, 0)
call("unshare", 272, 0x10000000)
call("unshare_files", 272, 0x400)
call("setns", 308, -1, 0)
call("mount", 165, 0, 0, 0, 0, 0)
call("fsopen", 430, 0, 0)
call("keyctl", 250, 0, -3, 0)
call("bpf", 321, 0, 0, 0)
call("perf_event_open", 298, 0, 0, -1, -1, 0)
call("userfaultfd", 323, 0)
call("io_uring_setup", 425, 1, 0)
call("vsock", 41, 40, 1, 0)
call("unix_socket", 41, 1, 1, 0)
call("kexec_load", 246, 0, 0, 0, 0)
call("reboot", 169, 0, 0, 0, 0)
call("clock_settime", 227, 0, 0)
call("x32_getpid", 0x40000000 | 39)
call("x32_mount", 0x40000000 | 165, 0, 0, 0, 0, 0)
"#;

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn dangerous_calls_are_refused_whoever_the_server_is() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let (driver, id, mut guest) = start(&subject, None).await;
    let said = guest.shell(&format!("/usr/bin/python3 -c '{CALLS}'")).await;
    for line in said.lines() {
        let (name, answer) = line.split_once(' ').unwrap();
        let wanted = match name {
            "getpid" | "unix_socket" => "ok",
            "clone3" | "x32_getpid" | "x32_mount" => "ENOSYS",
            _ => "EPERM",
        };
        assert_eq!(answer, wanted, "{name}");
    }
    assert_eq!(said.lines().count(), 21, "{said}");
    let made = guest.run(&["unshare", "--user", "--map-root-user", "true"]).await;
    assert_ne!(made.exited.code, 0, "{made:?}");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn usual_programs_work_all_the_same() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let (driver, id, mut guest) = start(&subject, None).await;
    let said = guest
        .shell(
            "git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git log --format=%s
             /usr/bin/python3 -c 'import subprocess, threading, multiprocessing
t = threading.Thread(target=print, args=(\"thread\",)); t.start(); t.join()
print(subprocess.check_output([\"echo\", \"child\"], text=True).strip())
multiprocessing.Process(target=print, args=(\"process\",)).start()'
             if command -v node >/dev/null; then
                 node -e 'require(\"fs\").readFile(\"/etc/passwd\", () => {
                     console.log(require(\"child_process\").execSync(\"echo node\").toString().trim()) })'
             else echo node; fi
             mkfifo p; (echo fifo > p &); cat p; tar c p | tar t; setsid sh -c 'echo session'",
        )
        .await;
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(
        said,
        [
            "one", "thread", "child", "process", "node", "fifo", "p", "session"
        ]
    );
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn the_disk_is_limited_or_the_limit_refused() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    if !subject.open().await.capabilities().disk_limit {
        let mut template = subject.template();
        template.disk_mb = Some(64);
        assert!(subject.open().await.check(&template).is_err());
        return;
    }
    let begun = Instant::now();
    let (driver, id, mut guest) = start(&subject, Some(64)).await;
    println!("a start with a disk of its own: {:?}", begun.elapsed());
    let full = guest
        .run(&["dd", "if=/dev/zero", "of=/workspace/big", "bs=1M", "count=200"])
        .await;
    assert_ne!(full.exited.code, 0, "{full:?}");
    // The three share it, and with what is removed there is room again.
    assert_ne!(
        guest
            .run(&["dd", "if=/dev/zero", "of=/tmp/more", "bs=1M", "count=30"])
            .await
            .exited
            .code,
        0
    );
    guest
        .shell("rm /workspace/big /tmp/more; echo there > /tmp/a; echo there > $HOME/b")
        .await;
    assert_eq!(guest.shell("cat /var/tmp/a $HOME/b").await, "there\nthere\n");
    let image = subject.state().join(id.to_string()).join("disk.img");
    assert!(image.exists());
    driver.remove(id, Duration::ZERO).await.unwrap();
    let loops = || {
        std::process::Command::new("losetup")
            .arg("-a")
            .output()
            .unwrap()
            .stdout
    };
    let clean = eventually(async || {
        let loops = String::from_utf8(loops()).unwrap();
        leftovers_on_host(id).is_empty() && !loops.contains(&id.to_string())
    });
    assert!(clean.await, "{:?}", leftovers_on_host(id));
    let mut template = subject.template();
    template.disk_mb = Some(1);
    assert!(
        driver
            .check(&template)
            .unwrap_err()
            .to_string()
            .contains("16 MiB")
    );
}

#[tokio::test]
async fn what_was_used_is_counted() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let (driver, id, mut guest) = start(&subject, None).await;
    let before = driver.usage(id).await.unwrap();
    guest
        .shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
        .await;
    let after = driver.usage(id).await.unwrap();
    assert_eq!(after.received_bytes, None, "it has no interface");
    if driver.capabilities().memory_limit {
        assert!(after.memory_bytes.unwrap() > 100_000, "{after:?}");
        assert!(after.processes.unwrap() >= 1, "{after:?}");
        let used = after.cpu_us.unwrap() - before.cpu_us.unwrap();
        assert!((20_000..60_000_000).contains(&used), "{used} us");
    }
    driver.remove(id, Duration::ZERO).await.unwrap();
    assert!(driver.usage(id).await.is_err());
}

#[tokio::test]
async fn devices_are_refused_unless_allowed() {
    let subject = Process::new(Mode::Auto);
    let driver = subject.open().await;
    let mut template = subject.template();
    template.devices = ["kvm".to_owned()].into();
    let refused = driver.check(&template).unwrap_err().to_string();
    assert!(refused.contains("the device kvm: it offers none"), "{refused}");
}

#[tokio::test]
async fn devices_are_given_where_the_settings_allow_them() {
    ostler_test_kit::require!(Bubblewrap);
    let is_device = |name: &&str| {
        let found = std::fs::metadata(std::path::Path::new("/dev").join(name));
        found.is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_char_device(&m.file_type()))
    };
    // Any that a sandbox does not have by itself; every host has the last.
    let given = ["fuse", "kvm", "kmsg"].into_iter().find(is_device).unwrap();
    let mut subject = Process::new(Mode::Namespaces);
    let (_, id, mut guest) = start(&subject, None).await;
    let look = format!("stat -c %F /dev/{given} 2>&1 || true");
    assert!(guest.shell(&look).await.contains("No such file"));
    subject.open().await.remove(id, Duration::ZERO).await.unwrap();

    // What is no device, or no name, is not offered, whatever the settings say.
    subject.devices = vec![given, "no-such-device", "net/tun", "..", "", "fd", "shm"];
    let driver = subject.open().await;
    let offered: Vec<String> = driver.capabilities().devices.iter().cloned().collect();
    assert_eq!(offered, [given]);
    let mut template = subject.template();
    template.devices = ["no-such-device".to_owned()].into();
    let refused = driver.check(&template).unwrap_err().to_string();
    let wanted = format!("the device no-such-device: it offers {given}");
    assert!(refused.contains(&wanted), "{refused}");
    template.devices = [given.to_owned()].into();
    let id = SandboxId::new();
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell(&look).await.trim(), "character special file");
    driver.remove(id, Duration::ZERO).await.unwrap();
}
