//! The directory of a machine and the notes in it, by which a later server finds it again.

use crate::key::Key;
use nix::sys::signal::Signal;
use ostler_domain::SandboxId;
use ostler_sandbox::detached::{is_marked, processes};
use ostler_sandbox::notes::{NoteDir, load, save, tail};
use ostler_sandbox::process::{Identity, boot_id};
use ostler_sandbox::{ExitInfo, MachineEnd, console};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Note of how QEMU ended, in the machine's directory.
pub(crate) const EXIT: &str = "exit.json";
/// Note of how the machine ended.
pub(crate) const END: &str = "end.json";
/// Directory of snapshots beside those of machines.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// What of a log goes into an error message, bytes.
const TAIL: u64 = 2000;
/// How far before its end a console says that the kernel panicked, bytes.
const PANIC_WITHIN: u64 = 64 << 10;

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

/// The directory of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineDir(NoteDir);

impl Deref for MachineDir {
    type Target = NoteDir;

    fn deref(&self) -> &NoteDir {
        &self.0
    }
}

impl MachineDir {
    pub(crate) fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(NoteDir::of(state_dir, id))
    }

    /// A file in the part that belongs to QEMU.
    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.join("vm").join(name)
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
            None if self.path().exists() => {
                processes().find(|pid| is_marked(*pid, id)).and_then(Identity::of)
            }
            None => None,
        }
    }

    /// Whether the start of the machine was not cut off in the middle.
    pub(crate) fn is_complete(&self) -> bool {
        load::<Started>(&self.join("process.json")).is_some_and(|started| started.complete)
    }

    /// How QEMU ended, where that was seen.
    pub(crate) fn ended(&self) -> Option<ExitInfo> {
        self.exit(EXIT)
    }

    /// How the machine ended, where that is known. A kernel without a driver for the device by which it can say that it
    /// panicked starts anew instead; then its console tells.
    pub(crate) fn machine_end(&self) -> Option<MachineEnd> {
        let end = load(&self.join(END))?;
        if end != MachineEnd::Reboot {
            return Some(end);
        }
        let mut reader = console::Reader::default();
        reader.push(&crate::console::tail(self.path(), PANIC_WITHIN));
        let panicked = reader.report().count(console::Kind::Panic) > 0;
        Some(if panicked { MachineEnd::Panic } else { end })
    }

    /// What the machine and QEMU said last, for error messages; empty when they said nothing.
    pub(crate) fn last_words(&self) -> String {
        let mut words = Vec::new();
        let said = [
            (tail(&self.join("qemu.log"), TAIL).into_bytes(), "QEMU says"),
            (crate::console::tail(self.path(), TAIL), "its console ends with"),
        ];
        for (bytes, whose) in said {
            // What a machine writes is not to move anybody's cursor.
            let text = console::plain(&bytes).trim().to_owned();
            if !text.is_empty() {
                words.push(format!("{whose}: {text}"));
            }
        }
        words.join("; ")
    }
}

/// Ends the process whatever it does.
pub(crate) fn kill(qemu: Identity) -> io::Result<()> {
    qemu.signal(Signal::SIGKILL).map(|_| ())
}
