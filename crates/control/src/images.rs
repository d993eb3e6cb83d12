//! Images: building them once, following that, and removing what nobody uses.
//!
//! The engine is the list of images. What this server adds is what the engine cannot know: which builds go on and which
//! have failed, and their logs. A build that was accepted is a file until it has ended, so that a server that was killed
//! goes on with it at its next start.

mod service;

pub use service::{ImageSettings, Images};

use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::{BuildImage, ImageLog, ImageView, RootDriveView};
use ostler_domain::{Permission, Pool, Sandbox, SandboxStatus};
use ostler_sandbox::images::{AgentPackage, Image, ImageBase, ImageError, ImageRecipe};
use ostler_store::{Filter, Op, StoreExt};
use service::State;
use std::collections::{BTreeMap, BTreeSet};

/// Shortest beginning of a hash that is taken for it.
const SHORTEST: usize = 4;
/// Sizes of root drives that make sense, MiB.
const DRIVE_MB: std::ops::RangeInclusive<u64> = 64..=1 << 20;

impl From<ImageError> for ControlError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NotFound(id) => Self::NotFound { what: "image", id },
            ImageError::InUse(_) => Self::Conflict(error.to_string()),
            ImageError::Invalid(_) => Self::Invalid(error.to_string()),
            ImageError::Missing(_) | ImageError::Engine { .. } => Self::Unavailable(error.to_string()),
            ImageError::Phase { .. } | ImageError::TimedOut { .. } | ImageError::Io { .. } => {
                Self::Unprocessable(error.to_string())
            }
        }
    }
}

impl Control {
    /// Gives it what builds images, once; builds that an earlier server has left go on. Must be called within a tokio
    /// runtime.
    pub fn set_images(&self, images: Images) {
        self.images.get_or_init(|| images).resume();
    }

    fn image_service(&self) -> Result<&Images> {
        self.images.get().ok_or_else(|| {
            ControlError::Unavailable(
                "images are built with the Docker engine, which this server cannot use; see `ostler doctor`"
                    .into(),
            )
        })
    }

    /// The images, newest first; before them those that are being built or could not be.
    pub async fn images(&self, caller: &Caller) -> Result<Vec<ImageView>> {
        caller.require(Permission::FleetRead)?;
        let service = self.image_service()?;
        // Before the engine is asked: what is ready by then is not missed.
        let states = service.states();
        let ready = service.builder().list().await?;
        let pools = self.pools_by_image().await?;
        let mut views: Vec<ImageView> = states
            .into_iter()
            .filter(|(hash, _)| ready.iter().all(|image| image.hash != *hash))
            .map(|(_, state)| unfinished(&state))
            .collect();
        views.extend(ready.iter().map(finished));
        for view in &mut views {
            view.pools = pools.get(&view.tag).cloned().unwrap_or_default();
        }
        Ok(views)
    }

    /// One image, by its hash or the beginning of it.
    pub async fn image(&self, caller: &Caller, hash: &str) -> Result<ImageView> {
        let missing = || ControlError::NotFound {
            what: "image",
            id: hash.to_owned(),
        };
        let mut found: Vec<ImageView> = self.images(caller).await?;
        found.retain(|view| hash.len() >= SHORTEST && view.hash.starts_with(hash));
        let first = found.pop().ok_or_else(missing)?;
        if found.is_empty() {
            return Ok(first);
        }
        Err(ControlError::Invalid(format!(
            "more than one image begins with {hash}; give more of its hash"
        )))
    }

    /// Begins to build an image unless it is there; returns at once.
    pub async fn build_image(&self, caller: &Caller, wanted: BuildImage) -> Result<ImageView> {
        caller.require(Permission::FleetWrite)?;
        let service = self.image_service()?;
        let recipe = service.settings().recipe(wanted)?;
        let hash = recipe.hash();
        if service.builder().find(&hash).await?.is_none() && !service.goes_on(&hash) {
            // The engine is no store: what was done is told before it is.
            self.acting(caller, "image.build", &hash, &recipe)
                .commit(Vec::new())
                .await?;
            service.begin(&recipe)?;
        }
        self.image(caller, &hash).await
    }

    /// Removes an image, or ends its build. One that a pool or a sandbox uses stays.
    pub async fn remove_image(&self, caller: &Caller, hash: &str) -> Result<()> {
        caller.require(Permission::FleetWrite)?;
        let service = self.image_service()?;
        let view = self.image(caller, hash).await?;
        if let Some(pool) = view.pools.first() {
            return Err(ControlError::Conflict(format!(
                "the sandboxes of the pool {pool} are started from the image {}: give it another first",
                view.tag
            )));
        }
        if self.used_images().await?.contains(&view.tag) {
            return Err(ImageError::InUse(view.tag).into());
        }
        self.acting(caller, "image.remove", &view.hash, &view.tag)
            .commit(Vec::new())
            .await?;
        service.end(&view.hash).await;
        service.builder().remove(&view.hash).await?;
        service.forget(&view.hash);
        Ok(())
    }

    /// The log of the last build of an image at this server, from byte `after` on, about a megabyte of it at once.
    pub async fn image_log(&self, caller: &Caller, hash: &str, after: u64) -> Result<ImageLog> {
        let view = self.image(caller, hash).await?;
        let service = self.image_service()?.clone();
        let read = tokio::task::spawn_blocking(move || service.read_log(&view.hash, after));
        read.await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| {
                ControlError::Unavailable(format!("the log of the build cannot be read: {error}"))
            })
    }

    /// Begins to write the root drive of an image unless it is there; returns at once. Asked again, it says how that is
    /// doing.
    pub async fn export_image(&self, caller: &Caller, hash: &str, size_mb: u64) -> Result<RootDriveView> {
        caller.require(Permission::FleetWrite)?;
        if !DRIVE_MB.contains(&size_mb) {
            return Err(ControlError::Invalid(format!(
                "a root drive of {size_mb} MiB is not possible: {} to {} MiB are",
                DRIVE_MB.start(),
                DRIVE_MB.end()
            )));
        }
        let view = self.image(caller, hash).await?;
        if view.status != "ready" {
            return Err(ControlError::Conflict(format!(
                "the image {} is not ready",
                view.tag
            )));
        }
        Ok(self.image_service()?.export(&view.hash, size_mb))
    }

    /// Removes images that no pool and no sandbox uses and that are older than the setting says, and what belonged to
    /// them.
    pub async fn collect_images(&self) -> Result<usize> {
        let Some(service) = self.images.get() else {
            return Ok(0);
        };
        let Some(age) = service.settings().keep() else {
            return Ok(0);
        };
        let used = self.used_images().await?;
        let removed = service.builder().collect(&used, age).await?;
        for tag in &removed {
            tracing::info!(image = tag, "an image that nobody used was removed");
        }
        let left: BTreeSet<String> = service
            .builder()
            .list()
            .await?
            .into_iter()
            .map(|image| image.hash)
            .collect();
        let drives = self.used_drives().await?;
        Ok(removed.len() + service.sweep(&left, &drives, age))
    }

    async fn pools_by_image(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut by_image: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pool in self.parts.store.list::<Pool>(Filter::all()).await? {
            if let Some(image) = pool.template.image {
                by_image.entry(image).or_default().push(pool.name);
            }
        }
        Ok(by_image)
    }

    async fn templates_in_use(&self) -> Result<Vec<ostler_domain::SandboxTemplate>> {
        let live = Filter::all().and("status", Op::Ne, SandboxStatus::Destroyed);
        let pools = self.parts.store.list::<Pool>(Filter::all()).await?;
        let sandboxes = self.parts.store.list::<Sandbox>(live).await?;
        Ok(pools
            .into_iter()
            .map(|pool| pool.template)
            .chain(sandboxes.into_iter().map(|sandbox| sandbox.template))
            .collect())
    }

    async fn used_images(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .templates_in_use()
            .await?
            .into_iter()
            .filter_map(|template| template.image)
            .collect())
    }

    async fn used_drives(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .templates_in_use()
            .await?
            .into_iter()
            .filter_map(|template| template.root_drive)
            .collect())
    }
}

impl ImageSettings {
    /// The recipe of what was asked for.
    fn recipe(&self, wanted: BuildImage) -> Result<ImageRecipe> {
        let base = match (wanted.suite, wanted.base_image) {
            (Some(_), Some(_)) => {
                return Err(ControlError::Invalid(
                    "an image starts from a suite of Debian or from another image, not from both".into(),
                ));
            }
            (None, Some(image)) => ImageBase::Image(image),
            (suite, None) => ImageBase::Debian(suite.unwrap_or_else(|| self.suite.clone())),
        };
        let agent = match (wanted.agent, wanted.agent_version) {
            (None, Some(_)) => {
                return Err(ControlError::Invalid(
                    "a version of an agent program needs the program's name".into(),
                ));
            }
            (agent, version) => agent.map(|agent| {
                let usual = self.agents.package(agent);
                AgentPackage {
                    version: version.unwrap_or(usual.version),
                    ..usual
                }
            }),
        };
        let recipe = ImageRecipe {
            agent,
            capabilities: wanted.capabilities,
            base,
        };
        recipe.check()?;
        Ok(recipe)
    }
}

fn view(recipe: &ImageRecipe, status: &str) -> ImageView {
    ImageView {
        hash: recipe.hash(),
        tag: recipe.tag(),
        agent: recipe.agent.as_ref().map(|package| package.agent),
        agent_version: recipe.agent.as_ref().map(|package| package.version.clone()),
        capabilities: recipe.capabilities.clone(),
        base: match &recipe.base {
            ImageBase::Debian(suite) => format!("Debian {suite}"),
            ImageBase::Image(name) => name.clone(),
        },
        status: status.to_owned(),
        error: None,
        size_bytes: None,
        created_at: None,
        pools: Vec::new(),
    }
}

fn unfinished(state: &State) -> ImageView {
    ImageView {
        error: state.error.clone(),
        ..view(
            &state.recipe,
            if state.error.is_some() {
                "failed"
            } else {
                "building"
            },
        )
    }
}

fn finished(image: &Image) -> ImageView {
    ImageView {
        // By its label: the steps may have changed since it was made.
        hash: image.hash.clone(),
        tag: image.tag.clone(),
        size_bytes: Some(image.size_bytes),
        created_at: Some(image.created_at.into()),
        ..view(&image.recipe, "ready")
    }
}
