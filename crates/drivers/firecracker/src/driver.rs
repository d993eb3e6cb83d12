//! The driver.

use crate::api::Api;
use crate::cgroups::{self, Cgroups};
use crate::error::Error;
use crate::layout::{API_SOCKET, SandboxDir, VSOCK};
use crate::options::FirecrackerOptions;
use crate::snapshot::{Machine, Store};
use crate::start::Start;
use crate::version::Version;
use crate::{probe, teardown, usage, vsock};
use async_trait::async_trait;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::local::{Local, Turn, lock};
use ostler_sandbox::process::{Identity, stat};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, ExitInfo, Finding, SandboxSpec,
    Usage, refusals, refused,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

const KIND: DriverKind = DriverKind::Firecracker;

/// The least vsock context id of a machine; those below it name the host and its parts.
const FIRST_CID: u32 = 3;
/// Sandboxes that are Firecracker virtual machines.
#[derive(Debug)]
pub struct FirecrackerDriver {
    inner: Arc<Inner>,
}

/// The Firecracker program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: FirecrackerOptions,
    /// Or why it cannot be used.
    pub(crate) program: Result<Program, String>,
    pub(crate) jailer: Option<PathBuf>,
    pub(crate) cgroups: Cgroups,
    pub(crate) snapshots: Store,
    capabilities: Capabilities,
    local: Local,
    /// Held while a user is chosen and noted.
    pub(crate) choosing: Mutex<()>,
    /// Read while a jailer makes cgroups.
    pub(crate) jailing: tokio::sync::RwLock<()>,
}

impl FirecrackerDriver {
    /// What it can enforce with a version that has everything.
    pub fn best() -> Capabilities {
        Capabilities {
            isolation: Isolation::Vm,
            networks: vec![NetworkPolicy::None, NetworkPolicy::Filtered],
            images: false,
            cpu_limit: true,
            memory_limit: true,
            disk_limit: true,
            mounts: false,
            pause: true,
            snapshot: true,
            machines: true,
            vsock: true,
            devices: BTreeSet::new(),
            users: false,
            console: false,
            arch: std::env::consts::ARCH.to_owned(),
            kernels: Vec::new(),
        }
    }

    /// Looks at the host, makes the state directory, watches the machines that an earlier driver of the same instance left
    /// running, and lets those go on that were paused for a snapshot when it was killed. It opens also where Firecracker is
    /// absent: starts then say so. Must be called within a tokio runtime.
    pub async fn open(mut options: FirecrackerOptions) -> Result<Self, DriverError> {
        let local = Local::open(KIND, &options.instance, &options.state_dir)?;
        options.state_dir = local.state_dir().to_owned();
        let program = find(&options.firecracker).await;
        let jailer = probe::program(&options.jailer);
        let version = program.as_ref().ok().map(|p| p.version);
        let capabilities = Capabilities {
            pause: version.is_none_or(|v| v.refuses_pause().is_none()),
            snapshot: version.is_none_or(|v| v.refuses_snapshots().is_none()),
            ..Self::best()
        };
        let inner = Arc::new(Inner {
            snapshots: Store::of(&options.state_dir),
            options,
            program,
            jailer,
            cgroups: Cgroups::discover(),
            capabilities,
            local,
            choosing: Mutex::default(),
            jailing: tokio::sync::RwLock::default(),
        });
        inner.adopt().await;
        Ok(Self { inner })
    }
}

async fn find(name: &Path) -> Result<Program, String> {
    let path = probe::program(name).ok_or_else(|| format!("{} is not installed", name.display()))?;
    let version = probe::version(&path).await?;
    Ok(Program { path, version })
}

impl FirecrackerDriver {
    /// What keeps it from starting anything, as far as can be seen at once: a program or a file of the settings is absent.
    pub fn missing(&self) -> Option<String> {
        let options = &self.inner.options;
        if let Err(why) = &self.inner.program {
            return Some(format!("{why}: {}", probe::INSTALL));
        }
        if options.jailed && self.inner.jailer.is_none() {
            let name = options.jailer.display();
            return Some(format!(
                "{name}, which it runs in, is not installed: {}",
                probe::INSTALL
            ));
        }
        let files = [("kernel", &options.kernel), ("archive", &options.initrd)];
        files.into_iter().find_map(|(what, file)| {
            let file = file.as_ref().filter(|file| !file.is_file())?;
            Some(format!(
                "there is no {what} {}: name one that is there in the settings",
                file.display()
            ))
        })
    }
}

impl Inner {
    pub(crate) fn dir(&self, id: SandboxId) -> SandboxDir {
        SandboxDir::of(&self.options.state_dir, id)
    }

    /// The cgroup in which those of the machines are made. Not that of the process driver.
    pub(crate) fn parent_group(&self) -> String {
        format!("ostler-{}-machines", self.options.instance)
    }

    pub(crate) fn jailed(&self, template: &SandboxTemplate) -> bool {
        template.jailer.unwrap_or(self.options.jailed)
    }

    pub(crate) fn kernel(&self, template: &SandboxTemplate) -> Option<PathBuf> {
        template
            .kernel
            .as_ref()
            .map(PathBuf::from)
            .or_else(|| self.options.kernel.clone())
    }

    /// What has a directory.
    pub(crate) fn list(&self) -> Vec<SandboxId> {
        self.local.list([], |id| Some(self.dir(id).record()?.instance))
    }

    async fn adopt(self: &Arc<Self>) {
        self.snapshots.sweep();
        for id in self.list() {
            let dir = self.dir(id);
            let Some(process) = dir.started(id).filter(|p| p.alive()) else {
                continue;
            };
            self.watch(id, process);
            if !dir.snapshot_mark().exists() {
                continue;
            }
            if let Ok((root, api)) = self.running("resume", id) {
                let machine = Machine {
                    api: &api,
                    root: &root,
                    dir: &dir,
                };
                machine.tidy();
                if let Err(error) = machine.go_on().await {
                    tracing::warn!(sandbox = %id, %error, "still paused for a snapshot that was cut off");
                }
            }
        }
    }

    async fn start(self: Arc<Self>, spec: SandboxSpec, cid: u32, _turn: Turn) -> Result<String, DriverError> {
        let id = spec.id;
        let program = self.program.as_ref().map_err(|why| DriverError::Unavailable {
            driver: KIND,
            message: format!("{why}: see `ostler doctor`"),
        })?;
        let dir = self.dir(id);
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        dir.create().map_err(|e| {
            self.local.failed(
                "start",
                id,
                format!("its directory {}: {e}", dir.path().display()),
            )
        })?;
        let start = Start {
            inner: &self,
            program,
            id,
            template: &spec.template,
            cid,
            dir: &dir,
        };
        match start.run().await {
            Ok(process) => {
                self.watch(id, process);
                Ok(process.pid.to_string())
            }
            Err(error) => {
                self.local.undone(id, &self.teardown(id, Duration::ZERO).await);
                Err(self.local.failed("start", id, error))
            }
        }
    }

    async fn teardown(&self, id: SandboxId, grace: Duration) -> Vec<String> {
        let dir = self.dir(id);
        let groups = dir.record().map(|r| r.groups).unwrap_or_default();
        let failures = teardown::teardown(&dir, id, grace, self.options.answer_limit).await;
        // One after the other, so that the last of several is not hindered by the one before it. A start under way makes its
        // group there and removes it itself in the end.
        let _one = lock(&self.choosing);
        if self.jailing.try_write().is_ok() {
            cgroups::remove_parents(&groups);
        }
        failures
    }

    /// Waits for the end of the machine and tells of it.
    fn watch(self: &Arc<Self>, id: SandboxId, process: Identity) {
        let dir = self.dir(id);
        // How it ended is noted by the task that reaps it, if it is a child of this process.
        let ours = stat(process.pid).is_some_and(|s| s.parent as u32 == std::process::id());
        let noted = move || !ours || dir.ended().is_some();
        let weak = Arc::downgrade(self);
        self.local
            .watch(id, process.ended(), noted, move || Some(weak.upgrade()?.exit(id)));
    }

    fn exit(&self, id: SandboxId) -> ExitInfo {
        let dir = self.dir(id);
        ExitInfo {
            out_of_memory: dir.record().is_some_and(|r| cgroups::out_of_memory(&r.groups)),
            ..dir.ended().unwrap_or_default()
        }
    }

    fn status(&self, id: SandboxId) -> DriverStatus {
        let dir = self.dir(id);
        if !dir.path().exists() {
            return DriverStatus::Gone;
        }
        match dir.started(id) {
            Some(process) if process.alive() => DriverStatus::Running,
            _ => DriverStatus::Exited(self.exit(id)),
        }
    }

    /// The directory and the API of a machine that runs.
    fn running(&self, action: &'static str, id: SandboxId) -> Result<(PathBuf, Api), DriverError> {
        let dir = self.dir(id);
        let Some(record) = dir.record() else {
            return Err(DriverError::NotFound { driver: KIND, id });
        };
        if self.status(id) != DriverStatus::Running {
            return Err(self.local.failed(action, id, "it does not run any more"));
        }
        let api = Api::new(&record.root.join(API_SOCKET), self.options.answer_limit);
        Ok((record.root, api))
    }

    async fn set_state(
        &self,
        action: &'static str,
        id: SandboxId,
        state: &'static str,
    ) -> Result<(), DriverError> {
        let _turn = self.local.turn(id).await;
        let (_, api) = self.running(action, id)?;
        api.set_state(state)
            .await
            .map_err(|e| self.local.failed(action, id, e))
    }

    async fn snapshot(self: Arc<Self>, id: SandboxId, name: String) -> Result<(), DriverError> {
        const ACTION: &str = "snapshot";
        let _turn = self.local.turn(id).await;
        let (root, api) = self.running(ACTION, id)?;
        let dir = self.dir(id);
        let work = async {
            let mut key = dir
                .record()
                .map(|r| r.key)
                .ok_or_else(|| Error::Other("its notes are gone".into()))?;
            let version = Version::parse(&api.instance().await?.vmm_version);
            if let Some(why) = version.and_then(Version::refuses_snapshots) {
                return Err(Error::Other(why));
            }
            if let Some(version) = version {
                key.firecracker = version.to_string();
            }
            let machine = Machine {
                api: &api,
                root: &root,
                dir: &dir,
            };
            self.snapshots
                .take(&name, &machine, &key, self.options.start_limit)
                .await
        };
        work.await.map_err(|e| self.local.failed(ACTION, id, e))
    }
}

#[async_trait]
impl Driver for FirecrackerDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn probe(&self) -> Vec<Finding> {
        probe::findings(&self.inner.options, &self.inner.cgroups).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let cid = spec
            .vsock_cid
            .filter(|cid| (FIRST_CID..u32::MAX).contains(cid))
            .ok_or_else(|| DriverError::Unsupported {
                driver: KIND,
                reasons: vec![match spec.vsock_cid {
                    Some(cid) => {
                        format!("the vsock context id {cid}: {FIRST_CID} is the first one for machines")
                    }
                    None => "a machine without a vsock context id".to_owned(),
                }],
            })?;
        let inner = self.inner.clone();
        // It has its turn from the beginning, so that a removal that follows waits for it.
        let turn = inner.local.turn(spec.id).await;
        let work = inner.clone().start(spec.clone(), cid, turn);
        inner.local.to_end("start", spec.id, work).await
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        const ACTION: &str = "connect to";
        let (root, _) = self.inner.running(ACTION, id)?;
        let limit = self.inner.options.answer_limit;
        match tokio::time::timeout(limit, vsock::connect(&root.join(VSOCK))).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(e)) => Err(self.inner.local.failed(ACTION, id, e)),
            Err(_) => Err(DriverError::TimedOut {
                driver: KIND,
                action: ACTION,
                id,
                limit,
            }),
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
        let program = self.inner.program.as_ref().ok();
        let why = program.and_then(|p| p.version.refuses_pause());
        refused(KIND, why.into_iter().collect())?;
        self.inner.set_state("pause", id, "Paused").await
    }

    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        if !self.inner.capabilities.pause {
            return Err(self.cannot("resume", id));
        }
        self.inner.set_state("resume", id, "Resumed").await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        let process = self.inner.dir(id).started(id).filter(|p| p.alive());
        process
            .and_then(usage::of)
            .ok_or(DriverError::NotFound { driver: KIND, id })
    }

    async fn snapshot(&self, id: SandboxId, name: &str) -> Result<(), DriverError> {
        let program = self.inner.program.as_ref().ok();
        let reasons: Vec<String> = Store::refuses(name)
            .into_iter()
            .chain(program.and_then(|p| p.version.refuses_snapshots()))
            .collect();
        refused(KIND, reasons)?;
        // Once begun it comes to its end, so that no machine stays paused.
        let work = self.inner.clone().snapshot(id, name.to_owned());
        self.inner.local.to_end("snapshot", id, work).await
    }

    async fn snapshots(&self) -> Result<Vec<String>, DriverError> {
        Ok(self.inner.snapshots.names())
    }

    async fn remove_snapshot(&self, name: &str) -> Result<(), DriverError> {
        if Store::refuses(name).is_some() {
            // There cannot be one of that name.
            return Ok(());
        }
        let (store, name) = (self.inner.snapshots.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || store.remove(&name)).await;
        done.unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map_err(|e| DriverError::Unavailable {
                driver: KIND,
                message: format!("the snapshot cannot be removed: {e}"),
            })
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.inner.local.events()
    }

    fn check(&self, template: &SandboxTemplate) -> Result<(), DriverError> {
        let mut reasons = refusals(KIND, &self.inner.capabilities, template);
        reasons.extend(self.inner.own_refusals(template));
        refused(KIND, reasons)
    }
}
