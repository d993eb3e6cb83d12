//! What virtual machines of tests are made from; `scripts/vm-kernel` builds it.

use crate::cache::{cache_dir, in_path};
use std::path::PathBuf;

/// A kernel with its modules, and a root drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineParts {
    /// The kernel image: of those of [`MachineKernels`] the one that Debian's stable release recommends.
    pub kernel: PathBuf,
    /// The directory that stands for `/lib/modules`.
    pub modules: PathBuf,
    /// An ext4 file system with the content of the base image, to be read only.
    pub root_drive: PathBuf,
}

impl MachineParts {
    /// What the script has put into the cache directory.
    pub fn find() -> Option<Self> {
        let dir = dir();
        let kernel = std::fs::read_link(dir.join("vmlinuz")).ok()?;
        let root_drive = dir.join("root.ext4");
        root_drive.is_file().then(|| Self {
            kernel: dir.join(kernel),
            modules: dir.join("lib/modules"),
            root_drive,
        })
    }
}

/// Several kernels for machines, of different series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineKernels {
    /// The directory with an image `vmlinuz-VERSION` for each.
    pub dir: PathBuf,
    /// The directory that stands for `/lib/modules`.
    pub modules: PathBuf,
    /// Their versions, sorted as text: at least two, four if the mirror has as many.
    pub versions: Vec<String>,
}

impl MachineKernels {
    /// What the script has put into the cache directory.
    pub fn find() -> Option<Self> {
        let dir = dir();
        let images = dir.join("boot");
        let mut versions: Vec<String> = std::fs::read_dir(&images)
            .ok()?
            .filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
            .collect();
        versions.sort();
        (versions.len() >= 2).then(|| Self {
            dir: images,
            modules: dir.join("lib/modules"),
            versions,
        })
    }

    /// The image of one of the versions.
    pub fn image(&self, version: &str) -> PathBuf {
        self.dir.join(format!("vmlinuz-{version}"))
    }
}

fn dir() -> PathBuf {
    let script = crate::engine::hash(include_bytes!("../../../scripts/vm-kernel"));
    cache_dir().join(format!("vm-{script}"))
}

/// Whether machines can be made here.
pub(crate) fn can_run() -> bool {
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    in_path(&qemu).is_some()
        && in_path("qemu-img").is_some()
        && MachineParts::find().is_some()
        && MachineKernels::find().is_some()
}
