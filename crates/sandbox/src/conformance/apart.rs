//! What an isolated program can do to others in its sandbox: nothing.

use super::guest::request;
use super::{Guest, Outcome, Subject, eventually};
use crate::SandboxSpec;
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_guest_protocol::v1::{Isolation, StartRequest};
use std::time::Duration;

/// Has what others could reach, and waits. The argument is the port.
const HAS: &str = r#"
import ctypes, os, socket, sys, time
for place in ("/tmp", "/var/tmp", "/dev/shm", "/workspace", os.environ["HOME"]):
    try:
        open(place + "/apart-" + sys.argv[1], "w").write("secret")
    except OSError:
        # Not everybody may write everywhere.
        pass
name = socket.socket(socket.AF_UNIX)
name.bind("\0apart-" + sys.argv[1])
name.listen()
port = socket.create_server(("127.0.0.1", int(sys.argv[1])))
ctypes.CDLL(None).shmget(int(sys.argv[1]), 4096, 0o1666)
print("ready", flush=True)
time.sleep(600)
"#;

/// Tries to reach that, and what looks after it; prints what it could. The arguments are the ports.
const REACHES: &str = r#"
import ctypes, glob, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
own = os.getpid()
tried = 0

def way(name, attempt):
    global tried
    tried += 1
    try:
        if attempt():
            print("reached", name)
    except (OSError, ValueError):
        pass

def connects(family, address):
    with socket.socket(family) as stream:
        stream.settimeout(2)
        stream.connect(address)
        return True

for port in sys.argv[1:]:
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/workspace", os.environ["HOME"]):
        way(place, lambda: os.path.exists(place + "/apart-" + port))
    way("a named socket", lambda: connects(socket.AF_UNIX, "\0apart-" + port))
    way("a port", lambda: connects(socket.AF_INET, ("127.0.0.1", int(port))))
    way("shared memory", lambda: libc.shmget(int(port), 4096, 0) >= 0)

others = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != own]
way("processes", lambda: [pid for pid in others if b"apart-" in open(f"/proc/{pid}/cmdline", "rb").read()])
for pid in others:
    way(f"the environment of {pid}", lambda: open(f"/proc/{pid}/environ", "rb").read())
    way(f"the memory of {pid}", lambda: open(f"/proc/{pid}/mem", "rb"))
    for name in ("root", "cwd", "map_files"):
        way(f"{name} of {pid}", lambda: os.listdir(f"/proc/{pid}/{name}"))
    # Whoever is root of a container sees how many there are, and not what.
    fds = f"/proc/{pid}/fd"
    way(f"fd of {pid}", lambda: [os.readlink(fds + "/" + fd) for fd in os.listdir(fds)])
    way(f"ptrace of {pid}", lambda: libc.ptrace(0x4206, pid, 0, 0) == 0)
    handle = libc.syscall(434, pid, 0)
    for fd in range(16):
        way(f"descriptor {fd} of {pid}", lambda: libc.syscall(438, handle, fd, 0) >= 0)
    for space in ("user", "mnt", "net", "pid", "ipc", "uts"):
        way(f"namespace {space} of {pid}", lambda: libc.setns(os.open(f"/proc/{pid}/ns/{space}", 0), 0) == 0)

for space in (0x10000000, 0x20000, 0x40000000):
    way(f"a namespace of its own, {space:x}", lambda: libc.unshare(space) == 0)
way("a mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0) == 0)
way("an end of a mount", lambda: libc.umount2(b"/proc", 2) == 0)
way("the guest's directory", lambda: os.listdir(os.path.dirname(os.environ["OSTLER_CONTROL"])))
for path in (os.environ["OSTLER_CONTROL"], os.path.dirname(os.environ["OSTLER_CONTROL"]) + "/guest.sock"):
    way(path, lambda: connects(socket.AF_UNIX, path))
way("the hypervisor", lambda: socket.socket(40, socket.SOCK_STREAM))
way("the whole kernel", lambda: open("/proc/sys/kernel/core_pattern", "w"))
print("tried", tried)
"#;

fn python(script: &str, ports: &[&str], apart: bool) -> StartRequest {
    let argv = [&["/usr/bin/python3", "-c", script], ports].concat();
    StartRequest {
        isolation: apart.then(Isolation::default),
        ..request(&argv)
    }
}

/// Neither other programs, isolated or not, nor what starts them can be reached by an isolated program. The sandbox needs
/// Python, and the filter of system calls.
pub async fn isolated_programs_cannot_reach_each_other(subject: &dyn Subject, template: SandboxTemplate) {
    let driver = subject.open().await;
    let id = SandboxId::new();
    if let Err(error) = driver.start(&SandboxSpec::new(id, template)).await {
        panic!("starting: {error}");
    }
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    let told = guest.configure().await;
    assert!(told.can_isolate, "{}", told.cannot_isolate);
    let mut victims = Vec::new();
    for (port, apart) in [("7201", true), ("7202", false)] {
        let exec = guest.start(python(HAS, &[port], apart)).await;
        let mut outcome = Outcome::default();
        let (_, ended) = guest
            .read(&exec, 1, &mut outcome, |seen| seen.stdout.contains("ready"))
            .await;
        assert!(!ended && outcome.stdout == "ready\n", "{outcome:?}");
        victims.push(exec);
    }
    // What of the one that is not isolated is in the workspace, isolated ones may read.
    guest.shell("rm /workspace/apart-7202 $HOME/apart-7202").await;
    let outcome = guest.run_with(python(REACHES, &["7201", "7202"], true)).await;
    assert_eq!(
        (outcome.exited.code, outcome.stderr.as_str()),
        (0, ""),
        "{outcome:?}"
    );
    let said: Vec<&str> = outcome.stdout.lines().collect();
    let tried = said.last().and_then(|last| last.strip_prefix("tried "));
    let tried: usize = tried.and_then(|tried| tried.parse().ok()).unwrap_or_default();
    assert!(said.len() == 1 && tried > 50, "{}", outcome.stdout);
    // The same finds what there is to find, where nothing holds it back.
    let outcome = guest.run_with(python(REACHES, &["7201", "7202"], false)).await;
    for wanted in ["reached a port\n", "reached a named socket\n", "guest.sock\n"] {
        assert!(outcome.stdout.contains(wanted), "{}", outcome.stdout);
    }
    for exec in victims {
        assert!(guest.kill(&exec, Duration::ZERO).await, "it was ended by another");
    }
    if let Err(error) = driver.remove(id, Duration::ZERO).await {
        panic!("removing: {error}");
    }
    assert!(eventually(async || subject.leftovers(id).await.is_empty()).await);
}
