//! The beginning and the end of a sandbox.

use crate::driver::{Inner, lock};
use crate::engine::{CALL_LIMIT, CallError, KIND, SLOW_LIMIT, call, failed};
use crate::{container, seed};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder,
};
use futures::TryStreamExt;
use ostler_domain::SandboxId;
use ostler_sandbox::{DriverError, SandboxSpec, remove_tree};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a container that was asked to end is looked at.
const END_STEP: Duration = Duration::from_millis(20);
/// Longest wait for an image that is pulled.
const PULL_LIMIT: Duration = Duration::from_secs(900);
const START: &str = "start";

/// The right to work on one sandbox.
type Turn = tokio::sync::OwnedMutexGuard<()>;

impl Inner {
    pub(crate) async fn start(
        self: Arc<Self>,
        spec: SandboxSpec,
        _turn: Turn,
    ) -> Result<String, DriverError> {
        let id = spec.id;
        let dir = self.dir(id);
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        make_dir(&dir).map_err(|e| failed(START, id, format!("its directory {}: {e}", dir.display())))?;
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
        let (id, template) = (spec.id, &spec.template);
        let permit = self.starts.acquire().await;
        let _permit = permit.map_err(|e| failed(START, id, e))?;
        let run = dir.join("run");
        // A mounted directory would be no part of what is limited.
        let mounted = !self.engine.remote && template.disk_mb.is_none();
        let anybody = template.user.is_some();
        if mounted {
            make_dir(&run)
                .and_then(|()| {
                    // Of this host's users none but this one comes by the directory above.
                    let mode = if anybody { 0o777 } else { 0o700 };
                    std::fs::set_permissions(&run, PermissionsExt::from_mode(mode))
                })
                .map_err(|e| failed(START, id, format!("{}: {e}", run.display())))?;
        }
        let name = self.name(id);
        let reference = self.create(spec, &name, mounted.then_some(&*run)).await?;
        if template.disk_mb.is_some() {
            self.refuse_volumes(id, &name).await?;
        }
        if !mounted || anybody {
            self.seed(id, &name, !mounted, anybody).await?;
        }
        let start = self
            .engine
            .api
            .start_container(&name, None::<StartContainerOptions>);
        call(SLOW_LIMIT, start)
            .await
            .map_err(|e| self.engine.error(e, START, id))?;
        Ok(reference)
    }

    /// Makes the container, and gets its image if that is missing and may be pulled. Returns the engine's id for it.
    async fn create(
        &self,
        spec: &SandboxSpec,
        name: &str,
        run: Option<&Path>,
    ) -> Result<String, DriverError> {
        let id = spec.id;
        let image = spec.template.image.as_deref().unwrap_or_default();
        let mut pulled = false;
        loop {
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            let body = container::body(&self.options, id, &spec.template, run);
            let created = call(SLOW_LIMIT, self.engine.api.create_container(Some(options), body)).await;
            match created {
                Ok(created) => return Ok(created.id),
                Err(CallError::Missing(_)) if self.options.pull && !pulled => {
                    pulled = true;
                    self.pull(id, image).await?;
                }
                Err(CallError::Missing(_)) => return Err(failed(START, id, self.missing(image))),
                Err(e) => return Err(self.engine.error(e, START, id)),
            }
        }
    }

    fn missing(&self, image: &str) -> String {
        let engine = &self.engine.url;
        format!(
            "the engine at {engine} has no image {image}: get it with `docker -H {engine} pull {image}`, load it with \
             `docker -H {engine} load -i FILE`, make it with `docker -H {engine} build -t {image} DIR`, or set `drivers.docker.pull = true`"
        )
    }

    async fn pull(&self, id: SandboxId, image: &str) -> Result<(), DriverError> {
        tracing::info!(sandbox = %id, image, "pulling an image");
        let mut options = CreateImageOptionsBuilder::default().from_image(image);
        // Without a tag the engine would pull them all.
        let (_, last) = image.rsplit_once('/').unwrap_or(("", image));
        if !last.contains([':', '@']) {
            options = options.tag("latest");
        }
        let progress = self.engine.api.create_image(Some(options.build()), None, None);
        let done = progress.try_for_each(async |_| Ok(()));
        match call(PULL_LIMIT, done).await {
            Ok(()) => Ok(()),
            Err(CallError::TimedOut(limit)) => Err(DriverError::TimedOut {
                driver: KIND,
                action: "pull the image of",
                id,
                limit,
            }),
            Err(
                e @ (CallError::Missing(_)
                | CallError::Refused(_)
                | CallError::Conflict(_)
                | CallError::Unchanged),
            ) => {
                let engine = &self.engine.url;
                let why = match e {
                    CallError::Missing(why) | CallError::Refused(why) | CallError::Conflict(why) => why,
                    _ => String::new(),
                };
                Err(failed(
                    START,
                    id,
                    format!(
                        "the image {image} cannot be pulled ({why}): see that it is there, and that `docker -H {engine} \
                         pull {image}` works"
                    ),
                ))
            }
            Err(e) => Err(self.engine.error(e, START, id)),
        }
    }

    /// What an image keeps in volumes is not under the limit of disk use.
    async fn refuse_volumes(&self, id: SandboxId, name: &str) -> Result<(), DriverError> {
        let found = call(CALL_LIMIT, self.engine.api.inspect_container(name, None)).await;
        let found = found.map_err(|e| self.engine.error(e, START, id))?;
        let volumes: Vec<String> = found
            .mounts
            .into_iter()
            .flatten()
            .filter_map(|mount| mount.destination)
            .collect();
        if volumes.is_empty() {
            return Ok(());
        }
        Err(DriverError::Unsupported {
            driver: KIND,
            reasons: vec![format!(
                "a disk limit for an image with volumes ({}), which are not limited: use an image without `VOLUME`",
                volumes.join(", ")
            )],
        })
    }

    /// Puts into the container what is not mounted.
    async fn seed(&self, id: SandboxId, name: &str, guest: bool, anybody: bool) -> Result<(), DriverError> {
        let program = if guest {
            let path = &self.options.guest;
            let bytes = tokio::fs::read(path).await;
            Some(bytes.map_err(|e| failed(START, id, format!("the guest {}: {e}", path.display())))?)
        } else {
            None
        };
        let archive = seed::archive(program.as_deref(), anybody).map_err(|e| failed(START, id, e))?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let body = bollard::body_full(archive.into());
        let upload = self.engine.api.upload_to_container(name, Some(options), body);
        call(SLOW_LIMIT, upload)
            .await
            .map_err(|e| self.engine.error(e, START, id))
    }

    /// Ends and removes everything of a sandbox; every step is tried.
    pub(crate) async fn take_down(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
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

    pub(crate) async fn list(&self) -> Result<Vec<SandboxId>, CallError> {
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
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)
}
