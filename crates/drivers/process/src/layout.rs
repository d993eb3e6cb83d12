//! The directory of a sandbox and the notes in it, by which a later server finds it again.

use ostler_domain::SandboxId;
use ostler_sandbox::ExitInfo;
use ostler_sandbox::detached::is_marked;
use ostler_sandbox::notes::{self, NoteDir, load, save};
use ostler_sandbox::process::{Identity, boot_id, stat};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Name of the guest's socket in the run directory.
const SOCKET: &str = "guest.sock";

/// The longest name of a socket that the guest makes beside it.
const LONGEST_SOCKET: &str = "control.sock";

/// Bytes that the path of a socket may have.
const SOCKET_PATH: usize = 107;

/// What of the log goes into an error message, bytes.
const LOG_TAIL: u64 = 2000;

/// Written before anything is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) instance: String,
    pub(crate) namespaces: bool,
    pub(crate) groups: Vec<PathBuf>,
}

/// Written once the processes are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) boot: String,
    /// The process that this driver started: bubblewrap, or the guest itself in plain mode.
    pub(crate) monitor: Identity,
    /// The sandbox's first process.
    pub(crate) guest: Identity,
}

/// One document of bubblewrap's status file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct StatusDocument {
    child_pid: Option<i32>,
    exit_code: Option<i32>,
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

impl SandboxDir {
    pub(crate) fn of(state_dir: &Path, id: SandboxId) -> Self {
        Self(NoteDir::of(state_dir, id))
    }

    /// Where the sandbox's own files are: on a disk of their own where their size is limited.
    pub(crate) fn files(&self) -> PathBuf {
        let disk = self.disk();
        if disk.is_dir() {
            disk
        } else {
            self.path().to_owned()
        }
    }

    /// Mount point of the disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.join("disk")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.join("run").join(SOCKET)
    }

    /// Why a guest cannot make its sockets here, where it sees this directory under its real path.
    pub(crate) fn too_long(&self) -> Option<String> {
        let length = self.join("run").join(LONGEST_SOCKET).as_os_str().len();
        (length > SOCKET_PATH).then(|| {
            format!(
                "plain processes below {}, a path that is {} bytes too long for their sockets: choose a data directory \
                 with a shorter one",
                self.path().display(),
                length - SOCKET_PATH
            )
        })
    }

    pub(crate) fn record(&self) -> Option<Record> {
        load(&self.join("sandbox.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        save(&self.join("sandbox.json"), record)
    }

    pub(crate) fn write_started(&self, started: &Started) -> io::Result<()> {
        save(&self.join("process.json"), started)
    }

    /// The noted processes, if they are of this boot. A server that was killed just after it started bubblewrap wrote no
    /// note; bubblewrap itself did, and its child is recognised by the environment that it was given.
    pub(crate) fn started(&self, id: SandboxId) -> Option<Started> {
        if let Some(started) = load::<Started>(&self.join("process.json")) {
            return (started.boot == boot_id()).then_some(started);
        }
        let pid = self.status().child_pid?;
        let guest = Identity::of(pid)?;
        let parent = stat(pid)?.parent;
        let monitor = Identity::of(parent)?;
        is_marked(parent, id).then(|| Started {
            boot: boot_id(),
            monitor,
            guest,
        })
    }

    /// How the guest ended as bubblewrap noted it. A code above 128 is how bubblewrap tells a signal.
    pub(crate) fn exit(&self) -> ExitInfo {
        match self.status().exit_code {
            Some(code) if code > 128 => ExitInfo {
                signal: Some(code - 128),
                ..ExitInfo::default()
            },
            code => ExitInfo {
                code,
                ..ExitInfo::default()
            },
        }
    }

    fn status(&self) -> StatusDocument {
        let text = std::fs::read_to_string(self.join("bwrap.json")).unwrap_or_default();
        serde_json::Deserializer::from_str(&text)
            .into_iter::<StatusDocument>()
            .map_while(Result::ok)
            .fold(StatusDocument::default(), |all, next| StatusDocument {
                child_pid: all.child_pid.or(next.child_pid),
                exit_code: all.exit_code.or(next.exit_code),
            })
    }

    /// Notes the end of a plain guest in the same form.
    pub(crate) fn write_exit(&self, code: i32) -> io::Result<()> {
        std::fs::write(self.join("bwrap.json"), format!("{{\"exit-code\":{code}}}"))
    }

    /// The end of the log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        notes::tail(&self.join("log"), LOG_TAIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_of_bubblewrap_tells_codes_and_signals() {
        let state = tempfile::tempdir().unwrap();
        let dir = SandboxDir::of(state.path(), SandboxId::new());
        dir.create().unwrap();
        assert_eq!(dir.exit(), ExitInfo::default());
        let write = |text: &str| std::fs::write(dir.join("bwrap.json"), text).unwrap();
        write("{ \"child-pid\": 77, \"pid-namespace\": 5 }\n{ \"exit-code\": 7 }\n");
        assert_eq!(dir.exit().code, Some(7));
        assert_eq!(dir.status().child_pid, Some(77));
        write("{ \"child-pid\": 77 }\n{ \"exit-code\": 137 }\n");
        assert_eq!((dir.exit().code, dir.exit().signal), (None, Some(9)));
        write("{ \"child-pid\": 77 }\n{ \"exit-");
        assert_eq!(dir.exit(), ExitInfo::default());
    }

    #[test]
    fn paths_too_long_for_sockets_are_seen() {
        let id = SandboxId::new();
        let room = SOCKET_PATH - "/run/control.sock".len() - id.to_string().len() - 1;
        let state = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        assert_eq!(SandboxDir::of(&state(room), id).too_long(), None);
        let why = SandboxDir::of(&state(room + 3), id).too_long().unwrap();
        assert!(why.contains("3 bytes too long"), "{why}");
    }

    #[test]
    fn processes_of_an_earlier_boot_are_nobody() {
        let state = tempfile::tempdir().unwrap();
        let id = SandboxId::new();
        let dir = SandboxDir::of(state.path(), id);
        dir.create().unwrap();
        let me = Identity::of(std::process::id() as i32).unwrap();
        let mut started = Started {
            boot: boot_id(),
            monitor: me,
            guest: me,
        };
        dir.write_started(&started).unwrap();
        assert_eq!(dir.started(id), Some(started.clone()));
        started.boot = "another".into();
        dir.write_started(&started).unwrap();
        assert_eq!(dir.started(id), None);
    }
}
