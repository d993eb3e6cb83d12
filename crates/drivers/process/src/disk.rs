//! A disk of limited size for the files of a sandbox: a sparse image with a file system, mounted by a loop device that
//! goes with the mount. It takes two programs and some tens of milliseconds at the start of a sandbox that asks for it.

use crate::layout::SandboxDir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How long making or mounting it may take.
const LIMIT: Duration = Duration::from_secs(15);
/// Smallest size, MiB: a file system needs some for itself.
pub(crate) const LEAST_MB: u64 = 16;

/// Why this host cannot do it.
pub(crate) fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        Some("a disk limit takes a server that is root")
    } else if !std::path::Path::new("/dev/loop-control").exists() {
        Some("a disk limit takes loop devices, which this kernel does not have")
    } else if crate::probe::on_path("mkfs.ext4").is_none() {
        Some("a disk limit takes `mkfs.ext4`: install e2fsprogs")
    } else {
        None
    }
}

/// Held, as their output, by the programs that make the disk: those of a killed server may be at work when the next one
/// removes the sandbox.
fn lock_file(dir: &SandboxDir) -> PathBuf {
    dir.join("disk.lock")
}

/// Makes it and mounts it in the sandbox's directory.
pub(crate) async fn make(dir: &SandboxDir, megabytes: u64) -> io::Result<()> {
    let lock = Flock::lock(File::create_new(lock_file(dir))?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)?;
    let image = dir.join("disk.img");
    File::create_new(&image)?.set_len(megabytes << 20)?;
    // Without a journal: nothing on it outlives the sandbox.
    let mut command = Command::new("mkfs.ext4");
    command.args([
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1,nodiscard",
    ]);
    run(command.arg(&image), &lock).await?;
    std::fs::create_dir(dir.disk())?;
    let mut command = Command::new("mount");
    command.args(["-t", "ext4", "-o", "loop,nosuid,nodev,noatime"]);
    run(command.arg(&image).arg(dir.disk()), &lock).await
}

/// Unmounts it; fine if it is not there. The loop device is let go by the kernel with the last user of the mount. Blocks.
pub(crate) fn unmount(dir: &SandboxDir) -> io::Result<()> {
    let mut file = match File::open(lock_file(dir)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let end = Instant::now() + LIMIT;
    while let Err((back, e)) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        if e != Errno::EWOULDBLOCK || Instant::now() > end {
            return Err(io::Error::new(
                io::Error::from(e).kind(),
                format!("a program still makes its disk: {e}"),
            ));
        }
        file = back;
        std::thread::sleep(Duration::from_millis(2));
    }
    match nix::mount::umount2(&dir.disk(), nix::mount::MntFlags::MNT_DETACH) {
        // Not a mount, absent, or a server that is not root and so never made one.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

async fn run(command: &mut Command, lock: &File) -> io::Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(lock.try_clone()?)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let done = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{program}: no end within {LIMIT:?}"),
            )
        })??;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{program}: {}", said.trim())))
}
