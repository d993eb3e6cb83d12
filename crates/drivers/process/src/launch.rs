//! Starting bubblewrap (or a plain guest) detached from this process.

use crate::bubblewrap::{self, Bubblewrap};
use crate::layout::{SandboxDir, Started};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_host_network::Slot;
use ostler_sandbox::cgroup::Group;
use ostler_sandbox::detached;
use ostler_sandbox::process::{Identity, boot_id, stat};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// How long the guest's socket is waited for before the start counts as done anyway.
const READY_LIMIT: Duration = Duration::from_secs(3);
const READY_STEP: Duration = Duration::from_micros(500);

/// Starts the sandbox's processes in namespaces and returns them.
pub(crate) async fn namespaces(
    bubblewrap: &Bubblewrap,
    id: SandboxId,
    template: &SandboxTemplate,
    guest: &Path,
    dir: &SandboxDir,
    group: &Group,
    slot: Option<&Slot>,
) -> io::Result<Started> {
    let user = bubblewrap.user(id, template).map_err(io::Error::other)?;
    bubblewrap::prepare(id, dir, user, slot)?;
    let arguments = arguments_file(bubblewrap.arguments(id, dir, template, guest, slot))?;
    let network = slot.map(|s| File::open(&s.namespace)).transpose()?;
    let (info, info_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let status = append(dir, "bwrap.json")?;

    let mut command = Command::new(&bubblewrap.program);
    command
        .args(["--args", &arguments.as_raw_fd().to_string()])
        .args(["--info-fd", &info_end.as_raw_fd().to_string()])
        .args(["--json-status-fd", &status.as_raw_fd().to_string(), "--"])
        .args(Bubblewrap::command(user, template))
        .env_clear()
        .env(detached::MARKER, id.to_string());
    let passed = [arguments.as_raw_fd(), info_end.as_raw_fd(), status.as_raw_fd()];
    let mut child = spawn(command, dir, group, passed.to_vec(), network)?;
    drop((arguments, info_end, status));

    let first = first_process(info, &mut child, dir).await;
    let monitor = child.id().and_then(|pid| Identity::of(pid as i32));
    reap(child, None);
    let (guest, monitor) = (first?, monitor.ok_or_else(|| ended(dir))?);
    let started = Started {
        boot: boot_id(),
        monitor,
        guest,
    };
    dir.write_started(&started)?;
    ready(&started, dir).await?;
    Ok(started)
}

/// Starts the guest as a plain process of the server's user.
pub(crate) async fn plain(
    id: SandboxId,
    template: &SandboxTemplate,
    guest: &Path,
    dir: &SandboxDir,
    group: &Group,
) -> io::Result<Started> {
    for name in ["run", "workspace", "home", "tmp"] {
        std::fs::create_dir(dir.join(name))?;
    }
    let home = dir.join("home").display().to_string();
    let mut command = Command::new(guest);
    command
        .args(crate::driver::guest_arguments(
            &dir.join("run"),
            &dir.join("workspace"),
        ))
        .env_clear()
        .env("TMPDIR", dir.join("tmp"))
        .envs(bubblewrap::environment(id, template, &home))
        .current_dir(dir.join("workspace"));
    let child = spawn(command, dir, group, Vec::new(), None)?;
    let guest = child.id().and_then(|pid| Identity::of(pid as i32));
    reap(child, Some(dir.clone()));
    let guest = guest.ok_or_else(|| ended(dir))?;
    let started = Started {
        boot: boot_id(),
        monitor: guest,
        guest,
    };
    dir.write_started(&started)?;
    ready(&started, dir).await?;
    Ok(started)
}

/// Spawns in a session, in the cgroups of the sandbox and in a network namespace if one is given, with the descriptors in
/// `passed` and no others.
fn spawn(
    mut command: Command,
    dir: &SandboxDir,
    group: &Group,
    passed: Vec<RawFd>,
    network: Option<File>,
) -> io::Result<Child> {
    let log = append(dir, "log")?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(false);
    let joined = group
        .dirs()
        .iter()
        .map(|d| OpenOptions::new().write(true).open(d.join("cgroup.procs")))
        .collect::<io::Result<Vec<File>>>()?;
    let in_child = move || {
        for procs in &joined {
            // `&File` writes without allocating, which is forbidden between fork and exec.
            (&mut &*procs).write_all(b"0")?;
        }
        detached::leave_session()?;
        if let Some(network) = &network {
            nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)?;
        }
        // Where no namespace holds them, orphans stay below the guest and can be found there.
        nix::sys::prctl::set_child_subreaper(true)?;
        detached::pass_only(&passed)
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    let program = command.as_std().get_program().to_owned();
    command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", Path::new(&program).display())))
}

/// Reads the id of the first process from bubblewrap.
async fn first_process(info: OwnedFd, child: &mut Child, dir: &SandboxDir) -> io::Result<Identity> {
    let mut text = String::new();
    tokio::net::unix::pipe::Receiver::from_owned_fd(info)?
        .read_to_string(&mut text)
        .await?;
    let pid = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|v| v.get("child-pid")?.as_i64())
        .ok_or_else(|| ended(dir))? as i32;
    let guest = Identity::of(pid).ok_or_else(|| ended(dir))?;
    if stat(pid).map(|s| s.parent as u32) != child.id() {
        return Err(ended(dir));
    }
    Ok(guest)
}

/// Waits for the guest's socket or the end of the guest.
async fn ready(started: &Started, dir: &SandboxDir) -> io::Result<()> {
    let end = Instant::now() + READY_LIMIT;
    while Instant::now() < end && !dir.socket().exists() {
        if !started.guest.alive() {
            // The message of bubblewrap follows the death of its child.
            started.monitor.ended_within(Duration::from_millis(500)).await;
            return Err(ended(dir));
        }
        tokio::time::sleep(READY_STEP).await;
    }
    Ok(())
}

/// Waits for a child so that no zombie stays, and notes how a plain guest ended.
fn reap(mut child: Child, note: Option<SandboxDir>) {
    tokio::spawn(async move {
        use std::os::unix::process::ExitStatusExt;
        if let (Ok(status), Some(dir)) = (child.wait().await, note) {
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            // The directory may be gone already.
            let _gone_is_fine = dir.write_exit(code);
        }
    });
}

fn ended(dir: &SandboxDir) -> io::Error {
    let log = dir.log_tail();
    io::Error::other(if log.is_empty() {
        "its first process ended at once and said nothing".to_owned()
    } else {
        format!("its first process ended at once: {log}")
    })
}

fn append(dir: &SandboxDir, name: &str) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join(name))
}

/// The arguments in an unnamed file, each ended by a zero byte.
fn arguments_file(arguments: Vec<OsString>) -> io::Result<File> {
    let mut bytes = Vec::new();
    for argument in arguments {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    let mut file = File::from(memfd_create("arguments", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(file)
}
