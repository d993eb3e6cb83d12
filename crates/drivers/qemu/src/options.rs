//! What the driver is made with.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What runs the machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processors themselves.
    Kvm,
    /// QEMU translates every instruction: works everywhere, and is many times slower.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A kernel that templates can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// The image: a bzImage, or an ELF file with a note of PVH.
    pub image: PathBuf,
    /// As [`QemuOptions::modules`], which it is when absent.
    pub modules: Option<PathBuf>,
}

/// What the driver is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuOptions {
    /// Separates installations on one host: 1 to 40 of `a-z`, `0-9`, `-` and `_`. Part of the cgroups' names.
    pub instance: String,
    /// Directory of this instance alone, made if missing, mode 0700.
    pub state_dir: PathBuf,
    /// The static guest program on this host.
    pub guest: PathBuf,
    /// QEMU for this host's architecture: a path, or a name that is looked for in `PATH`.
    pub qemu: PathBuf,
    /// The program `qemu-img`: a path, or a name that is looked for in `PATH`.
    pub qemu_img: PathBuf,
    /// Kernel for templates that name none; the newest in `kernel_dir` when absent.
    pub kernel: Option<PathBuf>,
    /// Directory whose files `vmlinuz-NAME` are kernels that templates can name.
    pub kernel_dir: PathBuf,
    /// Further kernels that templates can name; they come before those of the directory with the same name.
    pub kernels: BTreeMap<String, KernelFile>,
    /// Directory with one directory of modules for each version of a kernel. A kernel without modules there must have what
    /// a machine needs built in.
    pub modules: PathBuf,
    /// What runs the processors; found out by booting when absent.
    pub accelerator: Option<Accelerator>,
    /// How many times as long programs may take where processors are emulated, that is, with TCG.
    pub slowdown: u32,
    /// Offers the network policy `open`, in which programs reach what this host reaches, and all that listens on its
    /// loopback.
    pub host_network: bool,
    /// Longest time for a start, from the first file to the running machine, and for a snapshot.
    pub start_limit: Duration,
    /// Longest time for any other answer of QEMU.
    pub answer_limit: Duration,
}

impl QemuOptions {
    /// Options with defaults: programs from `PATH`, this host's own kernels, an accelerator that works, the network policy
    /// `open` offered, 5 times as long where processors are emulated, 60 s for a start and 10 s for an answer.
    pub fn new(
        instance: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        guest: impl Into<PathBuf>,
    ) -> Self {
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            guest: guest.into(),
            qemu: format!("qemu-system-{}", std::env::consts::ARCH).into(),
            qemu_img: "qemu-img".into(),
            kernel: None,
            kernel_dir: "/boot".into(),
            kernels: BTreeMap::new(),
            modules: "/lib/modules".into(),
            accelerator: None,
            slowdown: 5,
            host_network: true,
            start_limit: Duration::from_secs(60),
            answer_limit: Duration::from_secs(10),
        }
    }
}
