//! Bringing merges back to origin.

use super::Repository;
use crate::error::{ForgeError, Result};
use crate::git::Credential;
use crate::names::branch_ref;
use std::path::{Path, PathBuf};

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Origin's branch has all of ours.
    Published,
    /// Origin was left as it is. Nothing is lost: our branch has the work.
    Skipped {
        /// Why, and what to do.
        reason: String,
    },
}

impl Repository {
    /// Brings `branch` to origin. Never by force.
    ///
    /// Where origin is a repository on this machine that has the branch checked out, a push would be refused, since it
    /// would pull the files away from under their owner. What the owner would do is done instead: with a clean working
    /// tree it is moved forward as `git merge --ff-only` does; with uncommitted changes it is left, and the reason
    /// says how to fetch the work.
    ///
    /// # Errors
    /// Origin unreachable or access refused; a git that fails otherwise.
    pub async fn publish(&self, branch: &str, credential: Option<&Credential>) -> Result<PublishOutcome> {
        let reference = branch_ref(branch)?;
        let ours = self.commit(&reference).await?;
        if let Some(path) = self.source.local_path()
            && let Some(checkout) = self.checkout_of(path, &reference).await?
        {
            // Two merges that are brought there at once would find each other's lock files.
            let _lock = self.lock().await?;
            return self.move_checkout(&checkout, branch, &ours).await;
        }
        let pushed = self
            .to_origin(self.git("push"), credential)
            .configure("remote.origin.receivepack=git -c safe.directory=* receive-pack")
            .arg("--porcelain")
            .arg("--no-verify")
            .arg("origin")
            .value(format!("{reference}:{reference}"))
            .or_code(&[0, 1])
            .run()
            .await?;
        if pushed.code == 0 {
            return Ok(PublishOutcome::Published);
        }
        let text = pushed.text();
        let line = text.lines().find(|l| l.starts_with('!')).unwrap_or(&text);
        let why = line.split('\t').next_back().unwrap_or(line).trim().to_owned();
        let moved = why.contains("fetch first") || why.contains("non-fast-forward");
        let what_to_do = if moved {
            "origin has commits that Ostler does not have; sync the project, then publish again"
        } else {
            "check the rules of origin for this branch, or fetch the branch from Ostler's repository"
        };
        Ok(PublishOutcome::Skipped {
            reason: format!("origin did not take {branch}: {why}; {what_to_do}"),
        })
    }

    /// The directory in which a local origin has the branch checked out.
    async fn checkout_of(&self, path: &Path, reference: &str) -> Result<Option<PathBuf>> {
        let list = self
            .shared
            .git
            .call("worktree")
            .inside(path)
            .arg("list")
            .arg("--porcelain")
            .arg("-z")
            .run()
            .await?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let branch = format!("branch {reference}");
        for entry in list.split("\0\0") {
            let mut lines = entry.split('\0');
            if let Some(directory) = lines.next().and_then(|l| l.strip_prefix("worktree "))
                && lines.any(|line| line == branch)
            {
                return Ok(Some(PathBuf::from(directory)));
            }
        }
        Ok(None)
    }

    async fn move_checkout(&self, checkout: &Path, branch: &str, ours: &str) -> Result<PublishOutcome> {
        let git = |subcommand| {
            self.shared
                .git
                .call(subcommand)
                .inside(checkout)
                .owners_configuration()
        };
        let skipped = |why: &str| {
            let reason = format!(
                "{} {why}; to take the work over, run `git pull {} {branch}` there",
                checkout.display(),
                self.path.display()
            );
            Ok(PublishOutcome::Skipped { reason })
        };
        let status = git("status")
            .arg("--porcelain")
            .arg("--untracked-files=no")
            .arg("--ignore-submodules")
            .run()
            .await?;
        if !status.stdout.is_empty() {
            return skipped("has uncommitted changes");
        }
        git("fetch")
            .arg("--quiet")
            .arg("--no-tags")
            .arg("--no-write-fetch-head")
            .arg("--upload-pack=git -c safe.directory=* upload-pack")
            .value(&self.path)
            .value(branch_ref(branch)?)
            .run()
            .await?;
        // Refuses when the branch has moved, or when an untracked file is in the way; either way nothing is changed.
        match git("merge")
            .arg("--ff-only")
            .arg("--quiet")
            .value(ours)
            .run()
            .await
        {
            Ok(_) => Ok(PublishOutcome::Published),
            Err(ForgeError::GitFailed { stderr, .. }) => {
                let first = stderr
                    .lines()
                    .find(|l| !l.starts_with("hint:"))
                    .unwrap_or_default();
                skipped(&format!("cannot be moved forward ({})", first.trim()))
            }
            Err(error) => Err(error),
        }
    }
}
