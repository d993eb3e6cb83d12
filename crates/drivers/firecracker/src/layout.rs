//! The directory of a sandbox and the notes in it, by which a later server finds it again.

use crate::error::{At, Error};
use crate::key::Key;
use ostler_domain::SandboxId;
use ostler_sandbox::ExitInfo;
use ostler_sandbox::detached::processes;
use ostler_sandbox::notes::{NoteDir, load, save};
use ostler_sandbox::process::{Identity, boot_id};
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Names within a machine's directory, which is what Firecracker sees as its working directory, jailed or not: so a
/// snapshot taken of one machine finds its drives and its socket in the directory of another.
pub(crate) const API_SOCKET: &str = "api.sock";
pub(crate) const VSOCK: &str = "v.sock";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRD: &str = "initrd";
pub(crate) const ROOT_DRIVE: &str = "root.img";
pub(crate) const DATA_DRIVE: &str = "data.img";
pub(crate) const STATE: &str = "vm.state";
pub(crate) const MEMORY: &str = "vm.memory";

/// Note of how Firecracker ended, in the sandbox's directory.
pub(crate) const ENDED: &str = "ended.json";

/// Written before anything is started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) instance: String,
    /// Name of the machine at Firecracker.
    pub(crate) machine: String,
    /// The user that Firecracker runs as; `None` without a jailer.
    pub(crate) user: Option<u32>,
    /// The machine's directory.
    pub(crate) root: PathBuf,
    /// Its cgroups.
    pub(crate) groups: Vec<PathBuf>,
    /// What is baked in.
    pub(crate) key: Key,
}

/// Written once the process is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) boot: String,
    pub(crate) firecracker: Identity,
}

/// The directory of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxDir(NoteDir);

impl Deref for SandboxDir {
    type Target = NoteDir;

    fn deref(&self) -> &NoteDir {
        &self.0
    }
}

/// The name of a sandbox at Firecracker, which takes letters, digits and hyphens.
pub(crate) fn machine_name(id: SandboxId) -> String {
    id.to_string().replace('_', "-")
}

impl SandboxDir {
    pub(crate) fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(NoteDir::of(state_dir, id))
    }

    pub(crate) fn record(&self) -> Option<Record> {
        load(&self.join("sandbox.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        note(&self.join("sandbox.json"), record)
    }

    pub(crate) fn write_started(&self, started: &Started) -> Result<(), Error> {
        note(&self.join("process.json"), started)
    }

    /// The noted process, if it is of this boot. A server that was killed just after it started one wrote no note; the
    /// process is then found by the machine's name, which is in its arguments.
    pub(crate) fn started(&self, id: SandboxId) -> Option<Identity> {
        if let Some(started) = load::<Started>(&self.join("process.json")) {
            return (started.boot == boot_id()).then_some(started.firecracker);
        }
        self.record()?;
        processes_of(id).into_iter().next()
    }

    /// How it ended, where a server saw that; nothing is known otherwise.
    pub(crate) fn ended(&self) -> Option<ExitInfo> {
        self.exit(ENDED)
    }

    /// The mark of a snapshot under way, during which the machine is paused.
    pub(crate) fn snapshot_mark(&self) -> PathBuf {
        self.join("snapshot-under-way")
    }
}

/// Every living process that was started with `--id` and this sandbox's name: the jailer, and Firecracker.
pub(crate) fn processes_of(id: SandboxId) -> Vec<Identity> {
    let name = machine_name(id);
    processes()
        .filter_map(|pid| {
            // Before the arguments: should the process id be used again meanwhile, the identity is of nobody.
            let process = Identity::of(pid)?;
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<&[u8]> = arguments.split(|b| *b == 0).collect();
            words
                .windows(2)
                .any(|pair| pair[0] == b"--id" && pair[1] == name.as_bytes())
                .then_some(process)
        })
        .filter(|process| process.alive())
        .collect()
}

/// Writes a note and names its file in an error.
pub(crate) fn note<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    save(path, value).at(path)
}
