//! The driver.

use crate::accelerator::{self, Found};
use crate::drives::{self, Base};
use crate::error::{At, Error};
use crate::initrd::{self, Machine, USER_NETWORK};
use crate::kernel::{self, Kernel};
use crate::launch::{self, CONSOLE, PORT, Plan, QMP};
use crate::layout::{self, MachineDir, Record, Started};
use crate::mux::{Mux, Stream};
use crate::options::QemuOptions;
use crate::qmp::Qmp;
use crate::snapshot::{self, Key};
use crate::{console, probe, teardown, usage, user};
use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::cgroup::{Group, Host, Limits};
use ostler_sandbox::process::{Identity, boot_id};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, ExitInfo, Finding, SandboxSpec,
    Usage, refusals,
};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};
use tokio::task::AbortHandle;

const KIND: DriverKind = DriverKind::Qemu;

/// Least memory in which the kernels of distributions start, MiB.
const LEAST_MEMORY_MB: u64 = 128;
/// What QEMU itself needs besides the machine's memory, bytes.
const OVERHEAD: u64 = 384 << 20;
/// Threads of QEMU besides those of the processors.
const THREADS: u32 = 128;
/// How long the guest gets to answer at the beginning of a conversation. Not longer: it is asked again.
const GREETING_LIMIT: Duration = Duration::from_secs(1);
/// How long the note of how QEMU ended is waited for, and how often it is looked at.
const NOTE_LIMIT: Duration = Duration::from_millis(500);
const NOTE_STEP: Duration = Duration::from_millis(5);
/// Events kept for a slow receiver.
const EVENTS: usize = 256;

/// Sandboxes that are virtual machines of QEMU.
#[derive(Debug)]
pub struct QemuDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: QemuOptions,
    host: Host,
    capabilities: Capabilities,
    events: broadcast::Sender<DriverEvent>,
    entries: Mutex<HashMap<SandboxId, Arc<Entry>>>,
    qemu: OnceCell<(PathBuf, String)>,
    accelerator: OnceCell<Found>,
    kernels: tokio::sync::Mutex<HashMap<PathBuf, Arc<Kernel>>>,
}

/// The right to work on one sandbox.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// What this process holds of one sandbox.
#[derive(Debug, Default)]
struct Entry {
    /// No two operations on it at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Waits for its end, and follows its console.
    tasks: Mutex<Vec<AbortHandle>>,
    mux: tokio::sync::Mutex<Option<Mux>>,
}

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
            arch: std::env::consts::ARCH.to_owned(),
        }
    }

    /// Makes the state directory and watches the machines that an earlier driver of the same instance left running. What is
    /// missing on this host is told by [`Driver::probe`] and by the first start. Must be called within a tokio runtime.
    pub async fn open(mut options: QemuOptions) -> Result<Self, DriverError> {
        let unavailable = |message: String| DriverError::Unavailable {
            driver: KIND,
            message,
        };
        if std::env::consts::ARCH != "x86_64" {
            return Err(unavailable(format!(
                "it knows machines of x86_64 only, and this host is {}",
                std::env::consts::ARCH
            )));
        }
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
        let mut capabilities = Self::best();
        if !options.host_network {
            capabilities
                .networks
                .retain(|policy| *policy != NetworkPolicy::Open);
        }
        let inner = Arc::new(Inner {
            // Apart from the groups of other drivers of the same server: what is found there without a record is ended.
            host: Host::discover(&format!("{}-qemu", options.instance)),
            options,
            capabilities,
            events: broadcast::channel(EVENTS).0,
            entries: Mutex::default(),
            qemu: OnceCell::new(),
            accelerator: OnceCell::new(),
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
                if killed.is_err() || !qemu.ended_within(NOTE_LIMIT).await {
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

impl Drop for QemuDriver {
    fn drop(&mut self) {
        for entry in lock(&self.inner.entries).values() {
            entry.stop_tasks();
        }
    }
}

impl Entry {
    fn stop_tasks(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(action: &'static str, id: SandboxId, message: impl std::fmt::Display) -> DriverError {
    DriverError::Failed {
        driver: KIND,
        action,
        id,
        message: message.to_string(),
    }
}

impl Inner {
    fn dir(&self, id: SandboxId) -> MachineDir {
        MachineDir::of(&self.options.state_dir, id)
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

    async fn qemu(&self) -> Result<&(PathBuf, String), Error> {
        self.qemu.get_or_try_init(|| probe::qemu(&self.options)).await
    }

    async fn kernel(&self, template: Option<&SandboxTemplate>) -> Result<Arc<Kernel>, Error> {
        let path = template
            .and_then(|t| t.kernel.clone().map(PathBuf::from))
            .or_else(|| self.options.kernel.clone())
            .or_else(kernel::newest)
            .ok_or_else(|| {
                Error::Other(
                    "there is no kernel for its machines: install one (apt-get install linux-image-cloud-amd64), or \
                     name one in the settings or the template"
                        .into(),
                )
            })?;
        let mut kernels = self.kernels.lock().await;
        if let Some(kernel) = kernels.get(&path).filter(|k| k.is_current()) {
            return Ok(kernel.clone());
        }
        let kernel = Kernel::load(&path, &self.options.modules, &self.options.guest)
            .await
            .map_err(|e| Error::Other(format!("its kernel cannot be used: {e}")))?;
        let kernel = Arc::new(kernel);
        kernels.insert(path, kernel.clone());
        Ok(kernel)
    }

    /// What runs the processors, found out with the driver's own kernel, or with `other` where it has none.
    async fn accelerator(&self, other: &Kernel) -> Result<&Found, Error> {
        let (program, version) = self.qemu().await?;
        let only = self.options.accelerator;
        let find = async || {
            let own = self.kernel(None).await.ok();
            let kernel = own.as_deref().unwrap_or(other);
            accelerator::find(program, version, kernel, only, &self.options.state_dir).await
        };
        self.accelerator.get_or_try_init(find).await
    }

    async fn qmp(&self, id: SandboxId) -> Result<Qmp, Error> {
        Qmp::connect(&self.dir(id).vm(QMP), self.options.answer_limit).await
    }

    async fn start(self: Arc<Self>, spec: SandboxSpec, _turn: Turn) -> Result<String, DriverError> {
        let id = spec.id;
        let dir = self.dir(id);
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        dir.create().at(dir.path()).map_err(|e| failed("start", id, e))?;
        let limit = self.options.start_limit;
        // Finding out what works here is no part of a start, and takes long only once.
        let work = async {
            let kernel = self.kernel(Some(&spec.template)).await?;
            let found = self.accelerator(&kernel).await?;
            let launch = self.launch(&spec, &dir, &kernel, found);
            tokio::time::timeout(limit, launch)
                .await
                .unwrap_or(Err(Error::TimedOut {
                    what: "the start",
                    limit,
                }))
        };
        match work.await {
            Ok(qemu) => Ok(qemu.pid.to_string()),
            Err(error) => {
                let words = dir.last_words();
                self.entry(id).stop_tasks();
                for failure in teardown::teardown(&self.host, &dir, id, Duration::ZERO).await {
                    tracing::warn!(sandbox = %id, failure, "cleaning up after a failed start");
                }
                lock(&self.entries).remove(&id);
                Err(match (error, words.is_empty()) {
                    (Error::TimedOut { .. }, true) => DriverError::TimedOut {
                        driver: KIND,
                        action: "start",
                        id,
                        limit,
                    },
                    (error, true) => failed("start", id, error),
                    (error, false) => failed("start", id, format!("{error}; {words}")),
                })
            }
        }
    }

    async fn launch(
        self: &Arc<Self>,
        spec: &SandboxSpec,
        dir: &MachineDir,
        kernel: &Kernel,
        found: &Found,
    ) -> Result<Identity, Error> {
        let (id, template, options) = (spec.id, &spec.template, &self.options);
        let (program, version) = self.qemu().await?;
        let base = Base::of(template)?;
        let key = Key::of(template, version, found.accelerator, &kernel.hash)?;
        let restored = template.snapshot.as_deref();
        if let Some(name) = restored {
            snapshot::check(&options.state_dir, name, &key)?;
        }
        let user = self.user(id)?;
        let name = id.to_string();
        // Noted first, so that a server killed right after the next step finds the groups again.
        dir.write_record(&Record {
            instance: options.instance.clone(),
            groups: self.host.group(&name).dirs().to_vec(),
            user,
            key: key.clone(),
        })
        .at(dir.path())?;
        let vm = dir.join("vm");
        std::fs::DirBuilder::new().mode(0o700).create(&vm).at(&vm)?;
        if let Some(user) = user {
            chown(&vm, Some(user), Some(user)).at(&vm)?;
        }
        let limits = Limits {
            cpus: template.cpus,
            memory_bytes: (template.memory_mb << 20) + OVERHEAD,
            processes: template.cpus + THREADS,
        };
        let group = self
            .host
            .create(&name, limits)
            .map_err(|e| Error::Other(format!("its cgroup: {e}")))?;
        match restored {
            Some(name) => snapshot::copy_drives(&options.state_dir, name, dir, &key, user).await?,
            None => drives::make(options, dir, template, &base, user).await?,
        }
        let machine = Machine {
            hostname: name.replace('_', "-"),
            trial: false,
            data: template.data_drive_mb.is_some(),
            network: (template.network == NetworkPolicy::Open).then_some(USER_NETWORK),
            env: template.env.clone(),
        };
        let description = initrd::description(&machine).map_err(|e| Error::Other(e.to_string()))?;
        let initrd = launch::in_memory(&[&kernel.initrd, &description])?;
        let image = launch::open_kernel(&kernel.path, user)?;
        let plan = Plan {
            id,
            template,
            accelerator: found.accelerator,
            base: &base,
            kernel: &image,
            initrd: &initrd,
            restored: restored.is_some(),
        };
        let qemu = launch::start(program, &plan, dir, &group, user)?;
        let mut started = Started {
            boot: boot_id(),
            qemu,
            complete: false,
        };
        dir.write_started(&started).at(dir.path())?;
        let mut qmp = tokio::select! {
            qmp = self.qmp(id) => qmp?,
            _ = qemu.ended() => return Err(Error::Other("QEMU ended at once".into())),
        };
        self.watch(id, qemu, true);
        if let Some(name) = restored {
            snapshot::restore(&options.state_dir, name, &mut qmp).await?;
        }
        qmp.execute("cont", json!({})).await?;
        started.complete = true;
        dir.write_started(&started).at(dir.path())?;
        Ok(qemu)
    }

    /// The user for a new machine, where the server may choose.
    fn user(&self, id: SandboxId) -> Result<Option<u32>, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let machines = self.list();
        let taken = machines
            .iter()
            .filter_map(|other| self.dir(*other).record()?.user)
            .collect();
        let free =
            user::free(id, &taken).ok_or_else(|| Error::Other("all users for machines are in use".into()))?;
        Ok(Some(free))
    }

    /// Waits for the end of the machine and tells of it, and follows its console. The tasks hold no strong reference while
    /// they wait, so that they do not keep the driver alive.
    fn watch(self: &Arc<Self>, id: SandboxId, qemu: Identity, ours: bool) {
        let dir = self.dir(id);
        let console = console::follow(dir.vm(CONSOLE), dir.join("console"));
        let follow = tokio::spawn(async move {
            if let Err(error) = console.await {
                tracing::debug!(sandbox = %id, %error, "its console cannot be followed");
            }
        });
        let weak = Arc::downgrade(self);
        let wait = tokio::spawn(async move {
            if let Err(error) = qemu.ended().await {
                tracing::warn!(sandbox = %id, %error, "cannot wait for its end; health checks will notice it");
                return;
            }
            // How it ended is noted a moment later by the task that reaps it; nobody else can know.
            let end = std::time::Instant::now() + NOTE_LIMIT;
            while ours && dir.exit().is_none() && std::time::Instant::now() < end {
                tokio::time::sleep(NOTE_STEP).await;
            }
            if let Some(inner) = weak.upgrade() {
                let exit = inner.exit(id);
                tracing::info!(sandbox = %id, ?exit, words = dir.last_words(), "ended unasked");
                // Nobody listening is fine: health checks ask.
                let _nobody = inner.events.send(DriverEvent { id, exit });
            }
        });
        let entry = self.entry(id);
        entry.stop_tasks();
        lock(&entry.tasks).extend([follow.abort_handle(), wait.abort_handle()]);
    }

    /// Lets a machine go on that a killed server had stopped for a snapshot, and removes what there is of that.
    async fn finish_snapshot(&self, id: SandboxId) {
        let mark = self.dir(id).join(snapshot::MARK);
        let Ok(name) = std::fs::read_to_string(&mark) else {
            return;
        };
        let resume = async {
            let mut qmp = self.qmp(id).await?;
            let _none_is_fine = qmp.execute("migrate_cancel", json!({})).await;
            qmp.execute("cont", json!({})).await?;
            std::fs::remove_file(&mark).at(&mark)?;
            if snapshot::refusal(&name).is_none() && !snapshot::names(&self.options.state_dir).contains(&name)
            {
                snapshot::remove(&self.options.state_dir, &name).at(&mark)?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = resume.await {
            tracing::warn!(sandbox = %id, %error, "it stays stopped after a snapshot that was cut off");
        }
    }

    fn exit(&self, id: SandboxId) -> ExitInfo {
        ExitInfo {
            out_of_memory: self.group(id).out_of_memory(),
            ..self.dir(id).exit().unwrap_or_default()
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
    fn running(&self, id: SandboxId) -> Result<Identity, DriverError> {
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
            failed("connect to", id, format!("{what}{end}"))
        };
        match self.status(id) {
            DriverStatus::Running => {}
            DriverStatus::Gone => return Err(DriverError::NotFound { driver: KIND, id }),
            DriverStatus::Exited(_) => return Err(why("its machine has ended".into())),
        }
        let entry = self.entry(id);
        let mut mux = entry.mux.lock().await;
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
        let entry = self.entry(id);
        let _turn = entry.turn.lock().await;
        self.running(id)?;
        let work = async { self.qmp(id).await?.execute(command, json!({})).await };
        work.await.map(|_| ()).map_err(|e| failed(action, id, e))
    }

    async fn snapshot(self: Arc<Self>, id: SandboxId, name: String) -> Result<(), DriverError> {
        let entry = self.entry(id);
        let _turn = entry.turn.lock().await;
        self.running(id)?;
        let dir = self.dir(id);
        let work = async {
            let record = dir
                .record()
                .ok_or_else(|| Error::Other("its description is missing".into()))?;
            let qmp = self.qmp(id).await?;
            let options = &self.options;
            snapshot::take(
                &options.state_dir,
                &dir,
                qmp,
                &record.key,
                &name,
                options.start_limit,
            )
            .await
        };
        work.await.map_err(|e| failed("snapshot", id, e))
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

    async fn probe(&self) -> Vec<Finding> {
        let inner = &self.inner;
        let finding = |subject: &str, result: Result<String, Error>| Finding {
            subject: subject.to_owned(),
            ok: result.is_ok(),
            detail: result.unwrap_or_else(|why| why.to_string()),
        };
        let qemu = inner
            .qemu()
            .await
            .map(|(path, version)| format!("{}: {version}", path.display()));
        let mut findings = vec![finding("QEMU", qemu)];
        findings.extend(probe::tools(&inner.options).await);
        let kernel = inner.kernel(None).await;
        let accelerator = match &kernel {
            Ok(kernel) => inner.accelerator(kernel).await.map(|found| match &found.without_kvm {
                None => format!("KVM works: a kernel started in {} ms", found.boot_ms),
                Some(why) => format!(
                    "without KVM ({why}): a kernel started in {} ms; programs are many times slower. A host whose \
                     virtualisation is switched on, with the right to use /dev/kvm, is faster",
                    found.boot_ms
                ),
            }),
            Err(_) => Err(Error::Other("not looked for: there is no kernel to boot".into())),
        };
        findings.push(finding(
            "kernel",
            kernel.map(|k| {
                let version = k.version.as_deref().unwrap_or("of unknown version");
                format!("{} {version}, with {} modules", k.path.display(), k.modules)
            }),
        ));
        findings.push(finding("processors", accelerator));
        findings
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let turn = self.inner.entry(spec.id).turn.clone().lock_owned().await;
        // A task of its own: a caller that gives up must not leave half a sandbox. It has its turn from the beginning, so
        // that a removal that follows waits for it.
        tokio::spawn(self.inner.clone().start(spec.clone(), turn))
            .await
            .unwrap_or_else(|e| Err(failed("start", spec.id, e)))
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
            let entry = inner.entry(id);
            let _turn = entry.turn.lock().await;
            entry.stop_tasks();
            // Its place at QEMU is needed to ask the guest to end.
            *entry.mux.lock().await = None;
            let failures = teardown::teardown(&inner.host, &inner.dir(id), id, grace).await;
            if failures.is_empty() {
                lock(&inner.entries).remove(&id);
                return Ok(());
            }
            Err(failed("remove", id, failures.join("; ")))
        };
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(failed("remove", id, e)))
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
        let entry = self.inner.entry(id);
        let _turn = entry.turn.lock().await;
        let qemu = self.inner.running(id)?;
        let work = async { usage::of(qemu, self.inner.qmp(id).await?).await };
        work.await.map_err(|e| failed("count the use of", id, e))
    }

    async fn snapshot(&self, id: SandboxId, name: &str) -> Result<(), DriverError> {
        if let Some(reason) = snapshot::refusal(name) {
            return Err(failed("snapshot", id, reason));
        }
        // A task of its own: a caller that gives up must not leave the machine stopped.
        tokio::spawn(self.inner.clone().snapshot(id, name.to_owned()))
            .await
            .unwrap_or_else(|e| Err(failed("snapshot", id, e)))
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
        self.inner.events.subscribe()
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
        let arguments = template.kernel_args.as_deref().unwrap_or_default();
        if arguments.len() > 1024 || arguments.chars().any(char::is_control) {
            reasons.push("kernel arguments of more than 1024 bytes, or with control characters".into());
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
