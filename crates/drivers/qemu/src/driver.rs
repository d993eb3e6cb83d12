//! The driver.

use crate::accelerator::{self, Found};
use crate::catalogue::Catalogue;
use crate::console;
use crate::drives::Base;
use crate::error::Error;
use crate::events;
use crate::kernel::Kernel;
use crate::launch::{CONSOLE, EVENTS, PORT, QMP};
use crate::layout::{self, END, MachineDir};
use crate::mux::{Mux, Stream};
use crate::options::{Accelerator, QemuOptions};
use crate::qmp::Qmp;
use crate::{snapshot, teardown, usage};
use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::cgroup::{Group, Host};
use ostler_sandbox::local::Local;
use ostler_sandbox::process::Identity;
use ostler_sandbox::{
    ByteStream, Capabilities, ConsolePiece, Driver, DriverError, DriverEvent, DriverStatus, ExitInfo,
    Finding, MachineEnd, SandboxSpec, Usage, refusals, refused,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};

pub(crate) const KIND: DriverKind = DriverKind::Qemu;

/// Least memory in which the kernels of distributions start, MiB.
const LEAST_MEMORY_MB: u64 = 128;
/// How long the guest gets to answer at the beginning of a conversation. Not longer: it is asked again.
const GREETING_LIMIT: Duration = Duration::from_secs(1);
/// How long a killed machine gets to end.
const DEATH_LIMIT: Duration = Duration::from_millis(500);

/// Sandboxes that are virtual machines of QEMU.
#[derive(Debug)]
pub struct QemuDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: QemuOptions,
    pub(crate) host: Host,
    capabilities: Capabilities,
    /// With the connection to each guest.
    pub(crate) local: Local<Connection>,
    pub(crate) qemu: OnceCell<(PathBuf, String)>,
    pub(crate) accelerator: OnceCell<Found>,
    /// Those that templates can name.
    pub(crate) catalogue: Catalogue,
    /// Those that were used last, the latest first.
    pub(crate) kernels: tokio::sync::Mutex<Vec<Arc<Kernel>>>,
}

type Connection = tokio::sync::Mutex<Option<Mux>>;

impl QemuDriver {
    /// What it can enforce on a host that has everything it needs.
    pub fn best() -> Capabilities {
        Capabilities {
            isolation: Isolation::Vm,
            networks: vec![NetworkPolicy::None, NetworkPolicy::Filtered, NetworkPolicy::Open],
            images: false,
            cpu_limit: true,
            memory_limit: true,
            disk_limit: true,
            mounts: false,
            pause: true,
            snapshot: true,
            machines: true,
            vsock: false,
            devices: BTreeSet::new(),
            users: false,
            console: true,
            arch: std::env::consts::ARCH.to_owned(),
            kernels: Vec::new(),
        }
    }

    /// Makes the state directory and watches the machines that an earlier driver of the same instance left running. What is
    /// missing on this host is told by [`Driver::probe`] and by the first start. Must be called within a tokio runtime.
    pub async fn open(mut options: QemuOptions) -> Result<Self, DriverError> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(DriverError::Unavailable {
                driver: KIND,
                message: format!(
                    "it knows machines of x86_64 only, and this host is {}",
                    std::env::consts::ARCH
                ),
            });
        }
        let local = Local::open(KIND, &options.instance, &options.state_dir)?;
        options.state_dir = local.state_dir().to_owned();
        let mut capabilities = Self::best();
        if !options.host_network {
            capabilities
                .networks
                .retain(|policy| *policy != NetworkPolicy::Open);
        }
        let catalogue = Catalogue::read(&options);
        capabilities.kernels = catalogue.offers();
        let inner = Arc::new(Inner {
            // Apart from the groups of other drivers of the same server: what is found there without a record is ended.
            host: Host::discover(&format!("{}-qemu", options.instance)),
            options,
            capabilities,
            local,
            qemu: OnceCell::new(),
            accelerator: OnceCell::new(),
            catalogue,
            kernels: tokio::sync::Mutex::default(),
        });
        for id in inner.list() {
            let dir = inner.dir(id);
            let Some(qemu) = dir.qemu(id).filter(|q| q.alive()) else {
                continue;
            };
            if dir.is_complete() {
                inner.watch(id, qemu, false);
                inner.finish_snapshot(id).await;
            } else {
                // The server was killed before the machine ran, and it never would: nobody is to wait for its guest.
                tracing::info!(sandbox = %id, "its start was cut off; it is ended");
                let killed = layout::kill(qemu);
                if killed.is_err() || !qemu.ended_within(DEATH_LIMIT).await {
                    tracing::warn!(sandbox = %id, ?killed, "a machine whose start was cut off does not end");
                }
            }
        }
        Ok(Self { inner })
    }
}

impl QemuDriver {
    /// What keeps it from starting anything, as far as can be seen at once: the program or the kernel is absent.
    pub async fn missing(&self) -> Option<String> {
        let inner = &self.inner;
        if let Err(why) = inner.qemu().await {
            return Some(why.to_string());
        }
        let named = inner.options.kernel.iter().find(|file| !file.is_file());
        named.map(|file| {
            format!(
                "there is no kernel {}: name one that is there in the settings, or none for the newest in /boot",
                file.display()
            )
        })
    }
}

impl Inner {
    pub(crate) fn dir(&self, id: SandboxId) -> MachineDir {
        MachineDir::of(&self.options.state_dir, id)
    }

    pub(crate) fn group(&self, id: SandboxId) -> Group {
        match self.dir(id).record() {
            Some(record) => Group::new(record.groups),
            None => self.host.group(&id.to_string()),
        }
    }

    /// What has a directory or a cgroup.
    pub(crate) fn list(&self) -> Vec<SandboxId> {
        self.local
            .list(self.host.names(), |id| Some(self.dir(id).record()?.instance))
    }

    pub(crate) async fn qmp(&self, id: SandboxId) -> Result<Qmp, Error> {
        Qmp::connect(&self.dir(id).vm(QMP), self.options.answer_limit).await
    }

    /// Waits for the end of the machine and tells of it, and follows its console and its events. `ours`: a child of this
    /// process.
    pub(crate) fn watch(self: &Arc<Self>, id: SandboxId, qemu: Identity, ours: bool) {
        let dir = self.dir(id);
        let followed = Arc::new(AtomicUsize::new(0));
        let done = followed.clone();
        let console = console::follow(dir.vm(CONSOLE), dir.path().to_owned());
        let console = tokio::spawn(async move {
            if let Err(error) = console.await {
                tracing::debug!(sandbox = %id, %error, "its console cannot be followed");
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
        let (done, limit) = (followed.clone(), self.options.answer_limit);
        let (socket, note) = (dir.vm(EVENTS), dir.join(END));
        let events = tokio::spawn(async move {
            if let Err(error) = events::follow(&socket, limit, &note).await {
                tracing::debug!(sandbox = %id, %error, "its events cannot be followed");
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
        let weak = Arc::downgrade(self);
        let noted_in = dir.clone();
        // How QEMU ended is noted by the task that reaps it; nobody else can know. What it said last is on its way, too.
        let noted = move || followed.load(Ordering::SeqCst) == 2 && (!ours || noted_in.ended().is_some());
        self.local.watch(id, qemu.ended(), noted, move || {
            tracing::info!(sandbox = %id, words = dir.last_words(), "QEMU ended");
            Some(weak.upgrade()?.exit(id))
        });
        self.local.keep(id, console.abort_handle());
        self.local.keep(id, events.abort_handle());
    }

    fn exit(&self, id: SandboxId) -> ExitInfo {
        let dir = self.dir(id);
        ExitInfo {
            out_of_memory: self.group(id).out_of_memory(),
            machine: dir.machine_end(),
            ..dir.ended().unwrap_or_default()
        }
    }

    fn status(&self, id: SandboxId) -> DriverStatus {
        let dir = self.dir(id);
        if !dir.path().exists() && !self.group(id).exists() {
            return DriverStatus::Gone;
        }
        match dir.qemu(id) {
            Some(qemu) if qemu.alive() => DriverStatus::Running,
            _ => DriverStatus::Exited(self.exit(id)),
        }
    }

    /// QEMU's process of a machine that runs.
    pub(crate) fn running(&self, id: SandboxId) -> Result<Identity, DriverError> {
        self.dir(id)
            .qemu(id)
            .filter(|q| q.alive())
            .ok_or(DriverError::NotFound { driver: KIND, id })
    }

    async fn connect(&self, id: SandboxId) -> Result<Stream, DriverError> {
        let why = |what: String| {
            let words = self.dir(id).last_words();
            let end = if words.is_empty() {
                String::new()
            } else {
                format!("; {words}")
            };
            self.local.failed("connect to", id, format!("{what}{end}"))
        };
        match self.status(id) {
            DriverStatus::Running => {}
            DriverStatus::Gone => return Err(DriverError::NotFound { driver: KIND, id }),
            DriverStatus::Exited(exit) => {
                let how = match exit.machine {
                    Some(MachineEnd::Panic) => ": its kernel panicked",
                    Some(MachineEnd::Reboot) => ": it was to start anew",
                    Some(MachineEnd::PowerOff) => ": it was switched off from inside",
                    Some(MachineEnd::Host) | None => "",
                };
                return Err(why(format!("its machine has ended{how}")));
            }
        }
        let connection = self.local.of(id);
        let mut mux = connection.lock().await;
        if let Some(there) = mux.as_ref()
            && let Ok(stream) = there.open().await
        {
            return Ok(stream);
        }
        // The old one is to leave QEMU before a new one comes.
        *mux = None;
        let new = Mux::begin(&self.dir(id).vm(PORT), GREETING_LIMIT)
            .await
            .map_err(|e| why(e.to_string()))?;
        let stream = new.open().await.map_err(|e| why(e.to_string()))?;
        *mux = Some(new);
        Ok(stream)
    }

    async fn command(&self, id: SandboxId, action: &'static str, command: &str) -> Result<(), DriverError> {
        let _turn = self.local.turn(id).await;
        self.running(id)?;
        let work = async { self.qmp(id).await?.execute(command, json!({})).await };
        work.await
            .map(|_| ())
            .map_err(|e| self.local.failed(action, id, e))
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    fn slowdown(&self) -> u32 {
        let inner = &self.inner;
        // After a restart of the server, machines go on before anything is tried out again.
        let found = inner.accelerator.get().map(|found| found.accelerator);
        match found.or_else(|| accelerator::remembered(&inner.options.state_dir)) {
            Some(Accelerator::Tcg) => inner.options.slowdown.max(1),
            Some(Accelerator::Kvm) | None => 1,
        }
    }

    async fn probe(&self) -> Vec<Finding> {
        self.inner.findings().await
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
        Ok(Box::new(self.inner.connect(id).await?))
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        Ok(self.inner.status(id))
    }

    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        let work = async move {
            let _turn = inner.local.turn(id).await;
            inner.local.stop_tasks(id);
            // Its place at QEMU is needed to ask the guest to end.
            *inner.local.of(id).lock().await = None;
            let failures = teardown::teardown(&inner.host, &inner.dir(id), id, grace).await;
            inner.local.removed(id, &failures)
        };
        self.inner.local.to_end("remove", id, work).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(self.inner.list())
    }

    async fn pause(&self, id: SandboxId) -> Result<(), DriverError> {
        self.inner.command(id, "pause", "stop").await
    }

    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        self.inner.command(id, "resume", "cont").await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        let _turn = self.inner.local.turn(id).await;
        let qemu = self.inner.running(id)?;
        let work = async { usage::of(qemu, self.inner.qmp(id).await?).await };
        work.await
            .map_err(|e| self.inner.local.failed("count the use of", id, e))
    }

    async fn console(&self, id: SandboxId, from: u64) -> Result<ConsolePiece, DriverError> {
        let inner = self.inner.clone();
        let dir = inner.dir(id);
        if !dir.path().exists() {
            return Err(DriverError::NotFound { driver: KIND, id });
        }
        tokio::task::spawn_blocking(move || console::read(dir.path(), from))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|e| inner.local.failed("read the console of", id, e))
    }

    async fn snapshot(&self, id: SandboxId, name: &str) -> Result<(), DriverError> {
        if let Some(reason) = snapshot::refusal(name) {
            return Err(self.inner.local.failed("snapshot", id, reason));
        }
        // Once begun it comes to its end, so that no machine stays stopped.
        let work = self.inner.clone().snapshot(id, name.to_owned());
        self.inner.local.to_end("snapshot", id, work).await
    }

    async fn snapshots(&self) -> Result<Vec<String>, DriverError> {
        Ok(snapshot::names(&self.inner.options.state_dir))
    }

    async fn remove_snapshot(&self, name: &str) -> Result<(), DriverError> {
        let unavailable = |message: String| DriverError::Unavailable {
            driver: KIND,
            message,
        };
        if let Some(reason) = snapshot::refusal(name) {
            return Err(unavailable(reason));
        }
        let (inner, name) = (self.inner.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || snapshot::remove(&inner.options.state_dir, &name))
            .await
            .map_err(|e| unavailable(e.to_string()))?
            .map_err(|e| unavailable(format!("the snapshot cannot be removed: {e}")))
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.inner.local.events()
    }

    fn check(&self, template: &SandboxTemplate) -> Result<(), DriverError> {
        let mut reasons = refusals(KIND, &self.inner.capabilities, template);
        reasons.extend(Base::of(template).err().map(|e| e.to_string()));
        reasons.extend(template.snapshot.as_deref().and_then(snapshot::refusal));
        if (16..LEAST_MEMORY_MB).contains(&template.memory_mb) {
            reasons.push(format!(
                "a virtual machine needs at least {LEAST_MEMORY_MB} MiB of memory"
            ));
        }
        if template.jailer.is_some() {
            reasons.push("a jailer: it has none, and always confines QEMU as far as it can".into());
        }
        let kernel = template.kernel.as_deref();
        let found = kernel.map(|wanted| self.inner.catalogue.find(wanted, &self.inner.options));
        let usable = found.map(|found| crate::kernel::check(&found?.image));
        let unusable = usable.and_then(Result::err);
        reasons.extend(unusable.map(|error| format!("its kernel cannot be used: {error}")));
        let arguments = template.kernel_args.as_deref().unwrap_or_default();
        if arguments.len() > 1024 || arguments.chars().any(char::is_control) {
            reasons.push("kernel arguments of more than 1024 bytes, or with control characters".into());
        }
        refused(KIND, reasons)
    }
}
