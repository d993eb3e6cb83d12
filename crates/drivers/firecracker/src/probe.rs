//! What of Firecracker is on this host.

use crate::cgroups::Cgroups;
use crate::options::FirecrackerOptions;
use crate::version::Version;
use ostler_sandbox::Finding;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

const TRIAL_LIMIT: Duration = Duration::from_secs(10);
const KVM_GET_API_VERSION: libc::Ioctl = 0xAE00;
const KVM_CREATE_VM: libc::Ioctl = 0xAE01;
const KVM_API: i32 = 12;

/// Where it is to be had.
pub(crate) const INSTALL: &str = "install it from https://github.com/firecracker-microvm/firecracker/releases, or name the program in the settings";
const RELEASES: &str = "https://github.com/firecracker-microvm/firecracker/releases";

/// Where programs are looked for: as this process would, and where those for root are.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// The program under its real name; a path is taken as it is.
pub(crate) fn program(name: &Path) -> Option<PathBuf> {
    let found = if name.components().count() > 1 {
        Some(name.to_owned())
    } else {
        std::env::split_paths(&search_path())
            .map(|dir| dir.join(name))
            .find(|file| file.is_file())
    };
    found.and_then(|p| p.canonicalize().ok())
}

/// Its version.
pub(crate) async fn version(program: &Path) -> Result<Version, String> {
    let done = output(Command::new(program).arg("--version"), TRIAL_LIMIT).await?;
    let said = String::from_utf8_lossy(&done.stdout);
    Version::parse(&said).ok_or_else(|| {
        format!(
            "{} does not tell its version: {}",
            program.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        )
    })
}

/// Runs a program to its end.
pub(crate) async fn output(command: &mut Command, limit: Duration) -> Result<Output, String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) => Err(format!("{program}: {e}")),
        Err(_) => Err(format!("{program} did not end within {limit:?}")),
    }
}

/// Everything that is needed, each with how to get it.
pub(crate) async fn findings(options: &FirecrackerOptions, cgroups: &Cgroups) -> Vec<Finding> {
    let mut found = vec![finding("/dev/kvm", kvm())];
    let firecracker = binary(&options.firecracker).await;
    let jailer = binary(&options.jailer).await;
    found.push(finding(
        "firecracker",
        match &firecracker {
            Ok((path, version)) => match version.refuses_snapshots().or(version.refuses_pause()) {
                Some(why) => Err(format!("{}: {why}", path.display())),
                None => Ok(format!("{} {version}", path.display())),
            },
            Err(why) => Err(why.clone()),
        },
    ));
    found.push(finding(
        "jailer",
        match (&jailer, &firecracker) {
            _ if !options.jailed => Ok("not used: machines run as the server's own user".to_owned()),
            _ if !nix::unistd::geteuid().is_root() => {
                Err("the jailer needs root: run the server as root or switch the jailer off".to_owned())
            }
            (Ok((path, version)), Ok((_, other))) if version != other => Err(format!(
                "{} is of version {version} and Firecracker of {other}: install both from one release, {RELEASES}",
                path.display()
            )),
            (Ok((path, version)), _) => Ok(format!("{} {version}", path.display())),
            (Err(why), _) => Err(why.clone()),
        },
    ));
    found.push(finding("kernel", kernel(options)));
    if let Some(initrd) = &options.initrd {
        found.push(finding("initial RAM disk", readable(initrd)));
    }
    found.push(finding(
        "cgroups",
        match cgroups {
            Cgroups::None => Err(format!(
                "{}: mount them; until then only the size of a machine limits it",
                cgroups.describe()
            )),
            _ => Ok(cgroups.describe()),
        },
    ));
    found.push(finding(
        "mke2fs",
        match program(Path::new("mke2fs")) {
            Some(path) => Ok(path.display().to_string()),
            None => Err("absent, so there are no data drives: install e2fsprogs".to_owned()),
        },
    ));
    let guest = output(Command::new(&options.guest).arg("--version"), TRIAL_LIMIT).await;
    found.push(finding(
        "guest program",
        match guest {
            Ok(done) if done.status.success() => Ok(format!(
                "{}: {}",
                options.guest.display(),
                String::from_utf8_lossy(&done.stdout).trim()
            )),
            Ok(done) => Err(format!(
                "{} does not run ({}): install Ostler again",
                options.guest.display(),
                done.status
            )),
            Err(e) => Err(format!("{e}: install Ostler again")),
        },
    ));
    found
}

fn finding(subject: &str, found: Result<String, String>) -> Finding {
    Finding {
        subject: subject.to_owned(),
        ok: found.is_ok(),
        detail: found.unwrap_or_else(|why| why),
    }
}

async fn binary(name: &Path) -> Result<(PathBuf, Version), String> {
    let path =
        program(name).ok_or_else(|| format!("{} is absent: install it from {RELEASES}", name.display()))?;
    let version = version(&path).await?;
    Ok((path, version))
}

fn readable(path: &Path) -> Result<String, String> {
    std::fs::File::open(path)
        .map(|_| path.display().to_string())
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn kernel(options: &FirecrackerOptions) -> Result<String, String> {
    match &options.kernel {
        Some(path) => {
            readable(path).map_err(|e| format!("{e}: name an uncompressed kernel for virtual machines"))
        }
        None => Ok("none is set: every template must name one".to_owned()),
    }
}

/// Whether machines can be made.
fn kvm() -> Result<String, String> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                "absent: switch on virtualisation in the firmware, load the module kvm_intel or kvm_amd, and in a \
                 virtual machine let its host nest"
                    .to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                "it may not be opened: put the server's user into the group kvm".to_owned()
            }
            _ => format!("it cannot be opened: {e}"),
        })?;
    // SAFETY: the request takes no argument.
    let api = unsafe { libc::ioctl(file.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if api != KVM_API {
        return Err(format!(
            "it answers with API version {api} instead of {KVM_API}: another kernel is needed"
        ));
    }
    // SAFETY: the request takes the type of the machine, 0, and returns a new descriptor or -1.
    let machine = unsafe { libc::ioctl(file.as_raw_fd(), KVM_CREATE_VM, 0) };
    if machine < 0 {
        return Err(format!(
            "it makes no machine: {}: look for another hypervisor that is running, and let the host nest",
            std::io::Error::last_os_error()
        ));
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(machine) });
    Ok("makes machines".to_owned())
}
