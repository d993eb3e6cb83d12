//! The directory of a sandbox and the notes in it, by which a later server finds it again.

use crate::error::{At, Error};
use crate::key::Key;
use ostler_domain::SandboxId;
use ostler_sandbox::ExitInfo;
use ostler_sandbox::process::{Identity, boot_id};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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

/// How Firecracker ended, noted by the server that reaped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// The directory of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxDir(PathBuf);

/// The name of a sandbox at Firecracker, which takes letters, digits and hyphens.
pub(crate) fn machine_name(id: SandboxId) -> String {
    id.to_string().replace('_', "-")
}

impl SandboxDir {
    pub(crate) fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(state_dir.join(id.to_string()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory; an error when it exists already.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(&self.0)
    }

    pub(crate) fn record(&self) -> Option<Record> {
        load(&self.join("sandbox.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        save(&self.join("sandbox.json"), record)
    }

    pub(crate) fn write_started(&self, started: &Started) -> Result<(), Error> {
        save(&self.join("process.json"), started)
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

    pub(crate) fn write_ended(&self, ended: Ended) -> Result<(), Error> {
        save(&self.join("ended.json"), &ended)
    }

    /// How it ended, where a server saw that; nothing is known otherwise.
    pub(crate) fn ended(&self) -> Option<ExitInfo> {
        load::<Ended>(&self.join("ended.json")).map(|ended| ExitInfo {
            code: ended.code,
            signal: ended.signal,
            out_of_memory: false,
        })
    }

    /// The mark of a snapshot under way, during which the machine is paused.
    pub(crate) fn snapshot_mark(&self) -> PathBuf {
        self.join("snapshot-under-way")
    }
}

/// Every living process that was started with `--id` and this sandbox's name: the jailer, and Firecracker.
pub(crate) fn processes_of(id: SandboxId) -> Vec<Identity> {
    let name = machine_name(id);
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
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

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Whole or not at all: the server may be killed at any instant.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        serde_json::to_writer(&mut file, value)?;
        std::fs::rename(&temporary, path)
    };
    write().at(path)
}
