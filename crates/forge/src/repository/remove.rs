//! Taking away: branches, whole clones, and what has piled up.

use super::references::Transaction;
use super::{Repository, blocking};
use crate::error::{ForgeError, IoContext, Result};
use crate::names::branch_ref;
use crate::scratch::{Scratch, remove_tree};

impl Repository {
    /// Removes a branch and what is remembered of its merge. One that is not there is no error.
    ///
    /// # Errors
    /// It is the default branch of the clone, or in use by a worktree.
    pub async fn delete_branch(&self, branch: &str) -> Result<()> {
        let reference = branch_ref(branch)?;
        let _lock = self.lock().await?;
        self.must_exist()?;
        if self.git("symbolic-ref").arg("HEAD").text().await? == reference {
            return Err(ForgeError::InvalidName {
                what: "branch to delete",
                value: branch.to_owned(),
                reason: "it is the default branch".to_owned(),
            });
        }
        let used = self.registered().await?;
        if let Some(worktree) = used
            .into_iter()
            .find(|w| w.usable && w.branch.as_deref() == Some(branch))
        {
            return Err(ForgeError::BranchInUse {
                branch: branch.to_owned(),
                worktree: worktree.path,
            });
        }
        let mut transaction = Transaction::default();
        for reference in [
            reference,
            format!("refs/ostler/merge-head/{branch}"),
            format!("refs/ostler/merge-commit/{branch}"),
        ] {
            if self.resolve(&reference).await?.is_some() {
                transaction.delete(&reference);
            }
        }
        self.update(transaction).await?;
        Ok(())
    }

    /// Removes the clone and all its worktrees. Repeating it is no error.
    ///
    /// # Errors
    /// The clone does not lie below the directory of clones (through a symbolic link, say), or a file cannot be
    /// removed.
    pub async fn remove(&self) -> Result<()> {
        let lock = self.lock().await?;
        let (root, path) = (self.shared.root.clone(), self.path.clone());
        let worktrees = self.registered().await?;
        let (allowed, scratch) = (self.shared.worktrees.clone(), self.shared.scratch());
        let lock_path = self.lock_path();
        blocking(move || {
            let top = root.canonicalize().doing("look at", &root)?;
            if path.symlink_metadata().is_ok() {
                let real = path.canonicalize().doing("look at", &path)?;
                if !real.starts_with(&top) || real == top {
                    return Err(ForgeError::OutsideRoot { path, root });
                }
            }
            for worktree in worktrees
                .iter()
                .filter(|w| w.path.parent() == Some(allowed.as_path()))
            {
                remove_tree(&worktree.path)?;
            }
            // Moved away first, so that a kill in the middle leaves no half of a clone that looks like a whole one.
            let scratch = Scratch::new(&scratch)?;
            let doomed = scratch.path("removed");
            match std::fs::rename(&path, &doomed) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing("remove", &path);
                }
                _ => remove_tree(&doomed)?,
            }
            let _ = std::fs::remove_file(&lock_path);
            // Empty directories of host and owner; the first that is in use ends it.
            let mut parent = path.parent();
            while let Some(directory) = parent.filter(|d| *d != root && d.starts_with(&root)) {
                if std::fs::remove_dir(directory).is_err() {
                    break;
                }
                parent = directory.parent();
            }
            Ok(())
        })
        .await?;
        drop(lock);
        Ok(())
    }

    /// Packs the repository and drops what nothing refers to any more. Takes seconds to minutes on a large one.
    ///
    /// # Errors
    /// Git fails, or another operation holds the repository.
    pub async fn maintain(&self) -> Result<()> {
        self.must_exist()?;
        let _lock = self.lock().await?;
        self.git("worktree").arg("prune").run().await?;
        self.git("gc").arg("--quiet").network(None, None).run().await?;
        Ok(())
    }
}
