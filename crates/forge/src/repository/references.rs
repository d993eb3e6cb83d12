//! Reading and moving references.

use super::{Repository, finished};
use crate::error::{ForgeError, Result};
use crate::names::branch_ref;

/// What `update-ref` is told: either all of these happen or none.
#[derive(Default)]
pub(super) struct Transaction(String);

impl Transaction {
    /// Moves `reference` from `old` (`None`: it must not exist) to `new`.
    pub(super) fn set(&mut self, reference: &str, new: &str, old: Option<&str>) {
        let old = old.map_or_else(|| "0".repeat(new.len()), str::to_owned);
        self.line(&["update ", reference, "\0", new, "\0", &old]);
    }

    /// Moves `reference` to `new`, wherever it is.
    pub(super) fn force(&mut self, reference: &str, new: &str) {
        self.line(&["update ", reference, "\0", new, "\0"]);
    }

    /// Removes `reference`, if it is there.
    pub(super) fn delete(&mut self, reference: &str) {
        self.line(&["delete ", reference, "\0"]);
    }

    fn line(&mut self, parts: &[&str]) {
        self.0.extend(parts.iter().copied());
        self.0.push('\0');
    }
}

impl Repository {
    /// The commit that `revision` (a branch, a full reference or a commit id) names, if there is one.
    pub(super) async fn resolve(&self, revision: &str) -> Result<Option<String>> {
        let full = if revision.starts_with("refs/") || is_object_id(revision) {
            revision.to_owned()
        } else {
            branch_ref(revision)?
        };
        let answer = self
            .git("rev-parse")
            .arg("--verify")
            .arg("--quiet")
            .arg("--end-of-options")
            .value(format!("{full}^{{commit}}"))
            .or_code(&[0, 1])
            .run()
            .await?;
        Ok(Some(answer.text()).filter(|id| answer.code == 0 && is_object_id(id)))
    }

    /// As [`Self::resolve`], with an error when there is none.
    pub(super) async fn commit(&self, revision: &str) -> Result<String> {
        self.must_exist()?;
        self.resolve(revision)
            .await?
            .ok_or_else(|| ForgeError::UnknownRevision {
                name: revision.to_owned(),
                repository: self.path.clone(),
            })
    }

    /// The commit that a branch is at, or `None` when there is no such branch.
    ///
    /// # Errors
    /// No clone, or not a branch name.
    pub async fn head_of(&self, branch: &str) -> Result<Option<String>> {
        self.must_exist()?;
        self.resolve(&branch_ref(branch)?).await
    }

    /// The commit that `revision` (a branch or the id of a commit) names, if it is one of `branch`: all that a sandbox is given.
    ///
    /// # Errors
    /// No clone, no such branch or commit, or a commit that is not in the branch.
    pub async fn commit_of(&self, branch: &str, revision: &str) -> Result<String> {
        let head = self.commit(&branch_ref(branch)?).await?;
        let commit = self.commit(revision).await?;
        if self.is_ancestor(&commit, &head).await? {
            return Ok(commit);
        }
        Err(ForgeError::UnknownRevision {
            name: format!("{revision} of the branch {branch}"),
            repository: self.path.clone(),
        })
    }

    /// Whether everything in `old` is also in `new`.
    pub(super) async fn is_ancestor(&self, old: &str, new: &str) -> Result<bool> {
        let answer = self
            .git("merge-base")
            .arg("--is-ancestor")
            .value(old)
            .value(new)
            .or_code(&[0, 1])
            .run()
            .await?;
        Ok(answer.code == 0)
    }

    /// Carries out `transaction`; `false` when a reference was not where it was expected.
    ///
    /// Runs to its end even if the caller is cancelled: a git that is stopped between two references leaves one moved
    /// and the lock of the other behind.
    pub(super) async fn update(&self, transaction: Transaction) -> Result<bool> {
        let (git, path) = (self.shared.git.clone(), self.path.clone());
        let result = finished(async move {
            git.call("update-ref")
                .git_dir(&path)
                .arg("--stdin")
                .arg("-z")
                .input(transaction.0)
                .run()
                .await
        })
        .await;
        match result {
            Ok(_) => Ok(true),
            Err(ForgeError::GitFailed { stderr, .. })
                if stderr.contains("but expected") || stderr.contains("reference already exists") =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
