//! Merges without a worktree: a tree, a commit, and one atomic move of the branch.

use super::Repository;
use super::references::Transaction;
use crate::error::{ForgeError, Result};
use crate::names::branch_ref;
use serde::{Deserialize, Serialize};

/// How a merge request lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeStrategy {
    /// A merge commit with both histories.
    #[default]
    MergeCommit,
    /// One commit with the whole change.
    Squash,
}

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The target has the work now, or had it already from an earlier call with the same head.
    Merged {
        /// The commit that the merge made.
        commit: String,
    },
    /// Both sides changed the same places; nothing was done.
    Conflict {
        /// The files.
        files: Vec<String>,
    },
    /// The source branch is not at the expected commit; nothing was done.
    HeadMoved {
        /// Where it is.
        head: String,
    },
    /// The source branch has no change that the target does not have.
    NothingToMerge,
    /// The target has commits that the source branch does not have; nothing was done. Only from
    /// [`Repository::merge_up_to_date`].
    Behind,
}

/// What bringing a branch up to its target came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It has all of the target.
    UpToDate,
    /// The target was merged into it.
    Updated {
        /// Its new head.
        commit: String,
    },
    /// It clashes with the target; nothing was done.
    Conflict {
        /// The files.
        files: Vec<String>,
    },
}

pub(super) enum MergedTree {
    Clean(String),
    Conflict(Vec<String>),
}

impl Repository {
    /// Whether `target` has commits that `branch` does not have.
    ///
    /// # Errors
    /// No such branch.
    pub async fn is_behind(&self, branch: &str, target: &str) -> Result<bool> {
        let source = self.commit(&branch_ref(branch)?).await?;
        let onto = self.commit(&branch_ref(target)?).await?;
        Ok(!self.is_ancestor(&onto, &source).await?)
    }

    /// Whether `source_branch` could be merged into `target` now. Changes nothing.
    /// [`MergeOutcome::Merged`] holds the present head of the source.
    ///
    /// # Errors
    /// No such branch; unrelated histories.
    pub async fn merge_check(&self, source_branch: &str, target: &str) -> Result<MergeOutcome> {
        let source = self.commit(&branch_ref(source_branch)?).await?;
        let onto = self.commit(&branch_ref(target)?).await?;
        if self.is_ancestor(&source, &onto).await? {
            return Ok(MergeOutcome::NothingToMerge);
        }
        Ok(match self.merged_tree(&onto, &source).await? {
            MergedTree::Clean(_) => MergeOutcome::Merged { commit: source },
            MergedTree::Conflict(files) => MergeOutcome::Conflict { files },
        })
    }

    /// Merges `source_branch` into `target` with the configured strategy.
    ///
    /// With `expected_head`, only if the source is at that commit: what was checked is what lands. Repeating a merge
    /// that succeeded gives the same [`MergeOutcome::Merged`].
    ///
    /// # Errors
    /// No such branch; unrelated histories; the target kept moving.
    pub async fn merge(
        &self,
        source_branch: &str,
        target: &str,
        message: &str,
        expected_head: Option<&str>,
    ) -> Result<MergeOutcome> {
        self.merge_if(source_branch, target, message, expected_head, false)
            .await
    }

    /// As [`Self::merge`], but only if the source has everything that the target has: what lands is, file for file,
    /// what `expected_head` is.
    ///
    /// # Errors
    /// As [`Self::merge`].
    pub async fn merge_up_to_date(
        &self,
        source_branch: &str,
        target: &str,
        message: &str,
        expected_head: &str,
    ) -> Result<MergeOutcome> {
        self.merge_if(source_branch, target, message, Some(expected_head), true)
            .await
    }

    async fn merge_if(
        &self,
        source_branch: &str,
        target: &str,
        message: &str,
        expected_head: Option<&str>,
        up_to_date: bool,
    ) -> Result<MergeOutcome> {
        let source_ref = branch_ref(source_branch)?;
        let target_ref = branch_ref(target)?;
        let _lock = self.lock().await?;
        let record_head = format!("refs/ostler/merge-head/{source_branch}");
        let record_commit = format!("refs/ostler/merge-commit/{source_branch}");
        for _ in 0..5 {
            let source = self.commit(&source_ref).await?;
            if expected_head.is_some_and(|expected| expected != source) {
                return Ok(MergeOutcome::HeadMoved { head: source });
            }
            let onto = self.commit(&target_ref).await?;
            if self.resolve(&record_head).await?.as_deref() == Some(source.as_str())
                && let Some(commit) = self.resolve(&record_commit).await?
                && self.is_ancestor(&commit, &onto).await?
            {
                return Ok(MergeOutcome::Merged { commit });
            }
            if self.is_ancestor(&source, &onto).await? {
                return Ok(MergeOutcome::NothingToMerge);
            }
            if up_to_date && !self.is_ancestor(&onto, &source).await? {
                return Ok(MergeOutcome::Behind);
            }
            let tree = match self.merged_tree(&onto, &source).await? {
                MergedTree::Clean(tree) => tree,
                MergedTree::Conflict(files) => return Ok(MergeOutcome::Conflict { files }),
            };
            let parents: &[&str] = match self.shared.options.strategy {
                MergeStrategy::MergeCommit => &[&onto, &source],
                MergeStrategy::Squash if tree == self.tree_of(&onto).await? => {
                    return Ok(MergeOutcome::NothingToMerge);
                }
                MergeStrategy::Squash => &[&onto],
            };
            let commit = self.commit_tree(&tree, parents, message).await?;
            // The record counts only when its commit is on the target, so it does no harm if the merge is not made.
            let mut record = Transaction::default();
            record.force(&record_commit, &commit);
            record.force(&record_head, &source);
            self.update(record).await?;
            let mut transaction = Transaction::default();
            transaction.set(&target_ref, &commit, Some(&onto));
            if self.update(transaction).await? {
                tracing::info!(source = source_branch, target, %commit, "merged");
                return Ok(MergeOutcome::Merged { commit });
            }
        }
        Err(ForgeError::Contended {
            branch: target.to_owned(),
        })
    }

    /// Merges `target` into `branch` when that is clean, and brings the branch's worktree, if it has one, to it.
    ///
    /// # Errors
    /// No such branch; unrelated histories; the branch kept moving.
    pub async fn update_branch(&self, branch: &str, target: &str) -> Result<UpdateOutcome> {
        let reference = branch_ref(branch)?;
        let _lock = self.lock().await?;
        for _ in 0..5 {
            let ours = self.commit(&reference).await?;
            let theirs = self.commit(&branch_ref(target)?).await?;
            if self.is_ancestor(&theirs, &ours).await? {
                return Ok(UpdateOutcome::UpToDate);
            }
            let tree = match self.merged_tree(&ours, &theirs).await? {
                MergedTree::Clean(tree) => tree,
                MergedTree::Conflict(files) => return Ok(UpdateOutcome::Conflict { files }),
            };
            let message = format!("Merge {target} into {branch}");
            let commit = self.commit_tree(&tree, &[&ours, &theirs], &message).await?;
            let mut transaction = Transaction::default();
            transaction.set(&reference, &commit, Some(&ours));
            if self.update(transaction).await? {
                self.refresh_worktree_of(branch).await?;
                return Ok(UpdateOutcome::Updated { commit });
            }
        }
        Err(ForgeError::Contended {
            branch: branch.to_owned(),
        })
    }

    /// The tree of a merge of `theirs` into `ours`, both commit ids.
    pub(super) async fn merged_tree(&self, ours: &str, theirs: &str) -> Result<MergedTree> {
        let output = self
            .git("merge-tree")
            .arg("--write-tree")
            .arg("-z")
            .arg("--name-only")
            .arg("--no-messages")
            .value(ours)
            .value(theirs)
            .or_code(&[0, 1])
            .run()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut parts = text
            .split('\0')
            .filter(|part| !part.is_empty())
            .map(str::to_owned);
        let tree = parts.next().unwrap_or_default();
        if output.code == 0 {
            return Ok(MergedTree::Clean(tree));
        }
        let mut files: Vec<String> = parts.collect();
        files.dedup();
        Ok(MergedTree::Conflict(files))
    }

    pub(super) async fn commit_tree(&self, tree: &str, parents: &[&str], message: &str) -> Result<String> {
        let mut call = self.git("commit-tree").value(tree);
        for parent in parents {
            call = call.arg("-p").value(parent);
        }
        // An empty message would be refused; the merge itself must not fail for that.
        let message = if message.trim().is_empty() {
            "Merge"
        } else {
            message
        };
        call.arg("-F").arg("-").input(message).text().await
    }

    async fn tree_of(&self, commit: &str) -> Result<String> {
        self.git("rev-parse")
            .arg("--verify")
            .value(format!("{commit}^{{tree}}"))
            .text()
            .await
    }
}
