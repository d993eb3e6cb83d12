//! A lock on a repository, against the tasks of this process and against other processes.
//!
//! Git's own locks cover single references and the index, not `worktree add` and `worktree remove`, which race. The
//! file lock (flock) ends with its holder, so a killed server leaves none behind.

use crate::error::{ForgeError, IoContext, Result};
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(20);

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Waits at most `limit` for the lock file at `path`, which is made when it is missing.
    pub(crate) async fn acquire(path: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(ForgeError::Busy {
                    path: PathBuf::from(path),
                    after: limit,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The lock, unless somebody else has it.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).doing("create", parent)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .doing("open the lock file", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(source).doing("lock", path);
            }
        }
        // The last holder may have removed the file between open and lock; then this lock guards nothing.
        let mine = file.metadata().doing("look at", path)?.ino();
        let there = std::fs::metadata(path).ok().map(|m| m.ino());
        Ok((there == Some(mine)).then_some(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn excludes_until_dropped_and_survives_removal_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let held = FileLock::acquire(&path, Duration::ZERO).await.unwrap();
        let error = FileLock::acquire(&path, Duration::from_millis(30))
            .await
            .unwrap_err();
        assert!(matches!(error, ForgeError::Busy { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        drop(held);
        FileLock::acquire(&path, Duration::ZERO).await.unwrap();
    }
}
