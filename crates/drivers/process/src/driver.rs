//! The driver.

use crate::bubblewrap::Bubblewrap;
use crate::layout::{Record, SandboxDir, Started};
use crate::options::{Mode, ProcessOptions};
use crate::{bubblewrap, disk, launch, probe, teardown};
use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_egress::Policy;
use ostler_sandbox::cgroup::{Group, Host, Limits};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, ExitInfo, Finding, SandboxSpec,
    Usage, connect_socket, mount_refusals, refusals,
};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::AbortHandle;

const KIND: DriverKind = DriverKind::Process;

/// How long starting the processes may take.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long the kernel gets to freeze or thaw.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How long the note of how a sandbox ended is waited for, and how often it is looked at.
const NOTE_LIMIT: Duration = Duration::from_millis(500);
const NOTE_STEP: Duration = Duration::from_millis(5);
/// Events kept for a slow receiver.
const EVENTS: usize = 256;

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
    events: broadcast::Sender<DriverEvent>,
    entries: Mutex<HashMap<SandboxId, Arc<Entry>>>,
}

/// The right to work on one sandbox.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// What this process holds of one sandbox: no two operations on it at a time, and the task that waits for its end.
#[derive(Debug, Default)]
struct Entry {
    turn: Arc<tokio::sync::Mutex<()>>,
    watch: Mutex<Option<AbortHandle>>,
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
            arch: std::env::consts::ARCH.to_owned(),
        }
    }

    /// Looks at the host, makes the state directory and watches the sandboxes that an earlier driver of the same
    /// instance left running. Must be called within a tokio runtime.
    pub async fn open(mut options: ProcessOptions) -> Result<Self, DriverError> {
        let unavailable = |message: String| DriverError::Unavailable {
            driver: KIND,
            message,
        };
        if !options.instance_is_valid() {
            return Err(unavailable(format!(
                "the instance name `{}` must be 1 to 40 of a-z, 0-9, - and _",
                options.instance
            )));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.state_dir)
            .and_then(|()| std::fs::canonicalize(&options.state_dir))
            .map(|real| options.state_dir = real)
            .map_err(|e| unavailable(format!("its directory {}: {e}", options.state_dir.display())))?;
        let bubblewrap = match options.mode {
            Mode::Plain => Err("plain processes were asked for".to_owned()),
            Mode::Auto | Mode::Namespaces => probe::bubblewrap().await,
        };
        if let (Mode::Namespaces, Err(why)) = (options.mode, &bubblewrap) {
            return Err(unavailable(why.clone()));
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
            ..Self::best()
        };
        let inner = Arc::new(Inner {
            starts: Semaphore::new(options.starts.max(1)),
            options,
            bubblewrap,
            host,
            capabilities,
            events: broadcast::channel(EVENTS).0,
            entries: Mutex::default(),
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

impl Drop for ProcessDriver {
    fn drop(&mut self) {
        for entry in lock(&self.inner.entries).values() {
            entry.stop_watching();
        }
    }
}

impl Entry {
    fn stop_watching(&self) {
        if let Some(task) = lock(&self.watch).take() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn dir(&self, id: SandboxId) -> SandboxDir {
        SandboxDir::of(&self.options.state_dir, id)
    }

    fn entry(&self, id: SandboxId) -> Arc<Entry> {
        lock(&self.entries).entry(id).or_default().clone()
    }

    fn group(&self, id: SandboxId) -> Group {
        match self.dir(id).record() {
            Some(record) => Group::new(record.groups),
            None => self.host.group(&id.to_string()),
        }
    }

    fn failed(action: &'static str, id: SandboxId, message: impl std::fmt::Display) -> DriverError {
        DriverError::Failed {
            driver: KIND,
            action,
            id,
            message: message.to_string(),
        }
    }

    /// What has a directory or a cgroup. A directory without a note is from a start that was cut off.
    fn list(&self) -> Vec<SandboxId> {
        let dirs = std::fs::read_dir(&self.options.state_dir)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok());
        let ids: BTreeSet<SandboxId> = dirs
            .chain(self.host.names())
            .filter_map(|name| name.parse().ok())
            .filter(|id| {
                self.dir(*id)
                    .record()
                    .is_none_or(|r| r.instance == self.options.instance)
            })
            .collect();
        ids.into_iter().collect()
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
            .map_err(|e| Self::failed("start", id, e))?;
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        dir.create().map_err(|e| {
            Self::failed(
                "start",
                id,
                format!("its directory {}: {e}", dir.path().display()),
            )
        })?;
        let done = match tokio::time::timeout(START_LIMIT, self.launch(&spec, &dir)).await {
            Ok(Ok(started)) => Ok(started),
            Ok(Err(e)) => Err(Self::failed("start", id, e)),
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
                for failure in self.teardown(id, Duration::ZERO).await {
                    tracing::warn!(sandbox = %id, failure, "cleaning up after a failed start");
                }
                lock(&self.entries).remove(&id);
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

    /// Waits for the end of the sandbox and tells of it. The task holds no strong reference while it waits, so that it
    /// does not keep the driver alive.
    fn watch(self: &Arc<Self>, id: SandboxId, started: &Started) {
        let (guest, monitor, dir) = (started.guest, started.monitor, self.dir(id));
        let weak = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            if let Err(error) = guest.ended().await {
                tracing::warn!(sandbox = %id, %error, "cannot wait for its end; health checks will notice it");
                return;
            }
            // How it ended is noted by bubblewrap, or by the task that reaps it, a moment later.
            monitor.ended_within(NOTE_LIMIT).await;
            let noted = std::time::Instant::now() + NOTE_LIMIT;
            while dir.exit() == ExitInfo::default() && std::time::Instant::now() < noted {
                tokio::time::sleep(NOTE_STEP).await;
            }
            if let Some(inner) = weak.upgrade() {
                let exit = inner.exit(id);
                tracing::info!(sandbox = %id, ?exit, "ended unasked");
                // Nobody listening is fine: health checks ask.
                let _nobody = inner.events.send(DriverEvent { id, exit });
            }
        });
        let entry = self.entry(id);
        if let Some(old) = lock(&entry.watch).replace(task.abort_handle()) {
            old.abort();
        }
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
            .map_err(|e| Self::failed(action, id, e))?
            .map_err(|e| Self::failed(action, id, e))
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
        let turn = self.inner.entry(spec.id).turn.clone().lock_owned().await;
        // A task of its own: a caller that gives up must not leave half a sandbox. It has its turn from the beginning, so
        // that a removal that follows waits for it.
        tokio::spawn(self.inner.clone().start(spec.clone(), turn))
            .await
            .unwrap_or_else(|e| Err(Inner::failed("start", spec.id, e)))
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        match connect_socket(&self.inner.dir(id).socket()).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) if self.inner.status(id) == DriverStatus::Gone => {
                Err(DriverError::NotFound { driver: KIND, id })
            }
            Err(e) => Err(Inner::failed("connect to", id, e)),
        }
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        Ok(self.inner.status(id))
    }

    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        let work = async move {
            let entry = inner.entry(id);
            let _turn = entry.turn.lock().await;
            entry.stop_watching();
            let failures = inner.teardown(id, grace).await;
            if failures.is_empty() {
                lock(&inner.entries).remove(&id);
                return Ok(());
            }
            Err(Inner::failed("remove", id, failures.join("; ")))
        };
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(Inner::failed("remove", id, e)))
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
        self.inner.events.subscribe()
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
        if reasons.is_empty() {
            return Ok(());
        }
        Err(DriverError::Unsupported {
            driver: KIND,
            reasons,
        })
    }
}
