//! Builds and exports that go on at this server, and their files.

use ostler_contracts::{ImageLog, RootDriveView};
use ostler_sandbox::images::{AgentVersions, BuildLog, ImageBuilder, ImageError, ImageRecipe};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Builds and exports at once at one server; each keeps a CPU and a disk busy.
const AT_ONCE: usize = 2;
/// Bytes of a log in one answer.
const LOG_PART: u64 = 1 << 20;
/// Failed builds that are remembered; their logs are files.
const FAILURES: usize = 100;

/// How images are built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Suite of Debian that images are made from.
    pub suite: String,
    /// Where packages of Debian come from; from where this host has its own from when absent.
    pub mirror: Option<String>,
    /// Longest time of one phase of a build, seconds.
    pub phase_timeout_seconds: u64,
    /// Bytes of the log of one build.
    pub log_max_bytes: u64,
    /// Days after which an image that nobody uses is removed; 0 keeps all.
    pub keep_days: u32,
    /// Versions of agent programs.
    pub agents: AgentVersions,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            suite: "bookworm".into(),
            mirror: None,
            phase_timeout_seconds: 1800,
            log_max_bytes: 8 << 20,
            keep_days: 30,
            agents: AgentVersions::default(),
        }
    }
}

impl ImageSettings {
    pub(super) fn keep(&self) -> Option<Duration> {
        (self.keep_days > 0).then(|| Duration::from_secs(u64::from(self.keep_days) * 86_400))
    }
}

/// Builds images and keeps their logs and root drives; cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    builder: Arc<dyn ImageBuilder>,
    dir: PathBuf,
    settings: ImageSettings,
    slots: Semaphore,
    builds: Mutex<BTreeMap<String, Build>>,
    exports: Mutex<BTreeMap<(String, u64), Option<String>>>,
}

struct Build {
    state: State,
    task: Option<JoinHandle<()>>,
}

/// A build that goes on or has failed.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) recipe: ImageRecipe,
    /// Why it failed; none while it goes on.
    pub(super) error: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Images {
    /// With a directory of this server alone, which is made.
    pub fn open(builder: Arc<dyn ImageBuilder>, dir: PathBuf, settings: ImageSettings) -> io::Result<Self> {
        for part in ["logs", "wanted", "drives"] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir.join(part))?;
        }
        Ok(Self(Arc::new(Inner {
            builder,
            dir,
            settings,
            slots: Semaphore::new(AT_ONCE),
            builds: Mutex::default(),
            exports: Mutex::default(),
        })))
    }

    pub(super) fn builder(&self) -> &Arc<dyn ImageBuilder> {
        &self.0.builder
    }

    pub(super) fn settings(&self) -> &ImageSettings {
        &self.0.settings
    }

    fn log_path(&self, hash: &str) -> PathBuf {
        self.0.dir.join("logs").join(format!("{hash}.log"))
    }

    fn wanted_path(&self, hash: &str) -> PathBuf {
        self.0.dir.join("wanted").join(format!("{hash}.json"))
    }

    /// Builds that go on or have failed, by hash.
    pub(super) fn states(&self) -> BTreeMap<String, State> {
        lock(&self.0.builds)
            .iter()
            .map(|(hash, build)| (hash.clone(), build.state.clone()))
            .collect()
    }

    /// Goes on with the builds that were accepted by an earlier server.
    pub(super) fn resume(&self) {
        let wanted = std::fs::read_dir(self.0.dir.join("wanted"))
            .into_iter()
            .flatten()
            .flatten();
        for entry in wanted {
            let recipe = std::fs::read_to_string(entry.path())
                .ok()
                .and_then(|text| serde_json::from_str::<ImageRecipe>(&text).ok());
            match recipe {
                // By another program's steps it is another image; that one was asked for and is built in its place.
                Some(recipe) => {
                    if entry.path() != self.wanted_path(&recipe.hash()) {
                        let _ = std::fs::remove_file(entry.path());
                    }
                    if let Err(error) = self.begin(&recipe) {
                        tracing::warn!(%error, "a build cannot go on");
                    }
                }
                None => {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Whether a build of this image goes on.
    pub(super) fn goes_on(&self, hash: &str) -> bool {
        lock(&self.0.builds)
            .get(hash)
            .is_some_and(|build| build.state.error.is_none())
    }

    /// Begins a build unless one of the same recipe goes on.
    pub(super) fn begin(&self, recipe: &ImageRecipe) -> Result<(), ImageError> {
        let hash = recipe.hash();
        let mut builds = lock(&self.0.builds);
        if builds.get(&hash).is_some_and(|build| build.state.error.is_none()) {
            return Ok(());
        }
        let failed = builds
            .values()
            .filter(|build| build.state.error.is_some())
            .count();
        if failed >= FAILURES {
            builds.retain(|_, build| build.state.error.is_none());
        }
        let io = |what: &str| ImageError::io(format!("{what} of the build {hash}"));
        let log =
            BuildLog::create(&self.log_path(&hash), self.0.settings.log_max_bytes).map_err(io("the log"))?;
        // From here on it is promised.
        let (path, new) = (
            self.wanted_path(&hash),
            self.wanted_path(&hash).with_extension("new"),
        );
        std::fs::write(&new, recipe.canonical())
            .and_then(|()| File::open(&new)?.sync_all())
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(io("the record"))?;
        let state = State {
            recipe: recipe.clone(),
            error: None,
        };
        let (service, recipe, key) = (self.clone(), recipe.clone(), hash.clone());
        let work = async move {
            let Ok(_slot) = service.0.slots.acquire().await else {
                return;
            };
            let result = service.0.builder.build(&recipe, &log).await;
            service.ended(&key, result.err(), &log);
        };
        // The lock is held: a build that ends at once finds its entry.
        let task = Some(tokio::spawn(work));
        builds.insert(hash, Build { state, task });
        Ok(())
    }

    fn ended(&self, hash: &str, error: Option<ImageError>, log: &BuildLog) {
        let mut builds = lock(&self.0.builds);
        let _ = std::fs::remove_file(self.wanted_path(hash));
        match error {
            None => {
                builds.remove(hash);
            }
            Some(error) => {
                tracing::warn!(image.hash = hash, %error, "an image could not be built");
                log.say(&format!("failed: {error}"));
                if let Some(build) = builds.get_mut(hash) {
                    build.state.error = Some(error.to_string());
                    build.task = None;
                }
            }
        }
    }

    /// Ends a build and forgets that it was wanted.
    pub(super) async fn end(&self, hash: &str) {
        let _ = std::fs::remove_file(self.wanted_path(hash));
        let build = lock(&self.0.builds).remove(hash);
        if let Some(task) = build.and_then(|build| build.task) {
            task.abort();
            let _ = task.await;
        }
    }

    /// Removes the files of an image that is gone, but not its drives, from which machines may run.
    pub(super) fn forget(&self, hash: &str) {
        let _ = std::fs::remove_file(self.log_path(hash));
    }

    /// A part of a log. An image that another server has built has none here.
    pub(super) fn read_log(&self, hash: &str, after: u64) -> io::Result<ImageLog> {
        // Before reading: a build that had ended by then has its whole log written.
        let going_on = self.goes_on(hash);
        let mut bytes = Vec::new();
        match File::open(self.log_path(hash)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(after))?;
                file.take(LOG_PART).read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A character that is cut by the end of the part comes with the next one.
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
            && error.valid_up_to() > 0
        {
            bytes.truncate(error.valid_up_to());
        }
        Ok(ImageLog {
            ended: !going_on && bytes.is_empty(),
            next: after + bytes.len() as u64,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// Begins to write a root drive unless it is there or being written.
    pub(super) fn export(&self, hash: &str, size_mb: u64) -> RootDriveView {
        let short = &hash[..hash.len().min(16)];
        let path = self.0.dir.join("drives").join(format!("{short}-{size_mb}.ext4"));
        let view = |status: &str, error: Option<String>| RootDriveView {
            hash: hash.to_owned(),
            path: path.display().to_string(),
            size_mb,
            status: status.to_owned(),
            error,
        };
        let key = (hash.to_owned(), size_mb);
        let mut exports = lock(&self.0.exports);
        match exports.get(&key) {
            Some(None) => return view("exporting", None),
            // Told once; the next call tries again.
            Some(Some(_)) => return view("failed", exports.remove(&key).flatten()),
            None if path.exists() => return view("ready", None),
            None => {}
        }
        exports.insert(key.clone(), None);
        let (service, target) = (self.clone(), path.clone());
        tokio::spawn(async move {
            let Ok(_slot) = service.0.slots.acquire().await else {
                return;
            };
            let result = service
                .0
                .builder
                .export_root_drive(&key.0, &target, size_mb)
                .await;
            let mut exports = lock(&service.0.exports);
            match result {
                Ok(()) => drop(exports.remove(&key)),
                Err(error) => {
                    tracing::warn!(image.hash = key.0, %error, "a root drive could not be written");
                    exports.insert(key, Some(error.to_string()));
                }
            }
        });
        view("exporting", None)
    }

    /// Removes logs and drives, older than `age`, of images that are gone. Returns how many.
    pub(super) fn sweep(&self, images: &BTreeSet<String>, drives: &BTreeSet<String>, age: Duration) -> usize {
        let going_on = self.states();
        let kept = |path: &Path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let hash = name.split('-').next().unwrap_or_default();
            drives.contains(&*path.to_string_lossy())
                || images
                    .iter()
                    .chain(going_on.keys())
                    .any(|image| image.starts_with(hash))
        };
        let mut removed = 0;
        for part in ["logs", "drives"] {
            for entry in std::fs::read_dir(self.0.dir.join(part))
                .into_iter()
                .flatten()
                .flatten()
            {
                let old = entry
                    .metadata()
                    .and_then(|found| found.modified())
                    .is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= age));
                if old && !kept(&entry.path()) && std::fs::remove_file(entry.path()).is_ok() {
                    removed += 1;
                }
            }
        }
        removed
    }
}
