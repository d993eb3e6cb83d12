//! The driver.

use crate::bubblewrap::Bubblewrap;
use crate::layout::{Record, SandboxDir, Started};
use crate::options::{Mode, ProcessOptions};
use crate::{bubblewrap, disk, launch, probe, teardown};
use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_egress::Policy;
use ostler_sandbox::cgroup::{Group, Host, Limits};
use ostler_sandbox::local::{Local, Turn};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, ExitInfo, Finding, SandboxSpec,
    Usage, connect_socket, host_kernels, mount_refusals, refusals, refused,
};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};

const KIND: DriverKind = DriverKind::Process;

/// How long starting the processes may take.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long the kernel gets to freeze or thaw.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How long bubblewrap gets to note how a sandbox ended.
const NOTE_LIMIT: Duration = Duration::from_millis(500);

/// Sandboxes made of namespaces and cgroups of this host.
#[derive(Debug)]
pub struct ProcessDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ProcessOptions,
    bubblewrap: Result<Bubblewrap, String>,
    host: Host,
    capabilities: Capabilities,
    /// Places for starts.
    starts: Semaphore,
    local: Local,
}

/// The guest's arguments, given where its sockets and its workspace are.
pub(crate) fn guest_arguments(run: &Path, workspace: &Path) -> Vec<OsString> {
    vec!["--run".into(), run.into(), "--workspace".into(), workspace.into()]
}

impl ProcessDriver {
    /// What it can enforce on a host that has everything it needs.
    pub fn best() -> Capabilities {
        Capabilities {
            isolation: Isolation::Namespace,
            networks: vec![NetworkPolicy::None, NetworkPolicy::Filtered, NetworkPolicy::Open],
            images: false,
            cpu_limit: true,
            memory_limit: true,
            disk_limit: true,
            mounts: true,
            pause: true,
            snapshot: false,
            machines: false,
            vsock: false,
            devices: BTreeSet::new(),
            users: false,
            console: false,
            arch: std::env::consts::ARCH.to_owned(),
            kernels: Vec::new(),
        }
    }

    /// Looks at the host, makes the state directory and watches the sandboxes that an earlier driver of the same
    /// instance left running. Must be called within a tokio runtime.
    pub async fn open(mut options: ProcessOptions) -> Result<Self, DriverError> {
        let local = Local::open(KIND, &options.instance, &options.state_dir)?;
        options.state_dir = local.state_dir().to_owned();
        let bubblewrap = match options.mode {
            Mode::Plain => Err("plain processes were asked for".to_owned()),
            Mode::Auto | Mode::Namespaces => probe::bubblewrap().await,
        };
        if let (Mode::Namespaces, Err(why)) = (options.mode, &bubblewrap) {
            return Err(DriverError::Unavailable {
                driver: KIND,
                message: why.clone(),
            });
        }
        let host = Host::discover(&options.instance);
        let namespaces = bubblewrap.is_ok();
        let capabilities = Capabilities {
            isolation: if namespaces {
                Isolation::Namespace
            } else {
                Isolation::Process
            },
            networks: match (namespaces, options.host_network) {
                (true, true) => vec![NetworkPolicy::None, NetworkPolicy::Filtered, NetworkPolicy::Open],
                (true, false) => vec![NetworkPolicy::None, NetworkPolicy::Filtered],
                (false, _) => vec![NetworkPolicy::Open],
            },
            cpu_limit: host.limits_cpu(),
            memory_limit: host.limits_memory(),
            disk_limit: namespaces && disk::missing().is_none(),
            mounts: namespaces,
            pause: host.freezes(),
            devices: options
                .devices
                .iter()
                .filter(|name| namespaces && bubblewrap::has_device(name))
                .cloned()
                .collect(),
            kernels: host_kernels(),
            ..Self::best()
        };
        let inner = Arc::new(Inner {
            starts: Semaphore::new(options.starts.max(1)),
            options,
            bubblewrap,
            host,
            capabilities,
            local,
        });
        for id in inner.list() {
            let dir = inner.dir(id);
            if let Some(started) = dir.started(id).filter(|s| s.guest.alive()) {
                inner.watch(id, &started);
            }
        }
        Ok(Self { inner })
    }
}

impl Inner {
    fn dir(&self, id: SandboxId) -> SandboxDir {
        SandboxDir::of(&self.options.state_dir, id)
    }

    fn group(&self, id: SandboxId) -> Group {
        match self.dir(id).record() {
            Some(record) => Group::new(record.groups),
            None => self.host.group(&id.to_string()),
        }
    }

    /// What has a directory or a cgroup.
    fn list(&self) -> Vec<SandboxId> {
        self.local
            .list(self.host.names(), |id| Some(self.dir(id).record()?.instance))
    }

    async fn teardown(&self, id: SandboxId, grace: Duration) -> Vec<String> {
        let network = self.options.network.as_deref();
        teardown::teardown(&self.host, network, &self.dir(id), id, grace).await
    }

    async fn start(self: Arc<Self>, spec: SandboxSpec, _turn: Turn) -> Result<String, DriverError> {
        let id = spec.id;
        let dir = self.dir(id);
        // Never closed, so that there is always a place in the end.
        let _place = self
            .starts
            .acquire()
            .await
            .map_err(|e| self.local.failed("start", id, e))?;
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        dir.create().map_err(|e| {
            self.local.failed(
                "start",
                id,
                format!("its directory {}: {e}", dir.path().display()),
            )
        })?;
        let done = match tokio::time::timeout(START_LIMIT, self.launch(&spec, &dir)).await {
            Ok(Ok(started)) => Ok(started),
            Ok(Err(e)) => Err(self.local.failed("start", id, e)),
            Err(_) => Err(DriverError::TimedOut {
                driver: KIND,
                action: "start",
                id,
                limit: START_LIMIT,
            }),
        };
        match done {
            Ok(started) => {
                self.watch(id, &started);
                Ok(started.guest.pid.to_string())
            }
            Err(error) => {
                self.local.undone(id, &self.teardown(id, Duration::ZERO).await);
                Err(error)
            }
        }
    }

    async fn launch(&self, spec: &SandboxSpec, dir: &SandboxDir) -> std::io::Result<Started> {
        let id = spec.id;
        let name = id.to_string();
        let record = |group: &Group| Record {
            instance: self.options.instance.clone(),
            namespaces: self.bubblewrap.is_ok(),
            groups: group.dirs().to_vec(),
        };
        // Noted first, so that a server killed right after the next step finds the groups again.
        dir.write_record(&record(&self.host.group(&name)))?;
        let group = self.host.create(
            &name,
            Limits {
                cpus: spec.template.cpus,
                memory_bytes: spec.template.memory_mb << 20,
                processes: self.options.max_processes,
            },
        )?;
        let guest = &self.options.guest;
        if let Some(megabytes) = spec.template.disk_mb {
            disk::make(dir, megabytes).await?;
        }
        let slot = match &self.options.network {
            Some(network) if spec.template.network == NetworkPolicy::Filtered => {
                let policy = Policy::compile(&spec.template.egress).map_err(std::io::Error::other)?;
                let slot = network.acquire(id, policy.addresses()).await;
                Some(slot.map_err(std::io::Error::other)?)
            }
            _ => None,
        };
        match &self.bubblewrap {
            Ok(bubblewrap) => {
                let template = &spec.template;
                launch::namespaces(bubblewrap, id, template, guest, dir, &group, slot.as_ref()).await
            }
            Err(_) => launch::plain(id, &spec.template, guest, dir, &group).await,
        }
    }

    /// Waits for the end of the sandbox and tells of it.
    fn watch(self: &Arc<Self>, id: SandboxId, started: &Started) {
        let (guest, monitor, dir) = (started.guest, started.monitor, self.dir(id));
        let ended = async move {
            guest.ended().await?;
            // How it ended is noted by bubblewrap, or by the task that reaps it, a moment later.
            monitor.ended_within(NOTE_LIMIT).await;
            Ok(())
        };
        let weak = Arc::downgrade(self);
        let noted = move || dir.exit() != ExitInfo::default();
        self.local
            .watch(id, ended, noted, move || Some(weak.upgrade()?.exit(id)));
    }

    fn exit(&self, id: SandboxId) -> ExitInfo {
        ExitInfo {
            out_of_memory: self.group(id).out_of_memory(),
            ..self.dir(id).exit()
        }
    }

    fn status(&self, id: SandboxId) -> DriverStatus {
        let dir = self.dir(id);
        if !dir.path().exists() && !self.group(id).exists() {
            return DriverStatus::Gone;
        }
        match dir.started(id) {
            Some(started) if started.guest.alive() => DriverStatus::Running,
            _ => DriverStatus::Exited(self.exit(id)),
        }
    }

    async fn freeze(&self, id: SandboxId, frozen: bool) -> Result<(), DriverError> {
        let action = if frozen { "pause" } else { "resume" };
        if self.status(id) != DriverStatus::Running {
            return Err(DriverError::NotFound { driver: KIND, id });
        }
        let group = self.group(id);
        tokio::task::spawn_blocking(move || group.freeze(frozen, FREEZE_LIMIT))
            .await
            .map_err(|e| self.local.failed(action, id, e))?
            .map_err(|e| self.local.failed(action, id, e))
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn probe(&self) -> Vec<Finding> {
        let inner = &self.inner;
        let limits = inner.host.limits_cpu() && inner.host.limits_memory() && inner.host.limits_processes();
        vec![
            Finding {
                subject: "namespaces".into(),
                ok: inner.bubblewrap.is_ok(),
                detail: match &inner.bubblewrap {
                    Ok(b) => format!("{} works", b.program.display()),
                    Err(why) => {
                        format!("{why}; sandboxes are plain processes, not kept apart from this host")
                    }
                },
            },
            Finding {
                subject: "cgroups".into(),
                ok: limits,
                detail: if limits {
                    format!(
                        "limits of CPU time, memory and processes by {}",
                        inner.host.describe()
                    )
                } else {
                    "cannot limit CPU time, memory or the number of processes: run the server as root or in a \
                     delegated cgroup (`systemd-run --user --scope -p Delegate=yes ostler serve`)"
                        .into()
                },
            },
            Finding {
                subject: "filtered network".into(),
                ok: inner.options.network.is_some(),
                detail: if inner.options.network.is_some() {
                    "an interface behind the packet filter of this instance".into()
                } else {
                    "the proxy is the only way out: run the server as root, with iproute2 and nftables installed, for \
                     interfaces behind a packet filter"
                        .into()
                },
            },
            Finding {
                subject: "disk limits".into(),
                ok: disk::missing().is_none(),
                detail: disk::missing()
                    .unwrap_or("by a disk image per sandbox that asks for one")
                    .into(),
            },
            probe::guest(&inner.options).await,
        ]
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let inner = self.inner.clone();
        // It has its turn from the beginning, so that a removal that follows waits for it.
        let turn = inner.local.turn(spec.id).await;
        let work = inner.clone().start(spec.clone(), turn);
        inner.local.to_end("start", spec.id, work).await
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        match connect_socket(&self.inner.dir(id).socket()).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) if self.inner.status(id) == DriverStatus::Gone => {
                Err(DriverError::NotFound { driver: KIND, id })
            }
            Err(e) => Err(self.inner.local.failed("connect to", id, e)),
        }
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        Ok(self.inner.status(id))
    }

    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        let work = async move {
            let _turn = inner.local.turn(id).await;
            inner.local.stop_tasks(id);
            let failures = inner.teardown(id, grace).await;
            inner.local.removed(id, &failures)
        };
        self.inner.local.to_end("remove", id, work).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(self.inner.list())
    }

    async fn pause(&self, id: SandboxId) -> Result<(), DriverError> {
        if !self.inner.capabilities.pause {
            return Err(self.cannot("pause", id));
        }
        self.inner.freeze(id, true).await
    }

    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        if !self.inner.capabilities.pause {
            return Err(self.cannot("resume", id));
        }
        self.inner.freeze(id, false).await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        if self.inner.status(id) == DriverStatus::Gone {
            return Err(DriverError::NotFound { driver: KIND, id });
        }
        let mut usage = self.inner.group(id).usage();
        let counters = self.inner.options.network.as_ref().and_then(|n| n.counters(id));
        usage.received_bytes = counters.map(|c| c.received);
        usage.sent_bytes = counters.map(|c| c.sent);
        Ok(usage)
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.inner.local.events()
    }

    fn check(&self, template: &SandboxTemplate) -> Result<(), DriverError> {
        let mut can = self.inner.capabilities.clone();
        if self.inner.options.without_limits {
            can.cpu_limit = true;
            can.memory_limit = true;
        }
        let mut reasons = refusals(KIND, &can, template);
        reasons.extend(mount_refusals(template, &self.inner.options.state_dir));
        if let Err(e) = Policy::compile(&template.egress) {
            reasons.push(e.to_string());
        }
        if template.disk_mb.is_some_and(|mb| mb < disk::LEAST_MB) {
            reasons.push(format!("a disk of less than {} MiB", disk::LEAST_MB));
        }
        let any = SandboxId::from_u128(0);
        match &self.inner.bubblewrap {
            // Whatever the id will be, only the mounts can be refused.
            Ok(bubblewrap) => reasons.extend(bubblewrap.user(any, template).err()),
            Err(_) => reasons.extend(self.inner.dir(any).too_long()),
        }
        refused(KIND, reasons)
    }
}
