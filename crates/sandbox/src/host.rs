//! What drivers with directories on this host share: which of them may be mounted, reaching a socket that a sandbox
//! made, and removing what it wrote. None of it may trust the sandbox: it may put a symbolic link where a socket or a directory is expected.

use ostler_domain::{KernelOffer, SandboxTemplate};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Targets of mounts that belong to every sandbox.
const RESERVED: &[&str] = &[
    "/proc",
    "/dev",
    "/sys",
    "/run/ostler",
    "/ostler",
    "/etc/passwd",
    "/etc/group",
];

/// The kernel of this host, for drivers whose sandboxes share it.
pub fn host_kernels() -> Vec<KernelOffer> {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    kernels_of(version.trim())
}

/// The kernel with this version, as the only one there is; none where the version is not known.
pub fn kernels_of(version: &str) -> Vec<KernelOffer> {
    let kernel = KernelOffer {
        name: version.to_owned(),
        version: Some(version.to_owned()),
    };
    Vec::from_iter((!version.is_empty()).then_some(kernel))
}

/// Why a template's mounts cannot be had, one sentence each: they may neither cover what belongs to every sandbox nor show
/// `state_dir`, where the driver keeps the sockets of all sandboxes.
pub fn mount_refusals(template: &SandboxTemplate, state_dir: &Path) -> Vec<String> {
    let mut reasons = Vec::new();
    for mount in &template.mounts {
        let target = Path::new(&mount.target);
        if target == Path::new("/") || RESERVED.iter().any(|r| target.starts_with(r)) {
            reasons.push(format!(
                "a mount on {}, which belongs to the sandbox itself",
                mount.target
            ));
        }
        // The real path: a symbolic link must not lead where the check does not look.
        let source = std::fs::canonicalize(&mount.source).unwrap_or_else(|_| PathBuf::from(&mount.source));
        if source.starts_with(state_dir) || state_dir.starts_with(&source) {
            reasons.push(format!(
                "a mount of {}, which would show the other sandboxes",
                mount.source
            ));
        }
    }
    reasons
}

/// Connects to a unix socket whose path may be longer than the 108 bytes of a socket address.
///
/// The last component must be a socket itself: a symbolic link, by which a sandbox could make the server talk to a socket
/// of the host, is an error of kind `InvalidInput`.
pub async fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    let socket = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    if !socket.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not a socket", path.display()),
        ));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Removes a directory with all that is in it, also where its owner took the permissions away. Follows no symbolic links;
/// nothing there is fine. Blocks.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Caches of package managers are read-only; only root can remove them as they are.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            std::fs::remove_dir_all(dir)
        }
        other => other,
    }
}

/// The same for a directory in which somebody may just be noting how a process ended: tried for up to 100 ms. Blocks.
pub fn remove_busy_tree(dir: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match remove_tree(dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    remove_tree(dir)
}

fn open_up(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// The size of the file system with this path, MiB; without limit where it cannot be told.
pub fn disk_mb(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(u64::MAX, |disk| {
        disk.blocks().saturating_mul(disk.fragment_size()) >> 20
    })
}

/// The model of this machine's processor, as `/proc/cpuinfo` has it; empty where it does not say.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .find(|(name, _)| ["model name", "CPU part"].contains(&name.trim()))
        .map(|(_, model)| model.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_long_path_is_reached_and_a_link_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let short = dir.path().join("s");
        let _listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, deep.join("s")).unwrap();
        connect_socket(&deep.join("s")).await.unwrap();

        std::os::unix::fs::symlink(deep.join("s"), deep.join("link")).unwrap();
        let error = connect_socket(&deep.join("link")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = connect_socket(&deep.join("none")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn closed_directories_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        std::fs::create_dir(&keep).unwrap();
        let tree = dir.path().join("tree");
        let closed = tree.join("closed");
        std::fs::create_dir_all(&closed).unwrap();
        std::fs::write(closed.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&keep, tree.join("link")).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && keep.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn mounts_cannot_cover_the_sandbox_or_show_others() {
        let state = tempfile::tempdir().unwrap();
        let state_dir = std::fs::canonicalize(state.path()).unwrap().join("sandboxes");
        std::fs::create_dir_all(state_dir.join("other")).unwrap();
        let mut template = SandboxTemplate::new(ostler_domain::DriverKind::Process);
        let mut refused = |source: &Path, target: &str| {
            template.mounts = vec![ostler_domain::Mount {
                source: source.display().to_string(),
                target: target.to_owned(),
                writable: false,
            }];
            mount_refusals(&template, &state_dir).len()
        };
        assert_eq!(refused(Path::new("/usr/share"), "/opt/share"), 0);
        assert_eq!(refused(Path::new("/usr/share"), "/proc/sys"), 1);
        assert_eq!(refused(Path::new("/usr/share"), "/"), 1);
        assert_eq!(refused(&state_dir.join("other"), "/opt/share"), 1);
        assert_eq!(refused(Path::new("/"), "/opt/share"), 1);
        let link = state.path().join("link");
        std::os::unix::fs::symlink(&state_dir, &link).unwrap();
        assert_eq!(refused(&link, "/opt/share"), 1);
    }
}
