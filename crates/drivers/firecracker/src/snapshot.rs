//! Snapshots: taking one, keeping it, and what the next machine needs of it.
//!
//! ```text
//! <state_dir>/snapshots/<name>/snapshot.json   what is baked in
//!                              vm.state        processors and devices
//!                              vm.memory       memory: mapped by machines for as long as they live, never changed
//!                              root.img data.img   the drives of that moment
//!                      .<name>/                one that is being taken
//! ```

use crate::api::Api;
use crate::error::{At, Error};
use crate::files;
use crate::key::Key;
use crate::layout::{DATA_DRIVE, MEMORY, ROOT_DRIVE, STATE, SandboxDir, note};
use crate::machine;
use ostler_sandbox::notes::load;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What Firecracker writes in the machine's directory. Not the names under which a restored machine has what it was
/// restored from: it still reads its memory from there.
const NEW_STATE: &str = "new.state";
const NEW_MEMORY: &str = "new.memory";

/// The snapshots of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Store(PathBuf);

impl Store {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("snapshots"))
    }

    /// Why a name cannot be one; names are parts of paths.
    pub(crate) fn refuses(name: &str) -> Option<String> {
        let fine = (1..=64).contains(&name.len())
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        (!fine).then(|| {
            format!(
                "a snapshot named `{}`: 1 to 64 of letters, digits, `-`, `_` and `.`, not a dot first",
                name.escape_debug()
            )
        })
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is baked into a snapshot; `None` when there is none of that name.
    pub(crate) fn key(&self, name: &str) -> Option<Key> {
        load(&self.dir(name).join("snapshot.json"))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| Self::refuses(name).is_none())
            .collect();
        names.sort();
        names
    }

    /// Removes one, or what is left of its taking. Machines that were restored from it go on: they hold its files. Blocks.
    pub(crate) fn remove(&self, name: &str) -> std::io::Result<()> {
        ostler_sandbox::remove_tree(&self.dir(name))
    }

    /// Removes what an earlier server did not finish. Blocks.
    pub(crate) fn sweep(&self) {
        for name in std::fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with('.'))
        {
            if let Err(error) = self.remove(&name) {
                tracing::warn!(name, %error, "removing an unfinished snapshot");
            }
        }
    }

    /// Takes a snapshot of a machine. It is paused meanwhile and goes on afterwards, if it was not paused before.
    pub(crate) async fn take(
        &self,
        name: &str,
        machine: &Machine<'_>,
        key: &Key,
        limit: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + limit;
        if self.dir(name).exists() {
            return Err(Error::Other(format!("there is a snapshot {name} already")));
        }
        let partial = self.dir(&format!(".{name}"));
        ostler_sandbox::remove_tree(&partial).at(&partial)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&partial)
            .at(&partial)?;
        let mut done = machine.write(&partial, end).await;
        if done.is_ok() {
            done = note(&partial.join("snapshot.json"), key)
                .and_then(|()| std::fs::rename(&partial, self.dir(name)).at(&self.dir(name)));
        }
        machine.tidy();
        if done.is_err()
            && let Err(error) = ostler_sandbox::remove_tree(&partial)
        {
            tracing::warn!(name, %error, "removing an unfinished snapshot");
        }
        done
    }
}

/// A machine of which a snapshot is taken.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) api: &'a Api,
    pub(crate) root: &'a Path,
    pub(crate) dir: &'a SandboxDir,
}

impl Machine<'_> {
    async fn write(&self, into: &Path, end: Instant) -> Result<(), Error> {
        let runs = !self.api.instance().await?.paused();
        if runs {
            // Noted first: a server killed meanwhile must not leave the machine paused.
            std::fs::write(self.dir.snapshot_mark(), "").at(&self.dir.snapshot_mark())?;
        }
        let done = self.write_paused(into, runs, end).await;
        let resumed = if runs { self.go_on().await } else { Ok(()) };
        done.and(resumed)
    }

    async fn write_paused(&self, into: &Path, runs: bool, end: Instant) -> Result<(), Error> {
        if runs {
            self.api.set_state("Paused").await?;
        }
        let left = end.saturating_duration_since(Instant::now());
        machine::write_snapshot(self.api, NEW_STATE, NEW_MEMORY, left).await?;
        let (root, into) = (self.root.to_owned(), into.to_owned());
        let work = move || {
            files::take(&root.join(NEW_STATE), &into.join(STATE))?;
            files::take(&root.join(NEW_MEMORY), &into.join(MEMORY))?;
            files::copy(&root.join(ROOT_DRIVE), &into.join(ROOT_DRIVE), None, end)?;
            let data = root.join(DATA_DRIVE);
            if data.exists() {
                files::copy(&data, &into.join(DATA_DRIVE), None, end)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::Other(e.to_string()))?
    }

    /// Lets a machine go on that was paused for a snapshot, and forgets that.
    pub(crate) async fn go_on(&self) -> Result<(), Error> {
        self.api.set_state("Resumed").await?;
        let mark = self.dir.snapshot_mark();
        std::fs::remove_file(&mark).at(&mark)
    }

    /// Removes what Firecracker wrote and nobody took.
    pub(crate) fn tidy(&self) {
        for name in [NEW_STATE, NEW_MEMORY] {
            // Mostly it is not there.
            let _ = std::fs::remove_file(self.root.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        for name in ["a", "base-1.2_x", &"x".repeat(64)] {
            assert_eq!(Store::refuses(name), None, "{name}");
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(Store::refuses(name).is_some(), "{name}");
        }
    }
}
