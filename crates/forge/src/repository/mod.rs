//! Ostler's clones of the projects' repositories.
//!
//! Each clone is a bare repository at `<root>/<tenant>/<host>/<owner>/<name>.git`. It is bare because nobody works in
//! it: it *is* the repository of the local forge. References in it:
//!
//! - `refs/heads/<default branch>`: the truth for merges. Merge requests land here first, and are published to origin
//!   after (see [`Repository::publish`]).
//! - `refs/heads/<other>`: branches of subtasks.
//! - `refs/remotes/origin/*`: what origin had at the last fetch.
//! - `refs/ostler/synced/<branch>`: the commit of origin that our branch was last brought to; tells commits of our own
//!   from commits that origin took back.
//! - `refs/ostler/merge-head/<branch>` and `refs/ostler/merge-commit/<branch>`: which head of a subtask's branch was
//!   merged by which commit, written just before the merge, so that a merge repeated after a crash finds its result.
//!
//! Every change of a branch is one `update-ref` with the old value: whole or not at all, whenever Ostler is killed.
//! Git does not promise that for several references at once, so no step relies on it.

mod bundle;
mod clone;
mod inspect;
mod merge;
mod publish;
mod recover;
mod references;
mod remove;
mod sync;
mod worktree;

pub use bundle::Bundle;
pub use clone::Cloned;
pub use inspect::{Commit, Diff, FileStat};
pub use merge::{MergeOutcome, MergeStrategy, UpdateOutcome};
pub use publish::PublishOutcome;
pub use sync::SyncOutcome;
pub use worktree::Worktree;

use crate::error::{ForgeError, IoContext, Result};
use crate::git::{Call, Git};
use crate::lock::FileLock;
use crate::scratch;
use crate::source::Source;
use ostler_domain::{Project, SubtaskId, TenantId};
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Limits and intervals; each is a setting.
#[derive(Debug, Clone)]
pub struct ForgeOptions {
    /// Waits before the second, third … try of a fetch that failed. A first try and these: four tries by default.
    pub retry_delays: Vec<Duration>,
    /// How long an operation waits for another one on the same repository.
    pub lock_timeout: Duration,
    /// Largest bundle that is taken from a sandbox, in bytes.
    pub max_bundle_bytes: u64,
    /// Largest size of all files of a branch that a sandbox gives back, in bytes: a small bundle can hold a huge tree.
    pub max_tree_bytes: u64,
    /// Largest file that [`Repository::file_at`] reads, in bytes.
    pub max_file_bytes: u64,
    /// Whether a merge makes a merge commit or one squashed commit.
    pub strategy: MergeStrategy,
}

impl Default for ForgeOptions {
    fn default() -> Self {
        Self {
            retry_delays: [1, 2, 4].map(Duration::from_secs).into(),
            lock_timeout: Duration::from_secs(120),
            max_bundle_bytes: 2 << 30,
            max_tree_bytes: 16 << 30,
            max_file_bytes: 1 << 20,
            strategy: MergeStrategy::MergeCommit,
        }
    }
}

/// No git that Ostler runs holds a lock file for so long.
const LOCK_AGE: Duration = Duration::from_secs(60);

/// One mutex for changes, one for fetches: a fetch over a slow network must not hold up a worktree.
#[derive(Debug, Default)]
struct Locks {
    change: tokio::sync::Mutex<()>,
    fetch: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    worktrees: PathBuf,
    git: Git,
    options: ForgeOptions,
    locks: Mutex<HashMap<PathBuf, Weak<Locks>>>,
}

/// All clones of one data directory; cheap to clone.
#[derive(Debug, Clone)]
pub struct Repositories {
    shared: Arc<Shared>,
}

/// One project's clone, whether it exists yet or not; cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    shared: Arc<Shared>,
    locks: Arc<Locks>,
    source: Source,
    path: PathBuf,
}

/// Keeps other changes of the repository away, in this process and in others.
struct ChangeLock<'a> {
    _file: FileLock,
    _task: tokio::sync::MutexGuard<'a, ()>,
}

impl Repositories {
    /// Clones below `root`; worktrees in the directory `worktrees` beside it. Both are made when they are missing.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(root: &Path, git: Git, options: ForgeOptions) -> Result<Self> {
        let root = real_directory(root)?;
        let worktrees = real_directory(&root.with_file_name("worktrees"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                worktrees,
                git,
                options,
                locks: Mutex::default(),
            }),
        })
    }

    /// The clone of `source` for `tenant`.
    pub fn repository(&self, tenant: TenantId, source: &Source) -> Repository {
        let path = self.shared.root.join(tenant.to_string()).join(source.key());
        let mut locks = self.shared.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, weak| weak.strong_count() > 0);
        let known = locks.get(&path).and_then(Weak::upgrade);
        let lock = known.unwrap_or_else(|| {
            let new = Arc::new(Locks::default());
            locks.insert(path.clone(), Arc::downgrade(&new));
            new
        });
        Repository {
            shared: Arc::clone(&self.shared),
            locks: lock,
            source: source.clone(),
            path,
        }
    }

    /// The clone of a project.
    ///
    /// # Errors
    /// The project's source cannot be understood.
    pub fn of(&self, project: &Project) -> Result<Repository> {
        Ok(self.repository(project.tenant_id, &Source::parse(&project.source)?))
    }

    /// Understands what a person gave as a source ([`Source::parse`]); a local path is looked at and reduced to the top
    /// directory of its repository, without symbolic links.
    ///
    /// # Errors
    /// Not understood, or not a readable repository.
    pub async fn parse_source(&self, text: &str) -> Result<Source> {
        let source = Source::parse(text)?;
        let Some(path) = source.local_path() else {
            return Ok(source);
        };
        let refuse = |reason: String| ForgeError::NotARepository {
            path: path.to_owned(),
            reason,
        };
        let canonical = tokio::fs::canonicalize(path)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        if !canonical.is_dir() {
            return Err(refuse("it is not a directory".to_owned()));
        }
        let git = &self.shared.git;
        let bare = git
            .call("rev-parse")
            .inside(&canonical)
            .arg("--is-bare-repository")
            .text()
            .await;
        let top = match bare.as_deref() {
            Ok("true") => {
                git.call("rev-parse")
                    .inside(&canonical)
                    .arg("--absolute-git-dir")
                    .text()
                    .await
            }
            Ok(_) => {
                git.call("rev-parse")
                    .inside(&canonical)
                    .arg("--show-toplevel")
                    .text()
                    .await
            }
            Err(_) => Err(refuse(
                "`git rev-parse` finds no repository there; run `git init` and commit first".to_owned(),
            )),
        };
        match top {
            Err(ForgeError::GitFailed { stderr, .. }) => Err(refuse(stderr)),
            Err(error) => Err(error),
            Ok(top) => Source::parse(&top),
        }
    }

    /// Removes what killed servers and machines that lost power left unfinished: directories of work in progress, and
    /// git's lock files older than a minute. To be called at start; safe beside other servers. Gives the number of
    /// things removed.
    ///
    /// # Errors
    /// A leftover cannot be removed.
    pub async fn sweep(&self) -> Result<usize> {
        let (scratch, root) = (self.shared.scratch(), self.shared.root.clone());
        blocking(move || Ok(scratch::sweep(&scratch)? + recover::stale_locks(&root, LOCK_AGE)?)).await
    }
}

impl Shared {
    fn scratch(&self) -> PathBuf {
        self.root.join(".tmp")
    }
}

impl Repository {
    /// Where the clone is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is a clone of.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where the worktree of a subtask is, if there is one.
    pub fn worktree_path(&self, subtask: SubtaskId) -> PathBuf {
        self.shared.worktrees.join(subtask.to_string())
    }

    fn git(&self, subcommand: &'static str) -> Call<'_> {
        self.shared.git.call(subcommand).git_dir(&self.path)
    }

    fn must_exist(&self) -> Result<()> {
        if self.path.join("HEAD").is_file() {
            return Ok(());
        }
        Err(ForgeError::NotCloned {
            path: self.path.clone(),
        })
    }

    fn lock_path(&self) -> PathBuf {
        self.path.with_extension("git.lock")
    }

    /// Waits until no other change is under way.
    async fn lock(&self) -> Result<ChangeLock<'_>> {
        let limit = self.shared.options.lock_timeout;
        let Ok(task) = tokio::time::timeout(limit, self.locks.change.lock()).await else {
            return Err(ForgeError::Busy {
                path: self.lock_path(),
                after: limit,
            });
        };
        let file = FileLock::acquire(&self.lock_path(), limit).await?;
        Ok(ChangeLock {
            _file: file,
            _task: task,
        })
    }
}

/// The directory, made for this user alone if needed, by its real path: git writes real paths, and they are compared.
fn real_directory(path: &Path) -> Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing("create", path)?;
    path.canonicalize().doing("look at", path)
}

/// Runs short work to its end, even if the caller is cancelled while it waits.
async fn finished<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(std::io::Error::other)
        .doing("finish work on", Path::new("references"))?
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)
        .doing("finish work on", Path::new("files"))?
}
