//! The mounts that an isolated program sees.
//!
//! What is the same for all is made once, in the mount namespace of the process that makes isolated programs: nothing can
//! be written, and the guest's own directory is not there. Each program then has a copy of that with a file system in
//! memory for all that it writes: it goes with the last process or descriptor that knows it, however those end, so there is
//! nothing to clean up.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// Empty at first for each program. The first is where its memory is mounted before all is in place.
const EMPTY: [(&str, &str); 3] = [("/tmp", "tmp"), ("/var/tmp", "var"), ("/dev/shm", "shm")];
/// Devices that root may use in isolation; disks, memory and ports would lead out of it.
const DEVICES: &[&str] = &[
    "null", "zero", "full", "random", "urandom", "tty", "kvm", "fuse", "net/tun",
];
/// What of /proc would change the machine for others, and what tells of it. As container engines have it.
const UNWRITABLE: &[&str] = &["sys", "sysrq-trigger", "irq", "bus", "fs"];
const HIDDEN: &[&str] = &[
    "acpi",
    "asound",
    "kcore",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
/// `MOUNT_ATTR_RDONLY`
const READ_ONLY: u64 = 1;

/// What isolated programs of this sandbox see.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Of the guest.
    pub(crate) run: PathBuf,
    pub(crate) workspace: PathBuf,
    pub(crate) home: PathBuf,
    /// Whether programs may be root of the machine.
    pub(crate) root: bool,
}

/// One directory as a program sees it, which stays as long as this is open.
pub(crate) type Kept = (PathBuf, OwnedFd);

pub(crate) fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// `mount`, told by what and where.
pub(super) fn attach(kind: &str, source: &Path, at: &Path, flags: MsFlags, options: &[u8]) -> io::Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(source), at, Some(kind), flags, options)
        .map_err(|error| named(&format!("mounting {kind} at {}", at.display()), &error.into()))
}

fn bind(source: &Path, at: &Path) -> io::Result<()> {
    attach("none", source, at, MsFlags::MS_BIND, b"")
}

/// Makes a mount, or with `all` also those below it, read-only. None of them may be shared with other namespaces.
fn read_only(at: &Path, all: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: READ_ONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let path = std::ffi::CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: the kernel reads the path and the attributes, whose size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            if all { libc::AT_RECURSIVE } else { 0 },
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS) => Err(io::Error::other("the kernel is older than 5.12")),
        Err(error) => Err(named(
            &format!("making {} read-only", at.display()),
            &error.into(),
        )),
    }
}

fn handle(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| named(&path.display().to_string(), &error.into()))
}

/// Another name of what is open.
fn name_of(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(named(&path.display().to_string(), &error)),
    }
}

impl View {
    /// Makes what is the same for all, in the mount namespace of this process, which is its own.
    pub(super) fn prepare(&self) -> io::Result<()> {
        attach(
            "none",
            Path::new("none"),
            Path::new("/"),
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            b"",
        )?;
        if self.root {
            devices()?;
        }
        // Whoever reaches the guest's sockets can start programs that are not isolated.
        let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        attach(
            "tmpfs",
            Path::new("tmpfs"),
            &self.run,
            hidden,
            b"size=4k,mode=0755",
        )?;
        read_only(Path::new("/"), true)
    }

    /// Makes the mounts of one program, in a new copy of that namespace, by its first process. Returns what it can write.
    pub(super) fn enter(&self, scratch_bytes: u64) -> io::Result<Vec<Kept>> {
        // What is behind the mounts that come now.
        let below = self.overlaid().map(|dir| Ok((dir, handle(dir)?)));
        let below: Vec<(&Path, OwnedFd)> = below.collect::<io::Result<_>>()?;
        let place = Path::new(EMPTY[0].0);
        let size = match scratch_bytes {
            0 => String::new(),
            bytes => format!(",size={bytes}"),
        };
        let options = format!("mode=0755{size}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        attach("tmpfs", Path::new("tmpfs"), place, flags, options.as_bytes())?;
        for (at, name) in EMPTY {
            directory(&place.join(name), 0o1777)?;
            // Images without the other two exist.
            if at != EMPTY[0].0 && Path::new(at).is_dir() {
                bind(&place.join(name), Path::new(at))?;
            }
        }
        let mut layers = Vec::new();
        for (index, (dir, below)) in below.into_iter().enumerate() {
            let (upper, work) = (
                place.join(format!("upper{index}")),
                place.join(format!("work{index}")),
            );
            directory(&work, 0o700)?;
            directory(&upper, 0o700)?;
            // The merged directory has the owner and the mode of the upper one.
            let like = fs::metadata(name_of(&below))?;
            // One whose owner has no name here belongs to nobody in either place.
            let _unknown_owner = chown(&upper, Some(like.uid()), Some(like.gid()));
            fs::set_permissions(&upper, Permissions::from_mode(like.mode() & 0o7777))?;
            layers.push((dir, below, handle(&upper)?, handle(&work)?));
        }
        bind(&place.join(EMPTY[0].1), place)?;
        let mut kept = Vec::new();
        for (dir, below, upper, work) in layers {
            // It may lie in one of the directories that are empty now.
            fs::create_dir_all(dir).map_err(|error| named(&dir.display().to_string(), &error))?;
            // An overlay costs more than all other mounts together, and over nothing it shows nothing.
            if fs::read_dir(name_of(&below)).is_ok_and(|mut entries| entries.next().is_none()) {
                bind(&name_of(&upper), dir)?;
                kept.push((dir.to_owned(), handle(dir)?));
                continue;
            }
            let mut options = OsString::from("lowerdir=");
            options.push(name_of(&below));
            options.push(",upperdir=");
            options.push(name_of(&upper));
            options.push(",workdir=");
            options.push(name_of(&work));
            if !self.root {
                options.push(",userxattr");
            }
            attach("overlay", Path::new("overlay"), dir, flags, &options.into_vec())?;
            kept.push((dir.to_owned(), handle(dir)?));
        }
        kept.push((place.to_owned(), handle(place)?));
        self.enter_kernel()?;
        Ok(kept)
    }

    /// Processes and terminals of its own.
    fn enter_kernel(&self) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let pts = Path::new("/dev/pts");
        if pts.is_dir() {
            attach(
                "devpts",
                Path::new("devpts"),
                pts,
                flags,
                b"newinstance,ptmxmode=0666,mode=0620",
            )?;
        }
        let proc = Path::new("/proc");
        attach("proc", Path::new("proc"), proc, flags | MsFlags::MS_NODEV, b"")?;
        if !self.root {
            return Ok(());
        }
        for name in UNWRITABLE {
            let at = proc.join(name);
            if at.exists() {
                bind(&at, &at)?;
                read_only(&at, false)?;
            }
        }
        for name in HIDDEN {
            let at = proc.join(name);
            if at.is_dir() {
                let none = flags | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
                attach("tmpfs", Path::new("tmpfs"), &at, none, b"size=4k,mode=0555")?;
            } else if at.exists() {
                bind(Path::new("/dev/null"), &at)?;
            }
        }
        Ok(())
    }

    /// The outer one first, where one lies in the other.
    fn overlaid(&self) -> impl Iterator<Item = &Path> {
        let mut both = [self.workspace.as_path(), self.home.as_path()];
        both.sort();
        let same = both[0] == both[1];
        both.into_iter()
            .skip(usize::from(same))
            .filter(|dir| *dir != Path::new("/") && dir.is_dir())
    }
}

/// Replaces /dev by one with harmless devices only. Root could open all others, whatever they are mounted as.
fn devices() -> io::Result<()> {
    let dev = Path::new("/dev");
    let found: Vec<(&str, OwnedFd)> = DEVICES
        .iter()
        .filter_map(|name| Some((*name, handle(&dev.join(name)).ok()?)))
        .collect();
    attach(
        "tmpfs",
        Path::new("tmpfs"),
        dev,
        MsFlags::MS_NOSUID,
        b"mode=0755,size=64k",
    )?;
    for (name, device) in found {
        let at = dev.join(name);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, "")?;
        bind(&name_of(&device), &at)?;
    }
    for name in ["pts", "shm"] {
        directory(&dev.join(name), 0o755)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}
