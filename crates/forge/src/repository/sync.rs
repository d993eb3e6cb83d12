//! Bringing our default branch up to origin's before work starts.

use super::Repository;
use super::clone::fetch_all;
use super::merge::MergedTree;
use super::references::Transaction;
use crate::error::{ForgeError, Result};
use crate::git::Credential;
use crate::names::branch_ref;

/// What a sync found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Nothing new at origin. Our branch may have merges that origin does not have yet.
    UpToDate,
    /// Our branch had nothing of its own and is now where origin's is.
    Updated {
        /// Its commit.
        commit: String,
    },
    /// Both had moved; origin's commits were merged into our branch.
    Merged {
        /// The merge commit.
        commit: String,
    },
}

impl Repository {
    /// Fetches origin and brings `branch`, normally the default branch, up to it.
    ///
    /// Ostler's repository is the truth for merges. So:
    /// - nothing new at origin: nothing changes;
    /// - our branch has no commits of its own since the last sync: it is set to origin's, even if origin was rewritten;
    /// - our branch is behind: it is moved forward;
    /// - both have moved: origin's commits are merged into ours;
    /// - and if that clashes, nothing changes and the error names the files.
    ///
    /// # Errors
    /// Origin unreachable after the retries, access refused, branch gone at origin, or a clash.
    pub async fn sync(&self, branch: &str, credential: Option<&Credential>) -> Result<SyncOutcome> {
        self.must_exist()?;
        let local = branch_ref(branch)?;
        self.remove_stale_locks().await?;
        {
            let _one_fetch = self.locks.fetch.lock().await;
            self.with_retries(|| self.to_origin(fetch_all(self.git("fetch")), credential))
                .await?;
        }
        let _lock = self.lock().await?;
        let theirs = self.commit(&format!("refs/remotes/origin/{branch}")).await?;
        let synced = format!("refs/ostler/synced/{branch}");
        for _ in 0..5 {
            let ours = self.head_of(branch).await?;
            let last = self.resolve(&synced).await?;
            let mut transaction = Transaction::default();
            let outcome = match ours.as_deref() {
                Some(ours) if ours == theirs || self.is_ancestor(&theirs, ours).await? => {
                    SyncOutcome::UpToDate
                }
                Some(ours) if Some(ours) != last.as_deref() && !self.is_ancestor(ours, &theirs).await? => {
                    let tree = match self.merged_tree(ours, &theirs).await? {
                        MergedTree::Clean(tree) => tree,
                        MergedTree::Conflict(files) => {
                            return Err(ForgeError::Diverged {
                                branch: branch.to_owned(),
                                repository: self.path.clone(),
                                files,
                            });
                        }
                    };
                    let message = format!("Merge origin's {branch}");
                    let commit = self.commit_tree(&tree, &[ours, &theirs], &message).await?;
                    transaction.set(&local, &commit, Some(ours));
                    SyncOutcome::Merged { commit }
                }
                ours => {
                    transaction.set(&local, &theirs, ours);
                    SyncOutcome::Updated {
                        commit: theirs.clone(),
                    }
                }
            };
            // After the branch: a sync that was cut off between the two only merges where it could have reset.
            transaction.force(&synced, &theirs);
            if self.update(transaction).await? {
                return Ok(outcome);
            }
        }
        Err(ForgeError::Contended {
            branch: branch.to_owned(),
        })
    }
}
