//! What can go wrong in this crate, in words for the person who has to act on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every failure of git work and of reading a project file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgeError {
    /// The `git` program could not be started.
    #[error("cannot start `{program}`: {source}; install git 2.38 or newer, or name it in the settings")]
    GitMissing {
        /// Program that was tried.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Git ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    GitFailed {
        /// Command line; it never holds a secret.
        command: String,
        /// Exit code or signal, in words.
        status: String,
        /// The last lines that git wrote, without credentials.
        stderr: String,
    },
    /// The disk or the quota of the data directory, or of a local origin, is used up.
    #[error("`{command}` found no room left on the disk: free some space and try again")]
    DiskFull {
        /// Command line.
        command: String,
    },
    /// Git was stopped because it took too long.
    #[error("`{command}` was stopped after {} s without an end", after.as_secs_f32())]
    GitTimedOut {
        /// Command line.
        command: String,
        /// The limit that applied.
        after: Duration,
    },
    /// A branch, revision or path that git must not be given.
    #[error("`{value}` is not a valid {what}: {reason}")]
    InvalidName {
        /// What it was to be.
        what: &'static str,
        /// The text.
        value: String,
        /// Why it is refused.
        reason: String,
    },
    /// A source that is neither a git URL nor a path. The text itself is left out where it may hold a secret.
    #[error("this source cannot be used: {reason}")]
    InvalidSource {
        /// Why, and what to write instead.
        reason: String,
    },
    /// A local path that is no readable git repository.
    #[error("{} is not a git repository that can be read: {reason}", path.display())]
    NotARepository {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The source has no commit yet.
    #[error(
        "{origin} has no commits, so there is nothing to work from; make a first commit there (and push it) and add the project again"
    )]
    EmptyRepository {
        /// Where it is.
        origin: String,
    },
    /// It cannot be told which branch is the default one.
    #[error(
        "{origin} does not say which of its branches is the default one; name it when adding the project, one of: {}",
        branches.join(", ")
    )]
    NoDefaultBranch {
        /// Where it is.
        origin: String,
        /// The branches it has.
        branches: Vec<String>,
    },
    /// Another source is cloned where this one would go.
    #[error("{} already holds a clone of {other}; remove that project first", path.display())]
    AlreadyCloned {
        /// The clone.
        path: PathBuf,
        /// The source it was made from.
        other: String,
    },
    /// There is no clone.
    #[error(
        "{} does not exist: the project's clone was removed, then add the project again; or it is on another server of \
         this database, then ask that one",
        path.display()
    )]
    NotCloned {
        /// Where the clone should be.
        path: PathBuf,
    },
    /// Origin could not be read, even after the retries.
    #[error("{origin} could not be reached in {tries} tries; the last: {last}")]
    Unreachable {
        /// Where it is.
        origin: String,
        /// Attempts made.
        tries: usize,
        /// The last failure.
        last: Box<ForgeError>,
    },
    /// Origin asks for credentials or refuses those given.
    #[error(
        "{origin} refused access ({reason}); give Ostler a credential that may read it, or check that the repository exists"
    )]
    AccessRefused {
        /// Where it is.
        origin: String,
        /// What git said.
        reason: String,
    },
    /// Origin and Ostler's repository have both moved, and the changes clash.
    #[error(
        "{branch} has moved here and at origin, and both changed {}; merge origin/{branch} into {branch} by hand in {} and sync again",
        files.join(", "), repository.display()
    )]
    Diverged {
        /// The branch.
        branch: String,
        /// Ostler's repository.
        repository: PathBuf,
        /// Files in conflict.
        files: Vec<String>,
    },
    /// No such branch or commit.
    #[error("there is no commit or branch `{name}` in {}", repository.display())]
    UnknownRevision {
        /// The name.
        name: String,
        /// Where it was looked for.
        repository: PathBuf,
    },
    /// The branch is checked out in a worktree.
    #[error("branch {branch} is in use by the worktree {}; remove that first", worktree.display())]
    BranchInUse {
        /// The branch.
        branch: String,
        /// The worktree.
        worktree: PathBuf,
    },
    /// The worktree exists with another branch.
    #[error("{} is the worktree of {found}, not of {wanted}; remove it first", path.display())]
    WorktreeTaken {
        /// The worktree.
        path: PathBuf,
        /// Branch that was asked for.
        wanted: String,
        /// Branch that it has.
        found: String,
    },
    /// No worktree for that subtask.
    #[error("{} is not a worktree of this project", path.display())]
    NoWorktree {
        /// Where it would be.
        path: PathBuf,
    },
    /// What came out of a sandbox is not a usable bundle.
    #[error("the work that came out of the sandbox cannot be taken over: {reason}")]
    BadBundle {
        /// Why.
        reason: String,
    },
    /// More bytes than allowed.
    #[error("{what} has {actual} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What.
        what: String,
        /// Size.
        actual: u64,
        /// Limit.
        limit: u64,
    },
    /// A branch moved under the operation again and again.
    #[error("{branch} kept moving during the merge; try again")]
    Contended {
        /// The branch.
        branch: String,
    },
    /// Somebody else holds the repository for too long.
    #[error("{} is locked by another operation for more than {} s; try again", path.display(), after.as_secs())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// A path that does not lie below the directory of clones.
    #[error("{} lies outside {}; it is not touched", path.display(), root.display())]
    OutsideRoot {
        /// The path.
        path: PathBuf,
        /// The directory of clones.
        root: PathBuf,
    },
    /// The `ostler.toml` of a repository.
    #[error("ostler.toml: {0}")]
    ProjectFile(#[from] crate::project_file::ProjectFileError),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Result of this crate.
pub type Result<T, E = ForgeError> = std::result::Result<T, E>;

/// Puts verb and path on an input or output error.
pub(crate) trait IoContext<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| ForgeError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}
