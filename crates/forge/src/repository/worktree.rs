//! Worktrees of subtasks: one directory each, made and removed by one operation at a time.
//!
//! An agent may have written to a worktree, its `.git` file included. So git is never run *in* one: it is told the
//! administrative directory in our repository and the directory of files apart, and reads no `.git` file.

use super::{Repository, blocking, finished};
use crate::error::{ForgeError, IoContext, Result};
use crate::names::{branch_ref, check_branch};
use crate::scratch::remove_tree;
use ostler_domain::SubtaskId;
use std::path::{Path, PathBuf};

/// A registered worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// Its directory.
    pub path: PathBuf,
    /// Its branch, unless it has none.
    pub branch: Option<String>,
    /// Whether its directory is there and complete.
    pub usable: bool,
}

impl Repository {
    /// The worktree of `subtask` on `branch`; the branch is made from `base` if it does not exist.
    ///
    /// Repeating it gives the same worktree, as it is. One that a killed server left unfinished is made anew.
    ///
    /// # Errors
    /// No such base; the branch is in another worktree; the worktree has another branch; a full disk.
    pub async fn worktree_add(&self, subtask: SubtaskId, branch: &str, base: &str) -> Result<PathBuf> {
        let reference = branch_ref(branch)?;
        let path = self.worktree_path(subtask);
        let _lock = self.lock().await?;
        self.must_exist()?;
        for other in self.registered().await? {
            if other.path == path {
                match other.branch {
                    Some(found) if other.usable && found == branch => return Ok(path),
                    Some(found) if other.usable => {
                        return Err(ForgeError::WorktreeTaken {
                            path,
                            wanted: branch.to_owned(),
                            found,
                        });
                    }
                    _ => {}
                }
            } else if other.usable && other.branch.as_deref() == Some(branch) {
                return Err(ForgeError::BranchInUse {
                    branch: branch.to_owned(),
                    worktree: other.path,
                });
            }
        }
        self.forget(&path).await?;
        let mut call = self.git("worktree").arg("add").arg("--quiet");
        if self.resolve(&reference).await?.is_some() {
            call = call.value(&path).value(branch);
        } else {
            let start = self.commit(base).await?;
            call = call
                .arg("--no-track")
                .arg("-b")
                .value(branch)
                .value(&path)
                .value(start);
        }
        if let Err(error) = call.run().await {
            // Whatever git made of it is not a worktree; the first error is the one to tell.
            let _ = self.forget(&path).await;
            return Err(error);
        }
        Ok(path)
    }

    /// Removes the worktree of `subtask`, with all files in it. One that is not there is no error.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn worktree_remove(&self, subtask: SubtaskId) -> Result<()> {
        let path = self.worktree_path(subtask);
        let _lock = self.lock().await?;
        if self.must_exist().is_err() {
            return blocking(move || remove_tree(&path)).await;
        }
        self.forget(&path).await
    }

    /// All worktrees of the project.
    ///
    /// # Errors
    /// No clone.
    pub async fn worktree_list(&self) -> Result<Vec<Worktree>> {
        self.must_exist()?;
        let _lock = self.lock().await?;
        self.registered().await
    }

    /// Removes the directory and what our repository knows of it. The lock must be held.
    pub(super) async fn forget(&self, path: &Path) -> Result<()> {
        let directory = path.to_owned();
        blocking(move || remove_tree(&directory)).await?;
        if let Some(administration) = self.administration(path).await? {
            blocking(move || remove_tree(&administration)).await?;
        }
        Ok(())
    }

    /// Brings the files of the worktree to the commit of its branch. The lock must be held.
    pub(super) async fn refresh_worktree(&self, path: &Path) -> Result<()> {
        let administration = self
            .administration(path)
            .await?
            .ok_or_else(|| ForgeError::NoWorktree {
                path: path.to_owned(),
            })?;
        let (git, path) = (self.shared.git.clone(), path.to_owned());
        finished(async move {
            let call = |subcommand| git.call(subcommand).git_dir(&administration).work_tree(&path);
            call("reset").arg("--hard").arg("--quiet").run().await?;
            call("clean").arg("-ffdxq").run().await?;
            Ok(())
        })
        .await
    }

    /// As [`Self::refresh_worktree`], for whichever worktree has `branch`.
    pub(super) async fn refresh_worktree_of(&self, branch: &str) -> Result<()> {
        let worktrees = self.registered().await?;
        let has = |w: &&Worktree| w.usable && w.branch.as_deref() == Some(branch);
        match worktrees.iter().find(has) {
            Some(worktree) => self.refresh_worktree(&worktree.path).await,
            None => Ok(()),
        }
    }

    /// The directory in our repository that keeps HEAD and index of the worktree at `path`.
    pub(super) async fn administration(&self, path: &Path) -> Result<Option<PathBuf>> {
        let (worktrees, pointer) = (self.path.join("worktrees"), path.join(".git"));
        blocking(move || {
            Ok(administrations(&worktrees)?
                .into_iter()
                .find(|(_, points_to)| *points_to == pointer)
                .map(|(directory, _)| directory))
        })
        .await
    }

    /// The worktrees, read from our repository alone.
    pub(super) async fn registered(&self) -> Result<Vec<Worktree>> {
        let worktrees = self.path.join("worktrees");
        blocking(move || {
            let mut found = Vec::new();
            for (administration, pointer) in administrations(&worktrees)? {
                let head = std::fs::read_to_string(administration.join("HEAD")).unwrap_or_default();
                let branch = head.trim().strip_prefix("ref: refs/heads/").map(str::to_owned);
                // Git keeps a worktree locked while it makes it, and removes this file at the end.
                let unfinished =
                    administration.join("locked").exists() || !administration.join("index").exists();
                found.push(Worktree {
                    usable: !unfinished && pointer.exists(),
                    path: pointer.parent().unwrap_or(&pointer).to_owned(),
                    branch: branch.filter(|b| check_branch(b).is_ok()),
                });
            }
            found.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(found)
        })
        .await
    }
}

/// Pairs of an administrative directory and the `.git` file that it belongs to.
fn administrations(worktrees: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let entries = match std::fs::read_dir(worktrees) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing("read", worktrees),
    };
    let mut found = Vec::new();
    for entry in entries {
        let directory = entry.doing("read", worktrees)?.path();
        if let Ok(pointer) = std::fs::read_to_string(directory.join("gitdir")) {
            found.push((directory, PathBuf::from(pointer.trim_end_matches('\n'))));
        }
    }
    Ok(found)
}
