//! The driver.

use crate::container;
use crate::engine::{CALL_LIMIT, CallError, Engine, KIND, SLOW_LIMIT, call, failed};
use crate::events;
use crate::options::DockerOptions;
use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, SystemInfo};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, InspectNetworkOptions,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, Finding, SandboxSpec,
    connect_socket, mount_refusals, refusals, remove_tree,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Name of the guest's socket in the run directory.
const SOCKET: &str = "guest.sock";
/// Events kept for a slow receiver.
const EVENTS: usize = 256;
/// How often a container that was asked to end is looked at.
const END_STEP: Duration = Duration::from_millis(20);

/// Sandboxes that are containers of a Docker engine on this host.
#[derive(Debug)]
pub struct DockerDriver {
    inner: Arc<Inner>,
    follower: AbortHandle,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: DockerOptions,
    pub(crate) engine: Engine,
    capabilities: Capabilities,
    pub(crate) events: broadcast::Sender<DriverEvent>,
    /// Sandboxes whose end is no news: it was announced, or they are being removed.
    quiet: Mutex<HashSet<SandboxId>>,
    /// No two operations on one sandbox at a time.
    turns: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to work on one sandbox.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// The guest's arguments, given where its sockets and its workspace are.
pub(crate) fn guest_arguments(run: &str, workspace: &str) -> Vec<String> {
    ["--run", run, "--workspace", workspace]
        .map(str::to_owned)
        .to_vec()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DockerDriver {
    /// Connects to the engine, asks what it can do and follows its events. Must be called within a tokio runtime.
    pub async fn open(mut options: DockerOptions) -> Result<Self, DriverError> {
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
        let engine = Engine::connect(&options.engine).await?;
        let info = call(CALL_LIMIT, engine.api.info())
            .await
            .map_err(|e| e.unavailable(&engine.url))?;
        let network = engine
            .api
            .inspect_network("bridge", None::<InspectNetworkOptions>);
        let bridge = match call(CALL_LIMIT, network).await {
            Ok(_) => true,
            Err(CallError::Missing(_)) => false,
            Err(e) => return Err(e.unavailable(&engine.url)),
        };
        let inner = Arc::new(Inner {
            capabilities: capabilities(&info, bridge),
            options,
            engine,
            events: broadcast::channel(EVENTS).0,
            quiet: Mutex::default(),
            turns: Mutex::default(),
        });
        let follower = tokio::spawn(events::follow(Arc::downgrade(&inner))).abort_handle();
        Ok(Self { inner, follower })
    }
}

impl DockerDriver {
    /// The engine, for what is about images and not sandboxes.
    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Whether the engine has this image.
    pub async fn has_image(&self, image: &str) -> Result<bool, DriverError> {
        let engine = &self.inner.engine;
        match call(CALL_LIMIT, engine.api.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(CallError::Missing(_)) => Ok(false),
            Err(e) => Err(e.unavailable(&engine.url)),
        }
    }
}

impl Drop for DockerDriver {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn capabilities(info: &SystemInfo, bridge: bool) -> Capabilities {
    let mut networks = vec![NetworkPolicy::None];
    if bridge {
        networks.push(NetworkPolicy::Open);
    }
    Capabilities {
        isolation: Isolation::Namespace,
        networks,
        images: true,
        cpu_limit: info.cpu_cfs_quota == Some(true),
        memory_limit: info.memory_limit == Some(true),
        disk_limit: false,
        mounts: true,
        pause: true,
        snapshot: false,
        machines: false,
        vsock: false,
        devices: std::collections::BTreeSet::new(),
        users: false,
        arch: info
            .architecture
            .clone()
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
    }
}

impl Inner {
    pub(crate) fn dir(&self, id: SandboxId) -> PathBuf {
        self.options.state_dir.join(id.to_string())
    }

    fn name(&self, id: SandboxId) -> String {
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

    async fn start(self: Arc<Self>, spec: SandboxSpec, _turn: Turn) -> Result<String, DriverError> {
        let id = spec.id;
        let dir = self.dir(id);
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        make_dir(&dir).map_err(|e| failed("start", id, format!("its directory {}: {e}", dir.display())))?;
        lock(&self.quiet).remove(&id);
        let error = match self.launch(&spec, &dir).await {
            Ok(reference) => return Ok(reference),
            Err(error) => error,
        };
        if let Err(cleaning) = self.take_down(id, Duration::ZERO).await {
            tracing::warn!(sandbox = %id, error = %cleaning, "cleaning up after a failed start");
        }
        Err(error)
    }

    async fn launch(&self, spec: &SandboxSpec, dir: &Path) -> Result<String, DriverError> {
        let id = spec.id;
        let run = dir.join("run");
        make_dir(&run).map_err(|e| failed("start", id, format!("{}: {e}", run.display())))?;
        let name = self.name(id);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = container::body(&self.options, id, &spec.template, &run);
        let created = call(SLOW_LIMIT, self.engine.api.create_container(Some(options), body)).await;
        let created = created.map_err(|e| match e {
            CallError::Missing(_) => {
                let image = spec.template.image.as_deref().unwrap_or_default();
                failed(
                    "start",
                    id,
                    format!(
                        "the engine has no image {image}: get it with `docker pull {image}`, load it with \
                         `docker load -i FILE`, or make it with `docker import FILE {image}`"
                    ),
                )
            }
            e => self.engine.error(e, "start", id),
        })?;
        call(
            SLOW_LIMIT,
            self.engine
                .api
                .start_container(&name, None::<StartContainerOptions>),
        )
        .await
        .map_err(|e| self.engine.error(e, "start", id))?;
        Ok(created.id)
    }

    /// Ends and removes everything of a sandbox; every step is tried.
    async fn take_down(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        lock(&self.quiet).insert(id);
        let asked = if grace.is_zero() {
            Ok(())
        } else {
            self.ask_to_end(id, grace).await
        };
        if let Err(e) = asked {
            tracing::debug!(sandbox = %id, error = ?e, "asking the guest to end");
        }
        let removed = self.remove_container(id).await;
        // The guest still listens there while the container lives.
        let cleaned = match &removed {
            Ok(()) => {
                let dir = self.dir(id);
                tokio::task::spawn_blocking(move || remove_tree(&dir))
                    .await
                    .map_err(|e| e.to_string())
                    .and_then(|r| r.map_err(|e| e.to_string()))
            }
            Err(_) => Ok(()),
        };
        removed.map_err(|e| self.engine.error(e, "remove", id))?;
        cleaned.map_err(|e| {
            failed(
                "remove",
                id,
                format!("its directory {}: {e}", self.dir(id).display()),
            )
        })?;
        lock(&self.turns).remove(&id);
        lock(&self.quiet).remove(&id);
        Ok(())
    }

    async fn ask_to_end(&self, id: SandboxId, grace: Duration) -> Result<(), CallError> {
        let name = self.name(id);
        let Some(found) = self.inspect(id).await? else {
            return Ok(());
        };
        let state = found.state.unwrap_or_default();
        if state.running != Some(true) {
            return Ok(());
        }
        if state.paused == Some(true) {
            call(CALL_LIMIT, self.engine.api.unpause_container(&name)).await?;
        }
        let options = KillContainerOptionsBuilder::default().signal("SIGTERM").build();
        call(CALL_LIMIT, self.engine.api.kill_container(&name, Some(options))).await?;
        let end = Instant::now() + grace;
        while Instant::now() < end {
            let running = self.inspect(id).await?.and_then(|c| c.state?.running);
            if running != Some(true) {
                break;
            }
            tokio::time::sleep(END_STEP).await;
        }
        Ok(())
    }

    async fn remove_container(&self, id: SandboxId) -> Result<(), CallError> {
        let name = self.name(id);
        let end = Instant::now() + SLOW_LIMIT;
        loop {
            let options = RemoveContainerOptionsBuilder::default()
                .force(true)
                .v(true)
                .build();
            match call(SLOW_LIMIT, self.engine.api.remove_container(&name, Some(options))).await {
                Ok(()) | Err(CallError::Missing(_)) => return Ok(()),
                // An earlier call, maybe of a server that was killed, is still at it.
                Err(CallError::Conflict(_)) if Instant::now() < end => {
                    tokio::time::sleep(END_STEP).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn list(&self) -> Result<Vec<SandboxId>, CallError> {
        let label = format!("{}={}", container::INSTANCE, self.options.instance);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label".to_owned(), vec![label])]))
            .build();
        let containers = call(CALL_LIMIT, self.engine.api.list_containers(Some(options))).await?;
        let labelled = containers
            .into_iter()
            .filter_map(|c| c.labels?.remove(container::SANDBOX));
        // A directory without a container is from a start or a removal that was cut off.
        let dirs = std::fs::read_dir(&self.options.state_dir)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok());
        let ids: BTreeSet<SandboxId> = labelled.chain(dirs).filter_map(|t| t.parse().ok()).collect();
        Ok(ids.into_iter().collect())
    }

    fn refusals(&self, template: &SandboxTemplate) -> Vec<String> {
        let mut reasons = refusals(KIND, &self.capabilities, template);
        reasons.extend(mount_refusals(template, &self.options.state_dir));
        let socket =
            std::fs::canonicalize(&self.engine.socket).unwrap_or_else(|_| self.engine.socket.clone());
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

fn make_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)
}

#[async_trait]
impl Driver for DockerDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn probe(&self) -> Vec<Finding> {
        let engine = &self.inner.engine;
        let can = &self.inner.capabilities;
        let answer = call(CALL_LIMIT, engine.api.version()).await;
        let limits = can.cpu_limit && can.memory_limit;
        let open = can.networks.contains(&NetworkPolicy::Open);
        vec![
            Finding {
                subject: "engine".into(),
                ok: answer.is_ok(),
                detail: match answer {
                    Ok(version) => format!(
                        "version {} at {}",
                        version.version.unwrap_or_else(|| "unknown".into()),
                        engine.url
                    ),
                    Err(e) => e.unavailable(&engine.url).to_string(),
                },
            },
            Finding {
                subject: "limits".into(),
                ok: limits,
                detail: if limits {
                    "CPU time and memory can be limited".into()
                } else {
                    "the engine cannot limit CPU time or memory: give it cgroups (see `docker info`)".into()
                },
            },
            Finding {
                subject: "network".into(),
                ok: open,
                detail: if open {
                    "policies none and open".into()
                } else {
                    "policy none only: the engine has no network `bridge` (it runs with `--bridge=none`)"
                        .into()
                },
            },
        ]
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
        let dir = self.inner.dir(id);
        match connect_socket(&dir.join("run").join(SOCKET)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) if !dir.exists() => Err(DriverError::NotFound { driver: KIND, id }),
            Err(e) => Err(failed("connect to", id, e)),
        }
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
        listed.map_err(|e| e.unavailable(&self.inner.engine.url))
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
