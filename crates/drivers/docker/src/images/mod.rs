//! Images, built at the engine by containers that are committed phase after phase.
//!
//! No build of the engine's own is used: such a build could not be given this host's package sources and certificates
//! without leaving them in the image, and the engine's builders differ from version to version. A phase is a container
//! of the phase before it, in which one script is executed, and whose changes become a layer.
//!
//! The name of that container is made of the phase's hash. Names are unique at an engine, so whoever comes second, on
//! this server or another, finds the name taken and waits. The container lives only as long as the connection to it:
//! when a server is killed the engine ends and removes it.

mod bootstrap;
mod drive;
mod host;
mod phase;

use crate::DockerDriver;
use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageSummary;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use ostler_domain::{Clock, SystemClock, Timestamp};
use ostler_sandbox::images::{BuildLog, Image, ImageBase, ImageBuilder, ImageError, ImageRecipe, SHORT};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Label with the recipe.
const RECIPE: &str = "ostler.recipe";
/// Label with the recipe's hash.
const HASH: &str = "ostler.hash";
/// Label with the hashes of the phases that an image is made of, separated by spaces.
const PHASES: &str = "ostler.phases";
/// Label of the containers of builds with the instance that builds.
const BUILDER: &str = "ostler.builder";
/// Repository of bases.
const BASE: &str = "ostler/base";
/// Repository of phases.
const PHASE: &str = "ostler/phase";
/// How all names of containers of builds begin. Sandboxes have other names: their instance holds no hash.
const CONTAINER: &str = "ostler-build-";

/// How often a container that is being removed is looked at.
const END_STEP: Duration = Duration::from_millis(50);
/// Longest wait for an answer that is not the end of a phase.
const ANSWER: Duration = Duration::from_secs(60);
/// Writing a layer, or a base, takes as long as the disk needs.
const LAYER: Duration = Duration::from_secs(900);

/// What images are built with.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// Separates installations at one engine.
    pub instance: String,
    /// Directory of this instance alone for what is in the making; made if missing, mode 0700, and emptied at the start.
    pub dir: PathBuf,
    /// Where packages of Debian come from, such as `http://ftp.debian.org/debian`; when absent from where this host has
    /// its own from, if it is a Debian of the suite that is wanted.
    pub mirror: Option<String>,
    /// Longest time of one phase.
    pub phase_limit: Duration,
}

impl ImageOptions {
    /// Options with defaults: this host's package sources, half an hour for a phase.
    pub fn new(instance: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            dir: dir.into(),
            mirror: None,
            phase_limit: Duration::from_secs(1800),
        }
    }
}

/// Builds images at a Docker engine.
#[derive(Debug)]
pub struct DockerImages {
    api: Docker,
    url: String,
    options: ImageOptions,
}

/// A failed call of the engine.
fn engine(action: impl Into<String>) -> impl FnOnce(Error) -> ImageError {
    let action = action.into();
    move |error| ImageError::Engine {
        action,
        message: crate::engine::chain(&error),
    }
}

/// The status that the engine answered with.
fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Waits at most [`ANSWER`] for the engine.
async fn call<T>(action: &str, request: impl Future<Output = Result<T, Error>>) -> Result<T, ImageError> {
    within(ANSWER, action, request).await?.map_err(engine(action))
}

async fn within<T>(limit: Duration, action: &str, request: impl Future<Output = T>) -> Result<T, ImageError> {
    tokio::time::timeout(limit, request)
        .await
        .map_err(|_| ImageError::Engine {
            action: action.to_owned(),
            message: format!("no answer within {limit:?}"),
        })
}

fn short(hash: &str) -> &str {
    &hash[..SHORT.min(hash.len())]
}

impl DockerDriver {
    /// What builds images at this driver's engine.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, or the engine does not answer.
    pub async fn images(&self, options: ImageOptions) -> Result<DockerImages, ImageError> {
        let engine = self.engine();
        DockerImages::open(engine.api.clone(), engine.url.clone(), options).await
    }
}

impl DockerImages {
    /// Makes its directory ready, and removes what an earlier server of this instance has left in the middle of a build.
    pub(crate) async fn open(api: Docker, url: String, options: ImageOptions) -> Result<Self, ImageError> {
        let dir = &options.dir;
        let ready = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| std::fs::read_dir(dir))
            .and_then(|entries| {
                for entry in entries {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        ostler_sandbox::remove_tree(&entry.path())?;
                    } else {
                        std::fs::remove_file(entry.path())?;
                    }
                }
                Ok(())
            });
        ready.map_err(ImageError::io(format!(
            "the directory for builds {}",
            dir.display()
        )))?;
        let images = Self {
            api: api.with_timeout(LAYER),
            url,
            options,
        };
        images.remove_left_containers().await?;
        Ok(images)
    }

    async fn remove_left_containers(&self) -> Result<(), ImageError> {
        let label = format!("{BUILDER}={}", self.options.instance);
        let filters = HashMap::from([("label", vec![label.as_str()]), ("name", vec![CONTAINER])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let action = format!("list the containers of builds at {}", self.url);
        for container in call(&action, self.api.list_containers(Some(options))).await? {
            // A container inherits the labels of its image, so the name must be that of a build as well.
            let names = container.names.unwrap_or_default();
            let ours = names
                .iter()
                .find_map(|name| name.strip_prefix('/'))
                .filter(|name| name.starts_with(CONTAINER));
            if let Some(name) = ours {
                tracing::info!(container = name, "removing what an earlier build has left");
                self.remove_container(name).await?;
            }
        }
        Ok(())
    }

    /// Ends a container and removes it. None there is fine, and so is one that is being removed.
    async fn remove_container(&self, name: &str) -> Result<(), ImageError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let action = format!("remove the container {name}");
        match within(LAYER, &action, self.api.remove_container(name, Some(options))).await? {
            Err(error) if status(&error) == Some(409) => self.gone(name, &action).await,
            Err(error) if status(&error) != Some(404) => Err(engine(action)(error)),
            _ => Ok(()),
        }
    }

    /// Waits until a container is gone that the engine is removing by itself.
    async fn gone(&self, name: &str, action: &str) -> Result<(), ImageError> {
        let gone = async {
            loop {
                let inspect = self.api.inspect_container(name, None::<InspectContainerOptions>);
                match inspect.await {
                    Err(error) if status(&error) == Some(404) => return Ok(()),
                    Err(error) => return Err(engine(action)(error)),
                    Ok(_) => tokio::time::sleep(END_STEP).await,
                }
            }
        };
        within(ANSWER, action, gone).await?
    }

    async fn has(&self, image: &str) -> Result<bool, ImageError> {
        match within(ANSWER, "look for an image", self.api.inspect_image(image)).await? {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(engine(format!("look for the image {image}"))(error)),
        }
    }

    /// All images that bear one of our names.
    async fn summaries(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let filters = HashMap::from([("reference", vec!["ostler/*"])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        call("list images", self.api.list_images(Some(options))).await
    }

    /// Takes a name from an image; without a name left its layers go, unless another image has them.
    async fn untag(&self, tag: &str) -> Result<(), ImageError> {
        let options = RemoveImageOptionsBuilder::default().build();
        let action = format!("remove the image {tag}");
        match within(LAYER, &action, self.api.remove_image(tag, Some(options), None)).await? {
            Ok(_) => Ok(()),
            Err(error) => match status(&error) {
                Some(404) => Ok(()),
                Some(409) => Err(ImageError::InUse(tag.to_owned())),
                _ => Err(engine(action)(error)),
            },
        }
    }
}

/// What an image is by its labels, under one of its names; `None` for a phase and for what only inherits the labels.
fn image(summary: &ImageSummary, tag: &str) -> Option<Image> {
    let hash = summary.labels.get(HASH)?;
    let recipe: ImageRecipe = serde_json::from_str(summary.labels.get(RECIPE)?).ok()?;
    let expected = format!("ostler/{}:{}", recipe.kind(), short(hash));
    (tag == expected).then(|| Image {
        hash: hash.clone(),
        tag: tag.to_owned(),
        recipe,
        size_bytes: u64::try_from(summary.size).unwrap_or_default(),
        created_at: created(summary),
    })
}

fn created(summary: &ImageSummary) -> Timestamp {
    Timestamp(summary.created.saturating_mul(1_000_000))
}

#[async_trait]
impl ImageBuilder for DockerImages {
    async fn build(&self, recipe: &ImageRecipe, log: &BuildLog) -> Result<Image, ImageError> {
        recipe.check()?;
        let (hash, tag) = (recipe.hash(), recipe.tag());
        if let Some(image) = self.find(&hash).await? {
            log.say("the image is there already");
            return Ok(image);
        }
        let mut parent = match &recipe.base {
            ImageBase::Debian(suite) => self.bootstrap(suite, recipe, log).await?,
            ImageBase::Image(name) if self.has(name).await? => name.clone(),
            ImageBase::Image(name) => {
                return Err(ImageError::Missing(format!(
                    "the engine at {} has no image {name} to start from: `docker pull` or `docker load` it there",
                    self.url
                )));
            }
        };
        let suite = match &recipe.base {
            ImageBase::Debian(suite) => Some(suite.as_str()),
            ImageBase::Image(_) => None,
        };
        let phases = recipe.phases();
        for phase in &phases {
            let made = phase::Made {
                repository: PHASE.to_owned(),
                hash: phase.hash.clone(),
                labels: HashMap::new(),
            };
            parent = self
                .phase(&phase.name, &parent, &phase.script, made, suite, log)
                .await?;
        }
        let hashes: Vec<String> = std::iter::once(recipe.base_hash())
            .chain(phases.into_iter().map(|phase| phase.hash))
            .collect();
        let labels = [
            (RECIPE, recipe.canonical()),
            (HASH, hash.clone()),
            (PHASES, hashes.join(" ")),
        ];
        let made = phase::Made {
            repository: format!("ostler/{}", recipe.kind()),
            hash: hash.clone(),
            labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        // A file says inside what the labels say outside.
        let script = format!("mkdir -p /etc/ostler\necho {hash} > /etc/ostler/image\n");
        self.phase("finish", &parent, &script, made, None, log).await?;
        log.say(&format!("{tag} is ready"));
        self.find(&hash).await?.ok_or(ImageError::NotFound(tag))
    }

    async fn find(&self, hash: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.list().await?.into_iter().find(|image| image.hash == hash))
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        let summaries = self.summaries().await?;
        let mut images: Vec<Image> = summaries
            .iter()
            .flat_map(|summary| summary.repo_tags.iter().filter_map(|tag| image(summary, tag)))
            .collect();
        images.sort_by(|a, b| (b.created_at, &b.tag).cmp(&(a.created_at, &a.tag)));
        Ok(images)
    }

    async fn remove(&self, hash: &str) -> Result<(), ImageError> {
        match self.find(hash).await? {
            Some(image) => self.untag(&image.tag).await,
            None => Ok(()),
        }
    }

    async fn collect(&self, used: &BTreeSet<String>, age: Duration) -> Result<Vec<String>, ImageError> {
        let now = SystemClock.now();
        let old = |summary: &ImageSummary| now.since(created(summary)) >= age;
        let (mut removed, mut needed) = (Vec::new(), BTreeSet::new());
        let summaries = self.summaries().await?;
        for summary in &summaries {
            for tag in &summary.repo_tags {
                let Some(image) = image(summary, tag) else {
                    continue;
                };
                if !used.contains(tag) && old(summary) {
                    match self.untag(tag).await {
                        Ok(()) => {
                            removed.push(tag.clone());
                            continue;
                        }
                        Err(ImageError::InUse(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                let phases = summary.labels.get(PHASES).map_or("", String::as_str);
                needed.extend(phases.split(' ').map(|hash| short(hash).to_owned()));
                needed.insert(short(&image.hash).to_owned());
            }
        }
        for summary in &summaries {
            for tag in summary
                .repo_tags
                .iter()
                .filter(|tag| !used.contains(*tag) && old(summary))
            {
                let part = [PHASE, BASE]
                    .iter()
                    .find_map(|repository| tag.strip_prefix(repository)?.strip_prefix(':'));
                if part.is_none_or(|part| needed.contains(part)) {
                    continue;
                }
                if removed.contains(tag) || image(summary, tag).is_some() {
                    continue;
                }
                match self.untag(tag).await {
                    Ok(()) => removed.push(tag.clone()),
                    // A build uses it at this moment.
                    Err(ImageError::InUse(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(removed)
    }

    async fn export_root_drive(&self, hash: &str, path: &Path, size_mb: u64) -> Result<(), ImageError> {
        let image = self.find(hash).await?;
        let image = image.ok_or_else(|| ImageError::NotFound(hash.to_owned()))?;
        self.drive(&image, path, size_mb).await
    }
}
