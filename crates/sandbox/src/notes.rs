//! The directory of a sandbox and the notes in it, by which a later server finds it again: small JSON files.

use crate::ExitInfo;
use ostler_domain::SandboxId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use tokio::process::Child;

/// The directory of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteDir(PathBuf);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
}

impl NoteDir {
    /// That of a sandbox, which need not exist.
    pub fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(state_dir.join(id.to_string()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory, mode 0700; an error when it exists already.
    pub fn create(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(&self.0)
    }

    /// How the process ended whose end was noted under `name`; `None` where nobody saw it.
    pub fn exit(&self, name: &str) -> Option<ExitInfo> {
        load::<Ended>(&self.join(name)).map(|ended| ExitInfo {
            code: ended.code,
            signal: ended.signal,
            ..ExitInfo::default()
        })
    }

    /// Waits in a task for a child so that no zombie stays, and notes under `name` how it ended.
    pub fn reap(&self, mut child: Child, name: &'static str) {
        let path = self.join(name);
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let ended = Ended {
                    code: status.code(),
                    signal: status.signal(),
                };
                // The directory may be gone already.
                let _gone_is_fine = save(&path, &ended);
            }
        });
    }
}

/// Reads a note; `None` where there is none, or none that can be read.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a note, mode 0600, whole or not at all: the server may be killed at any instant.
pub fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    serde_json::to_writer(&mut file, value)?;
    std::fs::rename(temporary, path)
}

/// The last `most` bytes of a log, for error messages; empty when there is none.
pub fn tail(path: &Path, most: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn notes_are_private_and_come_back() {
        let state = tempfile::tempdir().unwrap();
        let dir = NoteDir::of(state.path(), SandboxId::new());
        dir.create().unwrap();
        assert!(dir.create().is_err(), "a second time");
        let note = dir.join("note.json");
        assert_eq!(load::<u32>(&note), None);
        save(&note, &7).unwrap();
        save(&note, &8).unwrap();
        assert_eq!(load::<u32>(&note), Some(8));
        assert_eq!(load::<String>(&note), None, "of another form");
        for (path, mode) in [(dir.path(), 0o700), (note.as_path(), 0o600)] {
            let there = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(there & 0o777, mode, "{}", path.display());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn the_end_of_a_child_is_noted() {
        let state = tempfile::tempdir().unwrap();
        let dir = NoteDir::of(state.path(), SandboxId::new());
        dir.create().unwrap();
        for (script, code, signal) in [("exit 3", Some(3), None), ("kill -9 $$", None, Some(9))] {
            let child = tokio::process::Command::new("sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            dir.reap(child, "ended.json");
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            let exit = loop {
                if let Some(exit) = dir.exit("ended.json") {
                    break exit;
                }
                assert!(std::time::Instant::now() < end, "no note");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            };
            assert_eq!((exit.code, exit.signal), (code, signal));
            std::fs::remove_file(dir.join("ended.json")).unwrap();
        }
    }

    #[test]
    fn a_tail_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(tail(&log, 4), "");
        std::fs::write(&log, "first\nlast\n").unwrap();
        assert_eq!(tail(&log, 5), "last");
        assert_eq!(tail(&log, 100), "first\nlast");
    }
}
