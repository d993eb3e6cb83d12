//! QEMU's command line, and starting it detached from this process.

use crate::drives::{Base, DATA, ROOT};
use crate::error::{At, Doing, Error};
use crate::layout::{EXIT, MachineDir};
use crate::options::Accelerator;
use nix::sys::memfd::{MFdFlags, memfd_create};
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_guest_protocol::port;
use ostler_sandbox::cgroup::Group;
use ostler_sandbox::detached::{self, MARKER};
use ostler_sandbox::process::Identity;
use serde_json::json;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Sockets in the directory that is QEMU's own.
pub(crate) const QMP: &str = "qmp.sock";
pub(crate) const EVENTS: &str = "events.sock";
pub(crate) const CONSOLE: &str = "console.sock";
pub(crate) const PORT: &str = "port.sock";

/// What machines have that no template asks for is left out: looking for it takes the kernel longer than anything else.
const MACHINE: &str = "q35,hpet=off,smbus=off,sata=off,usb=off,i8042=off,vmport=off,dump-guest-core=off";
/// No program may be started, no right gained, no old system call made.
const CONFINED: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// A kernel that panics restarts at once, which ends QEMU. On a host that is busy the timer is late, which it must not take
/// for broken.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0 random.trust_cpu=on";
/// A kernel that somebody chose is probably what is tested: it is to say its warnings.
const TESTED: &str = "loglevel=5";

/// What QEMU is started with besides what the template says.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) id: SandboxId,
    pub(crate) template: &'a SandboxTemplate,
    pub(crate) accelerator: Accelerator,
    pub(crate) base: &'a Base,
    pub(crate) kernel: &'a File,
    pub(crate) initrd: &'a File,
    /// Whether it goes on from a snapshot.
    pub(crate) restored: bool,
}

/// What every QEMU has, also one for a trial.
pub(crate) fn machine(accelerator: Accelerator, cpus: u32, memory_mb: u64) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        .map(OsString::from)
        .to_vec();
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    for (name, value) in [
        ("-machine", MACHINE),
        ("-accel", accel),
        ("-cpu", cpu),
        ("-smp", &cpus.to_string()),
        ("-m", &format!("{memory_mb}M")),
        ("-sandbox", CONFINED),
    ] {
        args.extend([name.into(), value.into()]);
    }
    args
}

/// Kernel, initial RAM disk and what the kernel is told, from open files.
pub(crate) fn boot(kernel: &File, initrd: &File, more: &[&str]) -> Vec<OsString> {
    let opened = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let told = [&[KERNEL_ARGUMENTS], more].concat().join(" ");
    [
        ("-kernel", opened(kernel)),
        ("-initrd", opened(initrd)),
        ("-append", told.trim().to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.into(), value.into()])
    .collect()
}

impl Plan<'_> {
    fn arguments(&self) -> Vec<OsString> {
        let template = self.template;
        let mut args = machine(self.accelerator, template.cpus, template.memory_mb);
        let mut add = |name: &str, value: String| args.extend([name.into(), value.into()]);
        add("-name", format!("guest={}", self.id));
        for (name, path) in [
            ("qmp", QMP),
            ("events", EVENTS),
            ("console", CONSOLE),
            ("port", PORT),
        ] {
            add(
                "-chardev",
                format!("socket,id={name},path={path},server=on,wait=off"),
            );
        }
        add("-mon", "chardev=qmp,mode=control".into());
        add("-mon", "chardev=events,mode=control".into());
        // By which the kernel says that it panics.
        add("-device", "pvpanic".into());
        add("-serial", "chardev:console".into());
        add("-device", "virtio-serial-pci,max_ports=2".into());
        add(
            "-device",
            format!("virtserialport,chardev=port,name={}", port::NAME),
        );
        add("-object", "rng-random,id=random,filename=/dev/urandom".into());
        add("-device", "virtio-rng-pci,rng=random".into());

        add("-add-fd", format!("fd={},set=1", self.base.file.as_raw_fd()));
        // The machine is thrown away with the host's page cache: nothing is gained by waiting for the disk.
        let cache = json!({ "direct": false, "no-flush": true });
        let mut nodes = vec![
            json!({ "driver": "file", "node-name": "base-file", "filename": "/dev/fdset/1", "read-only": true }),
            json!({ "driver": self.base.format.as_str(), "node-name": "base", "file": "base-file",
                    "read-only": true }),
            json!({ "driver": "file", "node-name": "root-file", "filename": ROOT, "cache": cache,
                    "discard": "unmap" }),
            json!({ "driver": "qcow2", "node-name": "root", "file": "root-file", "backing": "base",
                    "cache": cache, "discard": "unmap" }),
        ];
        let mut drives = vec!["root"];
        if template.data_drive_mb.is_some() {
            nodes.push(
                json!({ "driver": "file", "node-name": "data-file", "filename": DATA, "cache": cache,
                               "discard": "unmap" }),
            );
            nodes.push(
                json!({ "driver": "raw", "node-name": "data", "file": "data-file", "cache": cache,
                               "discard": "unmap" }),
            );
            drives.push("data");
        }
        for node in nodes {
            add("-blockdev", node.to_string());
        }
        for drive in drives {
            add(
                "-device",
                format!("virtio-blk-pci,drive={drive},id={drive}-drive"),
            );
        }
        if template.network == NetworkPolicy::Open {
            add("-netdev", "user,id=net,ipv6=off".into());
            let address = crate::user::hardware_address(self.id);
            add(
                "-device",
                format!("virtio-net-pci,netdev=net,mac={address},romfile="),
            );
        }
        let tested = template.kernel.is_some().then_some(TESTED);
        let more: Vec<&str> = tested
            .into_iter()
            .chain(template.kernel_args.as_deref())
            .collect();
        args.extend(boot(self.kernel, self.initrd, &more));
        // Whoever follows the console is to miss nothing.
        args.push("-S".into());
        if self.restored {
            args.extend(["-incoming".into(), "defer".into()]);
        }
        args
    }
}

/// Starts QEMU in the directory that is its own, as `user`, and in the cgroups of the machine.
pub(crate) fn start(
    program: &Path,
    plan: &Plan<'_>,
    dir: &MachineDir,
    group: &Group,
    user: Option<u32>,
) -> Result<Identity, Error> {
    let log_path = dir.join("qemu.log");
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .at(&log_path)?;
    let mut command = Command::new(program);
    command
        .args(plan.arguments())
        .current_dir(dir.join("vm"))
        .env_clear()
        .env(MARKER, plan.id.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().at(&log_path)?)
        .stderr(log)
        .kill_on_drop(false);
    let passed = [&plan.base.file, plan.kernel, plan.initrd].map(AsRawFd::as_raw_fd);
    detach(&mut command, group, user, passed.to_vec())?;
    let child = command
        .spawn()
        .map_err(|e| Error::Other(format!("{}: {e}", program.display())))?;
    let qemu = child.id().and_then(|pid| Identity::of(pid as i32));
    dir.reap(child, EXIT);
    qemu.ok_or_else(|| Error::Other(format!("QEMU ended at once; {}", dir.last_words())))
}

/// Prepares a child with a session, cgroups and a user of its own, and no descriptors but `passed`.
pub(crate) fn detach(
    command: &mut Command,
    group: &Group,
    user: Option<u32>,
    passed: Vec<RawFd>,
) -> Result<(), Error> {
    let mut joined = Vec::new();
    for dir in group.dirs() {
        let procs = dir.join("cgroup.procs");
        joined.push(OpenOptions::new().write(true).open(&procs).at(&procs)?);
    }
    // Where KVM belongs to a group, QEMU must be in it.
    let kvm = std::fs::metadata("/dev/kvm").ok().map(|m| m.gid());
    let groups: Vec<libc::gid_t> = kvm.into_iter().filter(|gid| *gid != 0).collect();
    let in_child = move || {
        for procs in &joined {
            // `&File` writes without allocating, which is forbidden between fork and exec.
            (&mut &*procs).write_all(b"0")?;
        }
        detached::leave_session()?;
        if let Some(user) = user {
            // SAFETY: three calls that change this process's user; the pointer is to as many groups as the count says.
            let done = unsafe {
                libc::setgroups(groups.len(), groups.as_ptr()) == 0
                    && libc::setresgid(user, user, user) == 0
                    && libc::setresuid(user, user, user) == 0
            };
            if !done {
                return Err(io::Error::last_os_error());
            }
        }
        nix::sys::prctl::set_no_new_privs()?;
        detached::pass_only(&passed)
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    Ok(())
}

/// A kernel that any user can read through the descriptor: the file itself, or a copy in memory where it is closed to others.
pub(crate) fn open_kernel(path: &Path, user: Option<u32>) -> Result<File, Error> {
    let file = File::open(path).at(path)?;
    if user.is_none() || file.metadata().at(path)?.mode() & 0o004 != 0 {
        return Ok(file);
    }
    in_memory(&[&std::fs::read(path).at(path)?])
}

/// A nameless file with these pieces, one after the other.
pub(crate) fn in_memory(pieces: &[&[u8]]) -> Result<File, Error> {
    let what = "making a file in memory";
    let mut file = File::from(memfd_create("ostler", MFdFlags::MFD_CLOEXEC).doing(what)?);
    for piece in pieces {
        file.write_all(piece).doing(what)?;
    }
    file.rewind().doing(what)?;
    Ok(file)
}
