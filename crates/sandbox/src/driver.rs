//! The driver trait: how a back end starts, reaches and ends sandboxes, and what it can enforce.
//!
//! A driver reports what its back end says; whether a sandbox is *ready* is decided above, by asking the guest. A
//! driver keeps no list of its own that must survive: everything it started can be found again with [`Driver::list`]
//! by the instance name it was made with, so that a server killed at any instant leaves nothing unaccounted for.

use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, KernelOffer, NetworkPolicy, SandboxId, SandboxTemplate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

/// A connection to the guest.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What to start.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSpec {
    /// Id, also the name at the back end. Starting the same id twice is an error of the caller.
    pub id: SandboxId,
    /// Everything that is baked in.
    pub template: SandboxTemplate,
    /// vsock context id, from 3 upward, for drivers whose [`Capabilities::vsock`] is set.
    pub vsock_cid: Option<u32>,
}

impl SandboxSpec {
    /// A sandbox without a vsock context id.
    pub const fn new(id: SandboxId, template: SandboxTemplate) -> Self {
        Self {
            id,
            template,
            vsock_cid: None,
        }
    }
}

/// What a driver on this host can enforce. Asking for more is refused by [`Driver::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// How strongly sandboxes are kept apart from the host.
    pub isolation: Isolation,
    /// Network policies it can enforce.
    pub networks: Vec<NetworkPolicy>,
    /// Whether it needs an image.
    pub images: bool,
    /// Whether it can limit CPU time.
    pub cpu_limit: bool,
    /// Whether it can limit memory.
    pub memory_limit: bool,
    /// Whether it can limit disk use.
    pub disk_limit: bool,
    /// Whether directories of the host can be seen inside.
    pub mounts: bool,
    /// Whether it can pause and resume.
    pub pause: bool,
    /// Whether it can snapshot and restore.
    pub snapshot: bool,
    /// Whether its sandboxes are virtual machines: with drives and a kernel of their own.
    pub machines: bool,
    /// Whether its sandboxes need a vsock context id.
    pub vsock: bool,
    /// Devices of the host that programs can be given.
    pub devices: BTreeSet<String>,
    /// Whether programs can run as a user that the template names.
    pub users: bool,
    /// Whether what its sandboxes say on their consoles is kept, see [`Driver::console`].
    pub console: bool,
    /// Machine architecture as in `uname -m`.
    pub arch: String,
    /// Kernels that sandboxes can run: first the one that they do unless their template names another. Where machines have
    /// kernels of their own, each name can be a template's kernel.
    pub kernels: Vec<KernelOffer>,
}

/// What a machine has for all of its sandboxes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineSize {
    /// Whether it is the machine of this process, which other drivers may use as well.
    pub here: bool,
    /// CPUs.
    pub cpus: u64,
    /// Memory, MiB.
    pub memory_mb: u64,
}

impl MachineSize {
    /// This machine: the CPUs that this process may use, and all memory that the kernel has. What cannot be told counts as
    /// without limit.
    pub fn here() -> Self {
        static HERE: OnceLock<MachineSize> = OnceLock::new();
        *HERE.get_or_init(|| Self {
            here: true,
            cpus: std::thread::available_parallelism().map_or(u64::MAX, |cpus| cpus.get() as u64),
            memory_mb: nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total() >> 20),
        })
    }
}

/// What the back end says about one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverStatus {
    /// Its first process lives.
    Running,
    /// Its first process has ended.
    Exited(ExitInfo),
    /// The back end knows nothing of it.
    Gone,
}

/// How a sandbox's first process ended, as far as the back end knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitInfo {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal.
    pub signal: Option<i32>,
    /// Whether memory ran out.
    pub out_of_memory: bool,
    /// How a virtual machine itself ended, where that is known.
    pub machine: Option<MachineEnd>,
}

/// How a virtual machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineEnd {
    /// Its kernel gave up.
    Panic,
    /// It was to start anew, which ends it.
    Reboot,
    /// It was switched off from inside.
    PowerOff,
    /// From outside.
    Host,
}

/// A piece of what a sandbox said on its console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsolePiece {
    /// How many bytes were said before it. More than was asked for when the oldest are kept no longer.
    pub start: u64,
    /// The bytes as they came; none when nothing more was said until now.
    pub bytes: Vec<u8>,
}

/// A sandbox ended without having been asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverEvent {
    /// Which.
    pub id: SandboxId,
    /// How.
    pub exit: ExitInfo,
}

/// What a sandbox has used since its start, as far as the back end counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its programs, microseconds.
    pub cpu_us: Option<u64>,
    /// Memory in use now, bytes.
    pub memory_bytes: Option<u64>,
    /// Read from disks, bytes.
    pub read_bytes: Option<u64>,
    /// Written to disks, bytes.
    pub written_bytes: Option<u64>,
    /// Received from the network, bytes.
    pub received_bytes: Option<u64>,
    /// Sent to the network, bytes.
    pub sent_bytes: Option<u64>,
    /// Processes now.
    pub processes: Option<u32>,
}

/// One finding of [`Driver::probe`], for `ostler doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, and when it is not ok, the command or step that mends it.
    pub detail: String,
}

/// Why a driver did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The template asks for what this driver cannot enforce.
    #[error("the {driver} driver cannot do this: {}", reasons.join("; "))]
    Unsupported {
        /// The driver.
        driver: DriverKind,
        /// One sentence per field that was refused.
        reasons: Vec<String>,
    },
    /// The back end has no such sandbox.
    #[error("the {driver} driver has no sandbox {id}")]
    NotFound {
        /// The driver.
        driver: DriverKind,
        /// The sandbox.
        id: SandboxId,
    },
    /// The back end cannot be used.
    #[error("the {driver} driver cannot be used: {message}")]
    Unavailable {
        /// The driver.
        driver: DriverKind,
        /// What is wrong and what to do.
        message: String,
    },
    /// The back end refused or failed.
    #[error("the {driver} driver could not {action} {id}: {message}")]
    Failed {
        /// The driver.
        driver: DriverKind,
        /// What was tried, as a verb.
        action: &'static str,
        /// The sandbox.
        id: SandboxId,
        /// What the back end said.
        message: String,
    },
    /// It did not happen in time.
    #[error("the {driver} driver did not {action} {id} within {limit:?}")]
    TimedOut {
        /// The driver.
        driver: DriverKind,
        /// What was tried, as a verb.
        action: &'static str,
        /// The sandbox.
        id: SandboxId,
        /// How long was waited.
        limit: Duration,
    },
}

/// The error for what a driver refuses, one sentence each; no reasons are no error.
pub fn refused(driver: DriverKind, reasons: Vec<String>) -> Result<(), DriverError> {
    if reasons.is_empty() {
        return Ok(());
    }
    Err(DriverError::Unsupported { driver, reasons })
}

/// Everything in which a template asks for more than a driver with these capabilities can enforce, one sentence each.
pub fn refusals(kind: DriverKind, can: &Capabilities, template: &SandboxTemplate) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut refuse = |refused: bool, why: String| {
        if refused {
            reasons.push(why);
        }
    };
    refuse(
        template.driver != kind,
        format!("the template is for the {} driver", template.driver),
    );
    refuse(
        can.images && template.image.is_none(),
        "an image is needed and none is named".into(),
    );
    refuse(!can.images && template.image.is_some(), "it has no images".into());
    refuse(
        !can.networks.contains(&template.network),
        format!("network policy {}", template.network),
    );
    refuse(!can.cpu_limit, "a limit of CPU time".into());
    refuse(!can.memory_limit, "a limit of memory".into());
    refuse(
        template.disk_mb.is_some() && !can.disk_limit,
        "a disk limit".into(),
    );
    refuse(
        !template.mounts.is_empty() && !can.mounts,
        "mounts of host directories".into(),
    );
    let machine = [
        ("a root drive", template.root_drive.is_some()),
        ("a data drive", template.data_drive_mb.is_some()),
        ("a kernel", template.kernel.is_some()),
        ("kernel arguments", template.kernel_args.is_some()),
        ("a jailer", template.jailer.is_some()),
    ];
    for (what, wanted) in machine {
        refuse(
            wanted && !can.machines,
            format!("{what}: its sandboxes are not virtual machines"),
        );
    }
    refuse(
        template.snapshot.is_some() && !can.snapshot,
        "a start from a snapshot".into(),
    );
    refuse(
        template.user.is_some() && !can.users,
        "a user for its programs".into(),
    );
    for device in template.devices.difference(&can.devices) {
        let offered: Vec<&str> = can.devices.iter().map(String::as_str).collect();
        let offered = match offered[..] {
            [] => "it offers none".to_owned(),
            _ => format!("it offers {}", offered.join(", ")),
        };
        refuse(true, format!("the device {device}: {offered}"));
    }
    refuse(
        template.network != NetworkPolicy::Filtered && !template.egress.is_empty(),
        format!(
            "a list of what may be reached, with network policy {}",
            template.network
        ),
    );
    refuse(template.cpus == 0, "a sandbox needs at least one CPU".into());
    refuse(
        template.memory_mb < 16,
        "a sandbox needs at least 16 MiB of memory".into(),
    );
    refuse(
        template
            .env
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')),
        "an environment variable whose name is empty or holds `=`, or that holds a zero byte".into(),
    );
    for mount in &template.mounts {
        refuse(
            ![&mount.source, &mount.target]
                .iter()
                .all(|p| is_plain_absolute(p)),
            format!(
                "the mount {} on {}: both must be absolute, without `..`",
                mount.source, mount.target
            ),
        );
    }
    reasons
}

fn is_plain_absolute(path: &str) -> bool {
    use std::path::{Component, Path};
    let path = Path::new(path);
    path.is_absolute() && !path.components().any(|c| matches!(c, Component::ParentDir))
}

/// A back end that runs sandboxes.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Which.
    fn kind(&self) -> DriverKind;

    /// What it can enforce here.
    fn capabilities(&self) -> &Capabilities;

    /// How large the machine is that its sandboxes are on: this one, unless the driver says otherwise. `None` where
    /// they take nothing that could run out, or nobody knows.
    fn machine(&self) -> Option<MachineSize> {
        Some(MachineSize::here())
    }

    /// How many times as long programs may take as on processors of the host: 1 unless processors are emulated.
    fn slowdown(&self) -> u32 {
        1
    }

    /// Looks at everything it needs; for `ostler doctor`.
    async fn probe(&self) -> Vec<Finding>;

    /// Starts a sandbox whose first process is the guest. Returns the back end's own id as soon as the back end has
    /// started it; the guest may need a moment more before it answers. On failure nothing is left behind.
    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError>;

    /// Opens a connection to the guest; fails at once when the guest does not listen (yet).
    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError>;

    /// What the back end says.
    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError>;

    /// Ends every process of the sandbox (TERM to the guest, after `grace` KILL to all) and removes everything of it:
    /// processes, cgroups, namespaces, sockets, files. Idempotent; goes on after a failed step and then reports it.
    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError>;

    /// Every sandbox of this instance that the back end has anything of, running or not.
    async fn list(&self) -> Result<Vec<SandboxId>, DriverError>;

    /// Freezes all processes.
    async fn pause(&self, id: SandboxId) -> Result<(), DriverError> {
        Err(self.cannot("pause", id))
    }

    /// Thaws them.
    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        Err(self.cannot("resume", id))
    }

    /// What the sandbox has used. Only what the back end counts itself; the guest can be asked for the rest.
    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        Err(self.cannot("count the use of", id))
    }

    /// Keeps the state of a running sandbox under a name, from which others are started with
    /// [`SandboxTemplate::snapshot`]; it is paused meanwhile and goes on afterwards. A name that is there already is an
    /// error. On failure nothing is left behind.
    async fn snapshot(&self, id: SandboxId, _name: &str) -> Result<(), DriverError> {
        Err(self.cannot("snapshot", id))
    }

    /// The names of the snapshots of this instance.
    async fn snapshots(&self) -> Result<Vec<String>, DriverError> {
        Ok(Vec::new())
    }

    /// Removes a snapshot. Idempotent.
    async fn remove_snapshot(&self, _name: &str) -> Result<(), DriverError> {
        Ok(())
    }

    /// What a sandbox has said on its console from the byte `from` on: a piece of it, also after the sandbox ended, until it
    /// is removed. Of very much the end is kept, a mebibyte at least. Nothing said while no server ran is in it.
    async fn console(&self, id: SandboxId, _from: u64) -> Result<ConsolePiece, DriverError> {
        Err(self.cannot("keep the console of", id))
    }

    /// Sandboxes that ended unasked, as it happens. A lagging receiver loses events: health checks catch up.
    fn events(&self) -> broadcast::Receiver<DriverEvent>;

    /// Refuses a template that asks for what this driver cannot enforce.
    fn check(&self, template: &SandboxTemplate) -> Result<(), DriverError> {
        let kind = self.kind();
        refused(kind, refusals(kind, self.capabilities(), template))
    }

    /// The error of an operation that this driver does not have.
    fn cannot(&self, action: &str, _id: SandboxId) -> DriverError {
        DriverError::Unsupported {
            driver: self.kind(),
            reasons: vec![action.to_owned()],
        }
    }
}
