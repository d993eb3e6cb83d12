//! The directory of a machine and the notes in it, by which a later server finds it again.

use crate::snapshot::Key;
use nix::sys::signal::Signal;
use ostler_domain::SandboxId;
use ostler_sandbox::ExitInfo;
use ostler_sandbox::process::{Identity, boot_id};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the variable that marks QEMU's process; its value is the sandbox's id.
pub(crate) const MARKER: &str = "OSTLER_SANDBOX";
/// Directory of snapshots beside those of machines.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// What of a log goes into an error message, bytes.
const TAIL: u64 = 2000;

/// Written before anything is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) instance: String,
    pub(crate) groups: Vec<PathBuf>,
    /// The user that QEMU runs as, where it is not the server's.
    pub(crate) user: Option<u32>,
    /// What is baked in.
    pub(crate) key: Key,
}

/// Written once QEMU runs, and again when the machine does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) boot: String,
    pub(crate) qemu: Identity,
    /// Whether the start is complete.
    pub(crate) complete: bool,
}

/// Written when QEMU has ended, by the server that started it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// The directory of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineDir(PathBuf);

impl MachineDir {
    pub(crate) fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(state_dir.join(id.to_string()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in the part that belongs to QEMU.
    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.0.join("vm").join(name)
    }

    /// Makes the directory; an error when it exists already.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(&self.0)
    }

    pub(crate) fn record(&self) -> Option<Record> {
        load(&self.join("machine.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        save(&self.join("machine.json"), record)
    }

    pub(crate) fn write_started(&self, started: &Started) -> io::Result<()> {
        save(&self.join("process.json"), started)
    }

    /// QEMU's process, if it was started in this boot. A server that was killed just after the start wrote no note; then the
    /// process is recognised by the environment that it was given.
    pub(crate) fn qemu(&self, id: SandboxId) -> Option<Identity> {
        match load::<Started>(&self.join("process.json")) {
            Some(started) => (started.boot == boot_id()).then_some(started.qemu),
            None if self.0.exists() => marked(id),
            None => None,
        }
    }

    /// Whether the start of the machine was not cut off in the middle.
    pub(crate) fn is_complete(&self) -> bool {
        load::<Started>(&self.join("process.json")).is_some_and(|started| started.complete)
    }

    /// How QEMU ended, where that was seen.
    pub(crate) fn exit(&self) -> Option<ExitInfo> {
        load::<Exit>(&self.join("exit.json")).map(|exit| ExitInfo {
            code: exit.code,
            signal: exit.signal,
            out_of_memory: false,
        })
    }

    pub(crate) fn write_exit(&self, exit: Exit) -> io::Result<()> {
        save(&self.join("exit.json"), &exit)
    }

    /// What the machine and QEMU said last, for error messages; empty when they said nothing.
    pub(crate) fn last_words(&self) -> String {
        let mut words = Vec::new();
        for (file, whose) in [("qemu.log", "QEMU says"), ("console", "its console ends with")] {
            let text = tail(&self.join(file)).unwrap_or_default();
            if !text.is_empty() {
                words.push(format!("{whose}: {text}"));
            }
        }
        words.join("; ")
    }
}

/// The process with the marker of this sandbox.
fn marked(id: SandboxId) -> Option<Identity> {
    let wanted = format!("{MARKER}={id}");
    std::fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let env = std::fs::read(entry.path().join("environ")).ok()?;
            let hit = env.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
            hit.then(|| Identity::of(pid)).flatten()
        })
}

/// Ends the process whatever it does.
pub(crate) fn kill(qemu: Identity) -> io::Result<()> {
    qemu.signal(Signal::SIGKILL).map(|_| ())
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    // What a machine writes is not to move anybody's cursor.
    let text = String::from_utf8_lossy(&bytes);
    let clean = text.chars().filter(|c| *c == '\n' || !c.is_control());
    Ok(clean.collect::<String>().trim().to_owned())
}

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Whole or not at all: the server may be killed at any instant.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
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
