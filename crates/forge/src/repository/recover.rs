//! Git's lock files that outlived their git: after a loss of power, every later call would be refused because of them.

use super::{LOCK_AGE, Repository, blocking};
use crate::error::{IoContext, Result};
use crate::lock::FileLock;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Removes lock files older than `age` from all clones below `root` that nobody is changing; gives their number.
pub(super) fn stale_locks(root: &Path, age: Duration) -> Result<usize> {
    let mut removed = 0;
    for repository in clones(root)? {
        if let Some(_lock) = FileLock::try_acquire(&repository.with_extension("git.lock"))? {
            removed += of_one(&repository, age)?;
        }
    }
    Ok(removed)
}

impl Repository {
    /// The same for this clone alone.
    pub(super) async fn remove_stale_locks(&self) -> Result<()> {
        let _lock = self.lock().await?;
        let path = self.path.clone();
        blocking(move || of_one(&path, LOCK_AGE)).await?;
        Ok(())
    }
}

/// Objects are not looked at: there are many, and they have no locks.
fn of_one(repository: &Path, age: Duration) -> Result<usize> {
    let parts = [("refs", true), ("worktrees", true), (".", false)];
    parts.into_iter().try_fold(0, |sum, (part, deep)| {
        Ok(sum + remove_locks(&repository.join(part), deep, age)?)
    })
}

/// Directories with a name in `.git` that are repositories; nothing is looked for within one.
fn clones(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).doing("read", &directory)?.flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir())
                || entry.file_name().as_encoded_bytes() == b".tmp"
            {
                continue;
            }
            if path.extension().is_some_and(|e| e == "git") && path.join("HEAD").is_file() {
                found.push(path);
            } else {
                waiting.push(path);
            }
        }
    }
    Ok(found)
}

fn remove_locks(directory: &Path, deep: bool, age: Duration) -> Result<usize> {
    let mut removed = 0;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(0);
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && deep {
            removed += remove_locks(&path, deep, age)?;
        } else if metadata.is_file() && path.extension().is_some_and(|e| e == "lock") {
            let old = metadata
                .modified()
                .ok()
                .and_then(|at| at.elapsed().ok())
                .is_some_and(|a| a >= age);
            if old {
                std::fs::remove_file(&path).doing("remove", &path)?;
                tracing::warn!(path = %path.display(), "removed a lock file that outlived its git");
                removed += 1;
            }
        }
    }
    Ok(removed)
}
