//! What the driver is made with.

use std::path::PathBuf;
use std::time::Duration;

/// What the driver is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerOptions {
    /// Separates installations on one host: 1 to 40 of `a-z`, `0-9`, `-` and `_`. Part of the cgroups' names.
    pub instance: String,
    /// Directory of this instance alone, made if missing, mode 0700. Kernels and drives are linked and not copied where
    /// they are on its file system.
    pub state_dir: PathBuf,
    /// The static guest program on this host.
    pub guest: PathBuf,
    /// The Firecracker program: a path, or a name that is looked for in `PATH`.
    pub firecracker: PathBuf,
    /// The jailer program of the same version: a path, or a name that is looked for in `PATH`.
    pub jailer: PathBuf,
    /// Whether virtual machines run in the jailer unless a template says otherwise. It needs root.
    pub jailed: bool,
    /// Kernel for templates that name none: an uncompressed one with virtio block and vsock built in.
    pub kernel: Option<PathBuf>,
    /// An archive for initial RAM disks, such as with `/modules` that the kernel needs; the driver's own comes after it.
    pub initrd: Option<PathBuf>,
    /// Longest time for a start, from the first file to the running machine, and for a snapshot.
    pub start_limit: Duration,
    /// Longest time for any other answer of Firecracker and for a connection to the guest.
    pub answer_limit: Duration,
}

impl FirecrackerOptions {
    /// Options with defaults: programs from `PATH`, jailed where this process is root, 60 s for a start, 5 s for an
    /// answer, and no kernel.
    pub fn new(
        instance: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        guest: impl Into<PathBuf>,
    ) -> Self {
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            guest: guest.into(),
            firecracker: "firecracker".into(),
            jailer: "jailer".into(),
            jailed: nix::unistd::geteuid().is_root(),
            kernel: None,
            initrd: None,
            start_limit: Duration::from_secs(60),
            answer_limit: Duration::from_secs(5),
        }
    }
}
