//! Directories for work in progress, removed when it ends and, when the server was killed, by the next start.

use crate::error::{IoContext, Result};
use crate::lock::FileLock;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory that lasts as long as this value. Its maker holds a lock on it, which tells the living from the dead.
#[derive(Debug)]
pub(crate) struct Scratch {
    // The order of fields is the order of dropping: the lock goes last.
    directory: TempDir,
    _lock: FileLock,
}

const LOCK: &str = "lock";

impl Scratch {
    /// Makes one within `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent).doing("create", parent)?;
        loop {
            let directory = tempfile::Builder::new()
                .prefix("work-")
                .tempdir_in(parent)
                .doing("create a directory in", parent)?;
            // A sweep that came between the two steps took the directory away, or holds its lock to do so.
            match FileLock::try_acquire(&directory.path().join(LOCK)) {
                Ok(Some(lock)) if directory.path().exists() => {
                    return Ok(Self {
                        directory,
                        _lock: lock,
                    });
                }
                Err(error) if directory.path().exists() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Removes what dead processes left in `parent`; gives the number of directories.
pub(crate) fn sweep(parent: &Path) -> Result<usize> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).doing("read", parent),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.doing("read", parent)?.path();
        if let Ok(Some(_lock)) = FileLock::try_acquire(&path.join(LOCK)) {
            remove_tree(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a directory and what is in it, also below directories that its owner made read-only, as some package
/// caches are. A missing one is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => make_writable(path),
        // A process that was just killed may have added a file after its directory was read.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
        Err(error) => return Err(error).doing("remove", path),
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", path),
        _ => Ok(()),
    }
}

fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = path.symlink_metadata() else {
        return;
    };
    if !metadata.is_dir() {
        return;
    }
    // Failures show in the second removal, which names the path.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_the_dead_and_leaves_the_living() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        std::fs::create_dir(parent.path().join("work-dead")).unwrap();
        assert_eq!(sweep(parent.path()).unwrap(), 1);
        assert!(living.path("").exists());
        drop(living);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
