//! Starting Firecracker, in its jailer or without, detached from this process.
//!
//! The jailer becomes Firecracker by exec, so the process that is started is the one that stays. It is not asked to make
//! a daemon of itself: what this driver does before exec is as much, and errors of the jailer can still be read.

use crate::error::{At, Error};
use crate::layout::API_SOCKET;
use nix::sys::memfd::{MFdFlags, memfd_create};
use ostler_sandbox::detached;
use ostler_sandbox::process::Identity;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// What is kept of the serial console and of messages, bytes.
const CONSOLE: usize = 256 << 10;
/// What of it goes into an error message, bytes.
const TAIL: usize = 2000;

/// Where the standard output of Firecracker goes, which is the machine's serial console.
///
/// A machine can write to its console without end, also while no server is there to look. So it is memory that cannot
/// grow: the first 256 KiB, with the messages of the boot, are kept, and the rest is refused by the kernel.
#[derive(Debug)]
pub(crate) struct Console(File);

impl Console {
    pub(crate) fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(
            "ostler-console",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?);
        file.set_len(CONSOLE as u64)?;
        let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: adds seals to a descriptor that is open.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// The end of what was written.
    pub(crate) fn tail(&self) -> String {
        let mut bytes = vec![0; CONSOLE];
        let read = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let written = bytes[..read].iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        let text = &bytes[written.saturating_sub(TAIL)..written];
        String::from_utf8_lossy(text).trim().to_owned()
    }
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) directory: PathBuf,
}

/// What the jailer has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jail<'a> {
    pub(crate) jailer: &'a Path,
    pub(crate) base: &'a Path,
    pub(crate) user: u32,
    pub(crate) cgroups: &'a [String],
}

/// Where the jailer puts a machine: below `base`, by the name of the program and that of the machine.
pub(crate) fn jail_root(base: &Path, firecracker: &Path, machine: &str) -> PathBuf {
    base.join(firecracker.file_name().unwrap_or_default())
        .join(machine)
        .join("root")
}

/// Firecracker itself, which works in the machine's directory.
pub(crate) fn direct(firecracker: &Path, machine: &str, root: &Path) -> Launch {
    Launch {
        program: firecracker.to_owned(),
        arguments: ["--id", machine, "--api-sock", API_SOCKET]
            .map(OsString::from)
            .to_vec(),
        directory: root.to_owned(),
    }
}

/// Firecracker in its jailer, which makes the machine's directory its root.
pub(crate) fn jailed(jail: Jail<'_>, firecracker: &Path, machine: &str) -> Launch {
    let user = jail.user.to_string();
    let mut arguments: Vec<OsString> = ["--id", machine, "--exec-file"].map(OsString::from).to_vec();
    arguments.push(firecracker.into());
    arguments.extend(["--uid", &user, "--gid", &user, "--chroot-base-dir"].map(OsString::from));
    arguments.push(jail.base.into());
    arguments.extend(jail.cgroups.iter().map(OsString::from));
    arguments.extend(["--", "--api-sock", API_SOCKET].map(OsString::from));
    Launch {
        program: jail.jailer.to_owned(),
        arguments,
        directory: jail.base.to_owned(),
    }
}

/// Starts it in a session of its own, without this process's environment, descriptors and keys.
pub(crate) fn spawn(launch: &Launch, console: &Console) -> Result<(Child, Identity), Error> {
    let mut command = Command::new(&launch.program);
    let output = || console.0.try_clone().doing("its console");
    command
        .args(&launch.arguments)
        .current_dir(&launch.directory)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?)
        .kill_on_drop(false);
    let in_child = || {
        detached::leave_session()?;
        detached::pass_only(&[])
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    let child = command.spawn().at(&launch.program)?;
    let process = child.id().and_then(|pid| Identity::of(pid as i32));
    let process = process.ok_or_else(|| Error::Ended {
        console: console.tail(),
    })?;
    Ok((child, process))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_jailer_is_called_as_its_manual_says() {
        let cgroups = ["--cgroup-version", "2", "--cgroup", "memory.max=1"].map(str::to_owned);
        let jail = Jail {
            jailer: Path::new("/bin/jailer"),
            base: Path::new("/state/sbx_1/jail"),
            user: 77,
            cgroups: &cgroups,
        };
        let launch = jailed(jail, Path::new("/bin/firecracker-v1"), "sbx-1");
        let words: Vec<&str> = launch.arguments.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "--id sbx-1 --exec-file /bin/firecracker-v1 --uid 77 --gid 77 --chroot-base-dir /state/sbx_1/jail \
             --cgroup-version 2 --cgroup memory.max=1 -- --api-sock api.sock"
        );
        assert_eq!(
            jail_root(jail.base, Path::new("/bin/firecracker-v1"), "sbx-1"),
            Path::new("/state/sbx_1/jail/firecracker-v1/sbx-1/root")
        );
    }

    #[test]
    fn a_console_keeps_the_beginning_and_cannot_grow() {
        let console = Console::new().unwrap();
        assert_eq!(console.tail(), "");
        (&console.0).write_all(b"  booting\n").unwrap();
        assert_eq!(console.tail(), "booting");
        let flood = (&console.0).write_all(&vec![b'x'; CONSOLE]);
        assert!(flood.is_err(), "the console grew");
        assert!(console.tail().starts_with('x') && console.tail().len() == TAIL);
        assert_eq!(console.0.metadata().unwrap().len(), CONSOLE as u64);
    }
}
