//! The driver.

use crate::engine::{CALL_LIMIT, CallError, Engine, KIND, call, failed};
use crate::options::DockerOptions;
use crate::{container, events, probe, usage};
use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, SystemInfo};
use bollard::query_parameters::{InspectContainerOptions, InspectNetworkOptions, StatsOptionsBuilder};
use futures::StreamExt;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::local::state_dir;
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, Finding, MachineSize,
    SandboxSpec, Usage, kernels_of, mount_refusals, refusals,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::AbortHandle;

/// Events kept for a slow receiver.
const EVENTS: usize = 256;

/// Sandboxes that are containers of a Docker engine.
#[derive(Debug)]
pub struct DockerDriver {
    inner: Arc<Inner>,
    follower: AbortHandle,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: DockerOptions,
    pub(crate) engine: Engine,
    pub(crate) capabilities: Capabilities,
    /// Why disk use cannot be limited.
    pub(crate) no_disk_limit: Option<String>,
    machine: MachineSize,
    pub(crate) events: broadcast::Sender<DriverEvent>,
    /// Starts that may go on at once.
    pub(crate) starts: Semaphore,
    /// Sandboxes whose end is no news: it was announced, or they are being removed.
    pub(crate) quiet: Mutex<HashSet<SandboxId>>,
    /// No two operations on one sandbox at a time.
    pub(crate) turns: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DockerDriver {
    /// What it can enforce with an engine that has everything, apart from devices: those are named in its options.
    pub fn best() -> Capabilities {
        Capabilities {
            isolation: Isolation::Namespace,
            networks: vec![NetworkPolicy::None, NetworkPolicy::Filtered, NetworkPolicy::Open],
            images: true,
            cpu_limit: true,
            memory_limit: true,
            disk_limit: true,
            mounts: true,
            pause: true,
            snapshot: false,
            machines: false,
            vsock: false,
            devices: BTreeSet::new(),
            users: true,
            console: false,
            arch: std::env::consts::ARCH.to_owned(),
            kernels: Vec::new(),
        }
    }

    /// Connects to the engine, asks what it can do and follows its events. Must be called within a tokio runtime. Fails with
    /// [`DriverError::Unavailable`] and what to do if the engine cannot be reached, is not believed, or runs containers that
    /// the guest program is not for.
    pub async fn open(mut options: DockerOptions) -> Result<Self, DriverError> {
        let unavailable = |message: String| DriverError::Unavailable {
            driver: KIND,
            message,
        };
        options.state_dir = state_dir(KIND, &options.instance, &options.state_dir)?;
        let engine = Engine::connect(&options).await?;
        let info = call(CALL_LIMIT, engine.api.info())
            .await
            .map_err(|e| engine.unavailable(e))?;
        if let Some(why) = probe::foreign(&info) {
            return Err(unavailable(format!("the engine at {} {why}", engine.url)));
        }
        let network = engine
            .api
            .inspect_network("bridge", None::<InspectNetworkOptions>);
        let bridge = match call(CALL_LIMIT, network).await {
            Ok(_) => true,
            Err(CallError::Missing(_)) => false,
            Err(e) => return Err(engine.unavailable(e)),
        };
        let no_disk_limit = probe::disk_limit(&engine, &options.instance, &info)
            .await
            .map_err(|e| engine.unavailable(e))?;
        let inner = Arc::new(Inner {
            capabilities: capabilities(&options, &engine, &info, bridge, no_disk_limit.is_none()),
            no_disk_limit,
            machine: machine(&engine, &info),
            starts: Semaphore::new(options.starts.max(1)),
            options,
            engine,
            events: broadcast::channel(EVENTS).0,
            quiet: Mutex::default(),
            turns: Mutex::default(),
        });
        let follow = events::follow(Arc::downgrade(&inner), events::clock(&info));
        let follower = tokio::spawn(follow).abort_handle();
        Ok(Self { inner, follower })
    }

    /// Name of the engine's host among those that the server places sandboxes on.
    pub fn host(&self) -> &str {
        &self.inner.options.host
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Whether the engine has this image.
    pub async fn has_image(&self, image: &str) -> Result<bool, DriverError> {
        let engine = &self.inner.engine;
        match call(CALL_LIMIT, engine.api.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(CallError::Missing(_)) => Ok(false),
            Err(e) => Err(engine.unavailable(e)),
        }
    }
}

impl Drop for DockerDriver {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The machine of the engine, as the engine sees it.
fn machine(engine: &Engine, info: &SystemInfo) -> MachineSize {
    let size = |of: Option<i64>| of.and_then(|of| u64::try_from(of).ok()).unwrap_or(u64::MAX);
    MachineSize {
        here: !engine.remote,
        cpus: size(info.ncpu),
        memory_mb: size(info.mem_total.map(|bytes| bytes >> 20)),
    }
}

fn capabilities(
    options: &DockerOptions,
    engine: &Engine,
    info: &SystemInfo,
    bridge: bool,
    disk_limit: bool,
) -> Capabilities {
    // A filtered network is none, and what is allowed goes through the guest.
    let mut networks = vec![NetworkPolicy::None, NetworkPolicy::Filtered];
    if bridge {
        networks.push(NetworkPolicy::Open);
    }
    // Those of another host are seen when a container asks for them.
    let is_there = |path: &str| engine.remote || std::path::Path::new(path).exists();
    Capabilities {
        networks,
        cpu_limit: info.cpu_cfs_quota == Some(true),
        memory_limit: info.memory_limit == Some(true),
        disk_limit,
        mounts: !engine.remote,
        devices: options
            .devices
            .iter()
            .filter(|(_, path)| is_there(path))
            .map(|(name, _)| name.clone())
            .collect(),
        arch: info
            .architecture
            .clone()
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernels: kernels_of(info.kernel_version.as_deref().unwrap_or_default()),
        ..DockerDriver::best()
    }
}

impl Inner {
    pub(crate) fn dir(&self, id: SandboxId) -> PathBuf {
        self.options.state_dir.join(id.to_string())
    }

    pub(crate) fn name(&self, id: SandboxId) -> String {
        container::name(&self.options.instance, id)
    }

    fn turn(&self, id: SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        lock(&self.turns).entry(id).or_default().clone()
    }

    /// Whether the end of this sandbox is news; it is from then on no more.
    pub(crate) fn announce(&self, id: SandboxId) -> bool {
        lock(&self.quiet).insert(id)
    }

    /// The engine's account of the sandbox's container; `None` if there is none.
    pub(crate) async fn inspect(&self, id: SandboxId) -> Result<Option<ContainerInspectResponse>, CallError> {
        let name = self.name(id);
        let request = self
            .engine
            .api
            .inspect_container(&name, None::<InspectContainerOptions>);
        match call(CALL_LIMIT, request).await {
            Ok(found) => Ok(Some(found)),
            Err(CallError::Missing(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn refusals(&self, template: &SandboxTemplate) -> Vec<String> {
        let mut reasons = refusals(KIND, &self.capabilities, template);
        if let Some(why) = self.no_disk_limit.as_ref().filter(|_| template.disk_mb.is_some()) {
            reasons.push(why.clone());
        }
        reasons.extend(mount_refusals(template, &self.options.state_dir));
        if let Some(user) = template.user.as_ref().filter(|user| !is_user(user)) {
            reasons.push(format!(
                "`{user}` is no user: give a name or a number, or USER:GROUP"
            ));
        }
        let Some(socket) = self
            .engine
            .socket
            .as_ref()
            .filter(|_| !self.options.engine_mounts)
        else {
            return reasons;
        };
        let socket = std::fs::canonicalize(socket).unwrap_or_else(|_| socket.clone());
        for mount in &template.mounts {
            let source = std::fs::canonicalize(&mount.source).unwrap_or_else(|_| mount.source.clone().into());
            if socket.starts_with(&source) {
                reasons.push(format!(
                    "a mount of {}, which would give the sandbox the engine itself",
                    mount.source
                ));
            }
        }
        reasons
    }
}

/// Whether this can be a user, or a user and a group, of an image.
fn is_user(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    match text.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(text),
    }
}

#[async_trait]
impl Driver for DockerDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn machine(&self) -> Option<MachineSize> {
        Some(self.inner.machine)
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn probe(&self) -> Vec<Finding> {
        probe::findings(&self.inner).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let turn = self.inner.turn(spec.id).lock_owned().await;
        // A task of its own: a caller that gives up must not leave half a sandbox. It has its turn from the beginning, so
        // that a removal that follows waits for it.
        tokio::spawn(self.inner.clone().start(spec.clone(), turn))
            .await
            .unwrap_or_else(|e| Err(failed("start", spec.id, e)))
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        self.inner.connect(id).await
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        match self.inner.inspect(id).await {
            Ok(Some(found)) => Ok(container::status(found.state.as_ref())),
            Ok(None) if self.inner.dir(id).exists() => Ok(container::status(None)),
            Ok(None) => Ok(DriverStatus::Gone),
            Err(e) => Err(self.inner.engine.error(e, "look at", id)),
        }
    }

    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        let work = async move {
            let turn = inner.turn(id);
            let _turn = turn.lock().await;
            inner.take_down(id, grace).await
        };
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(failed("remove", id, e)))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        let listed = self.inner.list().await;
        listed.map_err(|e| self.inner.engine.unavailable(e))
    }

    async fn pause(&self, id: SandboxId) -> Result<(), DriverError> {
        let engine = &self.inner.engine;
        match call(CALL_LIMIT, engine.api.pause_container(&self.inner.name(id))).await {
            Ok(()) => Ok(()),
            Err(e) => Err(engine.error(e, "pause", id)),
        }
    }

    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        let engine = &self.inner.engine;
        match call(CALL_LIMIT, engine.api.unpause_container(&self.inner.name(id))).await {
            Ok(()) => Ok(()),
            Err(e) => Err(engine.error(e, "resume", id)),
        }
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        const ACTION: &str = "count the use of";
        let engine = &self.inner.engine;
        // One look: by default the engine waits a second for a second one.
        let options = StatsOptionsBuilder::default()
            .stream(false)
            .one_shot(true)
            .build();
        let name = self.inner.name(id);
        let mut stats = Box::pin(engine.api.stats(&name, Some(options)));
        let ended = || bollard::errors::Error::DockerStreamError {
            error: "the engine sent nothing".into(),
        };
        let first = async { stats.next().await.unwrap_or_else(|| Err(ended())) };
        match call(CALL_LIMIT, first).await {
            Ok(stats) => usage::of(&stats).ok_or_else(|| failed(ACTION, id, "it does not run")),
            Err(e) => Err(engine.error(e, ACTION, id)),
        }
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.inner.events.subscribe()
    }

    fn check(&self, template: &SandboxTemplate) -> Result<(), DriverError> {
        let reasons = self.inner.refusals(template);
        if reasons.is_empty() {
            return Ok(());
        }
        Err(DriverError::Unsupported {
            driver: KIND,
            reasons,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_user;

    #[test]
    fn users_are_names_or_numbers() {
        for good in ["1000", "node", "_apt", "1000:1000", "user:group"] {
            assert!(is_user(good), "{good}");
        }
        for bad in ["", ":", "a:", ":b", "a:b:c", "-x", "a b", "a\n", "a/b"] {
            assert!(!is_user(bad), "{bad}");
        }
    }
}
