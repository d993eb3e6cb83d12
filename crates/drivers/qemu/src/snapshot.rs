//! Keeping the state of a machine, and going on from there.
//!
//! QEMU writes its memory to a pipe, as if it moved to another host, and reads it from one; so it needs no right to any file
//! but its drives. What was baked in is kept beside the memory: a machine that differs in anything would not go on but break.

use crate::driver::Inner;
use crate::drives::{self, DATA, ROOT};
use crate::error::{At, Doing, Error};
use crate::key::Key;
use crate::layout::{MachineDir, SNAPSHOTS};
use crate::qmp::Qmp;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use ostler_domain::SandboxId;
use ostler_sandbox::DriverError;
use ostler_sandbox::notes::{load, save};
use serde_json::json;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY: &str = "memory";
const KEY: &str = "snapshot.json";
/// In a machine's directory while it is paused for a snapshot; holds the snapshot's name.
const MARK: &str = "snapshot";
const STEP: Duration = Duration::from_millis(10);
/// Bytes a second, more than any disk takes.
const FAST: u64 = 1 << 40;

/// Why a name cannot be that of a snapshot.
pub(crate) fn refusal(name: &str) -> Option<String> {
    let good = (1..=100).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    (!good)
        .then(|| format!("a snapshot's name is 1 to 100 letters, digits, `-`, `_` and `.`, and not `{name}`"))
}

fn place(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join(SNAPSHOTS).join(name)
}

/// The names of all snapshots. Those that were cut off are not among them.
pub(crate) fn names(state_dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(state_dir.join(SNAPSHOTS))
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Removes a snapshot, and what was begun of it.
pub(crate) fn remove(state_dir: &Path, name: &str) -> io::Result<()> {
    for name in [name, &format!(".{name}")] {
        ostler_sandbox::remove_tree(&place(state_dir, name))?;
    }
    // Succeeds with the last one.
    let _others_stay = std::fs::remove_dir(state_dir.join(SNAPSHOTS));
    Ok(())
}

impl Inner {
    pub(crate) async fn snapshot(self: Arc<Self>, id: SandboxId, name: String) -> Result<(), DriverError> {
        let _turn = self.local.turn(id).await;
        self.running(id)?;
        let dir = self.dir(id);
        let work = async {
            let record = dir
                .record()
                .ok_or_else(|| Error::Other("its description is missing".into()))?;
            let qmp = self.qmp(id).await?;
            let options = &self.options;
            take(
                &options.state_dir,
                &dir,
                qmp,
                &record.key,
                &name,
                options.start_limit,
            )
            .await
        };
        work.await.map_err(|e| self.local.failed("snapshot", id, e))
    }

    /// Lets a machine go on that a killed server had stopped for a snapshot, and removes what there is of that.
    pub(crate) async fn finish_snapshot(&self, id: SandboxId) {
        let mark = self.dir(id).join(MARK);
        let Ok(name) = std::fs::read_to_string(&mark) else {
            return;
        };
        let resume = async {
            let mut qmp = self.qmp(id).await?;
            let _none_is_fine = qmp.execute("migrate_cancel", json!({})).await;
            qmp.execute("cont", json!({})).await?;
            std::fs::remove_file(&mark).at(&mark)?;
            if refusal(&name).is_none() && !names(&self.options.state_dir).contains(&name) {
                remove(&self.options.state_dir, &name).at(&mark)?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = resume.await {
            tracing::warn!(sandbox = %id, %error, "it stays stopped after a snapshot that was cut off");
        }
    }
}

/// Takes a snapshot of a machine; whatever happens, the machine goes on afterwards if it ran before.
async fn take(
    state_dir: &Path,
    dir: &MachineDir,
    mut qmp: Qmp,
    key: &Key,
    name: &str,
    limit: Duration,
) -> Result<(), Error> {
    if place(state_dir, name).exists() {
        return Err(Error::Other(format!("there is a snapshot named {name} already")));
    }
    let part = place(state_dir, &format!(".{name}"));
    ostler_sandbox::remove_tree(&part).at(&part)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&part)
        .at(&part)?;
    let ran = qmp.execute("query-status", json!({})).await?["running"] == true;
    if ran {
        // Noted first: a server killed meanwhile leaves a machine that the next one lets go on.
        std::fs::write(dir.join(MARK), name).at(&dir.join(MARK))?;
        qmp.execute("stop", json!({})).await?;
    }
    let work = write(dir, &mut qmp, key, &part);
    let mut result = tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(Error::TimedOut {
            what: "the snapshot",
            limit,
        }));
    if result.is_err() {
        let _none_is_fine = qmp.execute("migrate_cancel", json!({})).await;
    }
    if ran {
        let resumed = qmp.execute("cont", json!({})).await.map(|_| ());
        if resumed.is_ok() {
            let _absent_is_fine = std::fs::remove_file(dir.join(MARK));
        }
        result = result.and(resumed);
    }
    let place = place(state_dir, name);
    result = result.and_then(|()| std::fs::rename(&part, &place).at(&place));
    if result.is_err() {
        remove(state_dir, name).at(&part)?;
    }
    result
}

async fn write(dir: &MachineDir, qmp: &mut Qmp, key: &Key, part: &Path) -> Result<(), Error> {
    let memory = part.join(MEMORY);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&memory)
        .at(&memory)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": FAST }))
        .await?;
    qmp.give("snapshot", write.as_fd()).await?;
    drop(write);
    let copied = tokio::task::spawn_blocking(move || io::copy(&mut File::from(read), &mut file));
    qmp.execute("migrate", json!({ "uri": "fd:snapshot" })).await?;
    moved(qmp).await?;
    copied
        .await
        .map_err(|e| Error::Other(e.to_string()))?
        .at(&memory)?;
    drives::copy(&dir.vm(ROOT), &part.join(ROOT), None).await?;
    if key.data_drive_mb.is_some() {
        drives::copy(&dir.vm(DATA), &part.join(DATA), None).await?;
    }
    save(&part.join(KEY), key).at(&part.join(KEY))
}

/// Waits until QEMU has moved all of its memory.
async fn moved(qmp: &mut Qmp) -> Result<(), Error> {
    loop {
        let state = qmp.execute("query-migrate", json!({})).await?;
        match state["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                let why = state["error-desc"].as_str().unwrap_or("it does not say why");
                return Err(Error::Other(format!("QEMU cannot move its memory: {why}")));
            }
            _ => tokio::time::sleep(STEP).await,
        }
    }
}

/// Refuses a machine that differs from the one that the snapshot was taken of.
pub(crate) fn check(state_dir: &Path, name: &str, wanted: &Key) -> Result<(), Error> {
    let place = place(state_dir, name);
    let Some(key) = load::<Key>(&place.join(KEY)) else {
        return Err(Error::Other(format!("there is no snapshot named {name}")));
    };
    let differences = key.differences(wanted);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Other(format!(
        "the snapshot {name} is of another machine: {}; take a new snapshot",
        differences.join(", ")
    )))
}

/// Copies the drives of a snapshot to where a machine finds its own.
pub(crate) async fn copy_drives(
    state_dir: &Path,
    name: &str,
    dir: &MachineDir,
    key: &Key,
    user: Option<u32>,
) -> Result<(), Error> {
    let place = place(state_dir, name);
    drives::copy(&place.join(ROOT), &dir.vm(ROOT), user).await?;
    if key.data_drive_mb.is_some() {
        drives::copy(&place.join(DATA), &dir.vm(DATA), user).await?;
    }
    Ok(())
}

/// Gives a waiting QEMU the memory of a snapshot.
pub(crate) async fn restore(state_dir: &Path, name: &str, qmp: &mut Qmp) -> Result<(), Error> {
    let memory = place(state_dir, name).join(MEMORY);
    let mut file = File::open(&memory).at(&memory)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
    qmp.give("snapshot", read.as_fd()).await?;
    drop(read);
    // Ends by itself with an error when QEMU does.
    let copied = tokio::task::spawn_blocking(move || io::copy(&mut file, &mut File::from(write)));
    qmp.execute("migrate-incoming", json!({ "uri": "fd:snapshot" }))
        .await?;
    let begun = Instant::now();
    moved(qmp).await?;
    copied
        .await
        .map_err(|e| Error::Other(e.to_string()))?
        .at(&memory)?;
    tracing::debug!(snapshot = name, took = ?begun.elapsed(), "memory restored");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Accelerator;
    use ostler_domain::{DriverKind, SandboxTemplate};

    #[test]
    fn another_machine_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let drive = dir.path().join("drive");
        std::fs::write(&drive, "drive").unwrap();
        let mut template = SandboxTemplate::new(DriverKind::Qemu);
        template.root_drive = Some(drive.display().to_string());
        let of = |t: &SandboxTemplate| Key::of(t, "7.2", Accelerator::Tcg, "abc").unwrap();
        let key = of(&template);
        template.memory_mb += 1;
        let place = place(dir.path(), "one");
        std::fs::create_dir_all(&place).unwrap();
        save(&place.join(KEY), &key).unwrap();
        assert!(check(dir.path(), "one", &key).is_ok());
        let error = check(dir.path(), "one", &of(&template)).unwrap_err().to_string();
        assert!(error.contains("MiB of memory: 2048 and not 2049"), "{error}");
        assert!(check(dir.path(), "two", &key).is_err());
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for bad in ["", "..", "a/b", ".hidden", "a b"] {
            assert!(refusal(bad).is_some(), "{bad}");
        }
        assert_eq!(refusal("after-install_1.2"), None);
    }
}
