//! What virtual machines of tests are made from; `scripts/vm-kernel` builds it.

use crate::cache::{cache_dir, in_path};
use std::path::PathBuf;

/// A kernel with its modules, and a root drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineParts {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The directory that stands for `/lib/modules`.
    pub modules: PathBuf,
    /// An ext4 file system with the content of the base image, to be read only.
    pub root_drive: PathBuf,
}

impl MachineParts {
    /// What the script has put into the cache directory.
    pub fn find() -> Option<Self> {
        let script = crate::engine::hash(include_bytes!("../../../scripts/vm-kernel"));
        let dir = cache_dir().join(format!("vm-{script}"));
        let kernel = std::fs::read_dir(dir.join("boot"))
            .ok()?
            .filter_map(|e| Some(e.ok()?.path()))
            .find(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
            })?;
        let root_drive = dir.join("root.ext4");
        root_drive.is_file().then(|| Self {
            kernel,
            modules: dir.join("lib/modules"),
            root_drive,
        })
    }
}

/// Whether machines can be made here.
pub(crate) fn can_run() -> bool {
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    in_path(&qemu).is_some() && in_path("qemu-img").is_some() && MachineParts::find().is_some()
}
