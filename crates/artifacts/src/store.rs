//! The object store: opening it, reading, listing, removing.

use crate::put::hex;
use crate::retention::{Minutes, of_minutes};
use crate::{ArtifactError, ArtifactSettings, Keep, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use ostler_domain::{RunId, Timestamp};
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// Pieces in which a file of this host is read.
const PIECE: usize = 256 << 10;
/// Longest wait for the next bytes of a remote store, and for the end of the upload of a part.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a request to a remote store is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Age at which what looks like a file that is being written is none any more.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// Where the content of a file is. As text, for its record: `KEY@START`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack.
    pub key: String,
    /// Where in it the file begins, bytes.
    pub start: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.start)
    }
}

impl FromStr for Place {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self> {
        let found = text.rsplit_once('@').and_then(|(key, start)| {
            Some(Self {
                key: Path::parse(key).ok()?.to_string(),
                start: start.parse().ok()?,
            })
        });
        found.ok_or_else(|| ArtifactError::Place(text.to_owned()))
    }
}

/// A pack in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// When it was made; of things that are no packs, when they were last written.
    pub created_at: Timestamp,
    /// Whose it is; `None` for what is no pack.
    pub run: Option<RunId>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// How many packs.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

/// The content of a file, or of a part of it: all of it, or an error at its end.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// The store of artifacts; cheap to clone.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    objects: Arc<dyn ObjectStore>,
    /// Where it is on this host.
    directory: Option<PathBuf>,
}

impl ArtifactStore {
    /// Opens what the settings name, `default` when they name nothing. A directory is made; of a bucket nothing is asked
    /// yet, see [`ArtifactStore::check`].
    pub fn open(settings: &ArtifactSettings, default: PathBuf) -> Result<Self> {
        let Some(url) = &settings.url else {
            return Self::local(default);
        };
        let wrong = |why: &str| ArtifactError::Url {
            url: url.clone(),
            why: why.to_owned(),
        };
        if let Some(directory) = url.strip_prefix("file://") {
            if !directory.starts_with('/') {
                return Err(wrong("which is no absolute path"));
            }
            return Self::local(directory.into());
        }
        let rest = url
            .strip_prefix("s3://")
            .ok_or_else(|| wrong("of a kind that is not known"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("without a bucket"));
        }
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| wrong(&error.to_string()))?;
        Self::bucket(settings, bucket, prefix)
    }

    fn local(directory: PathBuf) -> Result<Self> {
        let unusable = |source| ArtifactError::Directory {
            directory: directory.display().to_string(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(unusable)?;
        let store = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|error| unusable(error.into()))?
            .with_automatic_cleanup(true)
            // A record says that its content is there, also after a power failure.
            .with_fsync(true);
        Ok(Self {
            objects: Arc::new(store),
            directory: Some(directory),
        })
    }

    fn bucket(settings: &ArtifactSettings, bucket: &str, prefix: Path) -> Result<Self> {
        // A limit for whole requests would end long downloads; what counts is that bytes keep coming.
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(SILENCE);
        let retry = RetryConfig {
            retry_timeout: RETRY,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(bucket);
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        let store = builder.build().map_err(ArtifactError::store("be set up"))?;
        Ok(Self {
            objects: Arc::new(PrefixStore::new(store, prefix)),
            directory: None,
        })
    }

    /// A store over any implementation, for tests.
    pub fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            directory: None,
        }
    }

    /// Whether it is on this host only, so that other servers do not see what is in it.
    pub fn is_local(&self) -> bool {
        self.directory.is_some()
    }

    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// The name of a new pack: a directory for the day, and in it names in the order of time. Each is another, so that
    /// nothing is ever written over.
    pub(crate) fn key(at: Timestamp, run: RunId) -> Path {
        let own = Uuid::new_v4().simple();
        Path::from(format!("{}/{:016}-{run}-{own}", day(at), at.0.max(0)))
    }

    /// Writes, reads and removes a small object: whether the store can be used at all.
    pub async fn check(&self) -> Result<()> {
        let key = Path::from(format!("check-{}", RunId::new()));
        let wanted = Bytes::from_static(b"ostler");
        self.objects
            .put(&key, wanted.clone().into())
            .await
            .map_err(ArtifactError::store("be written"))?;
        let read = match self.objects.get(&key).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        let removed = self.objects.delete(&key).await;
        let read = read.map_err(ArtifactError::store("be read"))?;
        removed.map_err(ArtifactError::store("remove"))?;
        if read != wanted {
            return Err(ArtifactError::Damaged {
                key: key.to_string(),
                what: "what was written is not what is read".into(),
            });
        }
        Ok(())
    }

    /// The content of a file of `bytes` bytes. With `range`, which must lie within the file, that part; without, all of
    /// it, compared to `sha256` on the way: content that is not what was stored ends in an error.
    pub async fn get(
        &self,
        place: &Place,
        bytes: u64,
        sha256: &str,
        range: Option<Range<u64>>,
    ) -> Result<Content> {
        let wanted = range.clone().unwrap_or(0..bytes);
        let length = wanted.end.saturating_sub(wanted.start);
        let damaged = |what: &str| ArtifactError::Damaged {
            key: place.key.clone(),
            what: what.to_owned(),
        };
        if wanted.end > bytes {
            return Err(damaged("it ends before the range that was asked for"));
        }
        let path = Path::parse(&place.key).map_err(|_| ArtifactError::Place(place.to_string()))?;
        let pieces = if length == 0 {
            futures::stream::empty().boxed()
        } else {
            let begin = place.start.saturating_add(wanted.start);
            self.pieces(&path, begin..begin.saturating_add(length)).await?
        };
        let whole = range.is_none().then(|| sha256.to_owned());
        Ok(checked(pieces, length, whole, place.key.clone()))
    }

    async fn pieces(&self, path: &Path, range: Range<u64>) -> Result<Content> {
        let read = ArtifactError::store("be read");
        let options = GetOptions {
            range: Some(range.clone().into()),
            ..GetOptions::default()
        };
        let result = match self.objects.get_opts(path, options).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Err(ArtifactError::Gone(path.to_string())),
            Err(error) => return Err(read(error)),
        };
        if let GetResultPayload::File(file, _) = result.payload {
            // The library's own stream of a file reads 8 KiB at a time, each on another thread.
            let failed = move |error: std::io::Error| {
                read(object_store::Error::Generic {
                    store: "local disk",
                    source: error.into(),
                })
            };
            let mut file = tokio::fs::File::from_std(file);
            file.seek(std::io::SeekFrom::Start(range.start))
                .await
                .map_err(failed)?;
            let part = file.take(range.end - range.start);
            return Ok(ReaderStream::with_capacity(part, PIECE).map_err(failed).boxed());
        }
        Ok(result.into_stream().map_err(read).boxed())
    }

    /// Everything in the store, in no order.
    pub fn list(&self) -> impl Stream<Item = Result<Object>> + use<> {
        let all = self.objects.list(None);
        all.map(|found| found.map(Object::from).map_err(ArtifactError::store("be listed")))
    }

    /// Removes packs; those that are not there are no error. Returns how many were there or might have been.
    pub async fn delete(&self, keys: impl IntoIterator<Item = String>) -> Result<u64> {
        let paths: Vec<_> = keys.into_iter().map(|key| Ok(Path::from(key))).collect();
        self.delete_all(futures::stream::iter(paths).boxed()).await
    }

    async fn delete_all(&self, paths: BoxStream<'static, object_store::Result<Path>>) -> Result<u64> {
        let mut results = self.objects.delete_stream(paths);
        let mut gone = 0;
        while let Some(result) = results.next().await {
            match result {
                Ok(_) => gone += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(ArtifactError::store("remove")(error)),
            }
        }
        Ok(gone)
    }

    /// The moment before which everything is to go. Records must go first, by this moment, and then the packs
    /// ([`ArtifactStore::remove_before`]); killed in between, the next round does the rest. Lists everything; what is
    /// remembered of it is a number for each minute.
    pub async fn cutoff(&self, now: Timestamp, keep: Keep) -> Result<Timestamp> {
        let mut minutes = Minutes::default();
        if keep.bytes.is_some() {
            let mut all = std::pin::pin!(self.list());
            while let Some(object) = all.try_next().await? {
                minutes.add(object.created_at, object.bytes);
            }
        }
        Ok(of_minutes(&minutes, now, keep))
    }

    /// Removes every pack made before a moment, and what killed servers left of packs that were never finished.
    pub async fn remove_before(&self, cutoff: Timestamp) -> Result<Removed> {
        self.remove_abandoned().await;
        let days = self.objects.list_with_delimiter(None).await;
        let days = days.map_err(ArtifactError::store("be listed"))?.common_prefixes;
        let last = day(cutoff);
        let mut removed = Removed::default();
        for directory in days {
            // Names of days are in the order of time; those of something else are not ours.
            let name = directory.filename().unwrap_or_default();
            if !is_day(name) || name > last.as_str() {
                continue;
            }
            // A day at a time: they are few enough to be held.
            let listed: Vec<ObjectMeta> = self
                .objects
                .list(Some(&directory))
                .try_collect()
                .await
                .map_err(ArtifactError::store("be listed"))?;
            let old: Vec<Object> = listed
                .into_iter()
                .map(Object::from)
                .filter(|object| object.run.is_some() && object.created_at < cutoff)
                .collect();
            let bytes: u64 = old.iter().map(|object| object.bytes).sum();
            removed.objects += self.delete(old.into_iter().map(|object| object.key)).await?;
            removed.bytes += bytes;
        }
        Ok(removed)
    }

    /// Files that were being written when a server was killed: the library names them `NAME#NUMBER` and lists them nowhere.
    async fn remove_abandoned(&self) {
        let Some(directory) = self.directory.clone() else {
            return;
        };
        let removal = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            for day in std::fs::read_dir(directory)? {
                let day = day?;
                if !day.file_type()?.is_dir() || !day.file_name().to_str().is_some_and(is_day) {
                    continue;
                }
                for file in std::fs::read_dir(day.path())? {
                    let file = file?;
                    let unfinished = file.file_name().to_string_lossy().contains('#');
                    let written = file.metadata().and_then(|metadata| metadata.modified());
                    let age = written
                        .ok()
                        .and_then(|at| SystemTime::now().duration_since(at).ok());
                    if unfinished && age.is_some_and(|age| age > ABANDONED) {
                        std::fs::remove_file(file.path())?;
                    }
                }
            }
            Ok(())
        });
        if let Ok(Err(error)) = removal.await {
            tracing::warn!(%error, "unfinished files of artifacts could not be removed");
        }
    }
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        let made = meta.location.filename().and_then(|name| {
            let (at, rest) = name.split_once('-')?;
            let (run, _) = rest.rsplit_once('-')?;
            Some((Timestamp(at.parse().ok()?), run.parse().ok()?))
        });
        Self {
            key: meta.location.to_string(),
            bytes: meta.size,
            created_at: made.map_or(Timestamp(meta.last_modified.timestamp_micros()), |(at, _)| at),
            run: made.map(|(_, run)| run),
        }
    }
}

/// Passes content on and ends in an error when it is not as long as it should be, or not what it was.
fn checked(pieces: Content, length: u64, sha256: Option<String>, key: String) -> Content {
    struct State {
        pieces: Content,
        left: u64,
        hash: Sha256,
        sha256: Option<String>,
        key: String,
    }
    let state = State {
        pieces,
        left: length,
        hash: Sha256::new(),
        sha256,
        key,
    };
    let next = |state: Option<State>| async move {
        let mut state = state?;
        let damaged = |key: &str, what: &str| ArtifactError::Damaged {
            key: key.to_owned(),
            what: what.to_owned(),
        };
        match state.pieces.next().await {
            Some(Ok(piece)) if piece.len() as u64 <= state.left => {
                state.left -= piece.len() as u64;
                if state.sha256.is_some() {
                    state.hash.update(&piece);
                }
                Some((Ok(piece), Some(state)))
            }
            Some(Ok(_)) => Some((Err(damaged(&state.key, "it is longer than it was")), None)),
            Some(Err(error)) => Some((Err(error), None)),
            None if state.left > 0 => Some((Err(damaged(&state.key, "it is shorter than it was")), None)),
            None => {
                let found = hex(&state.hash.finalize());
                let differs = state.sha256.is_some_and(|sha256| sha256 != found);
                differs.then(|| (Err(damaged(&state.key, "its checksum differs")), None))
            }
        }
    };
    futures::stream::unfold(Some(state), next).boxed()
}

/// The day of a moment, `YYYY-MM-DD`.
fn day(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_microsecond(at.0.max(0)).unwrap_or(jiff::Timestamp::MAX);
    moment.strftime("%Y-%m-%d").to_string()
}

fn is_day(name: &str) -> bool {
    name.len() == 10
        && name.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_found_in_its_name() {
        let (at, run) = (Timestamp(1_795_000_000_123_456), RunId::new());
        let key = ArtifactStore::key(at, run);
        assert_ne!(key, ArtifactStore::key(at, run));
        assert!(
            key.to_string().starts_with("2026-11-18/1795000000123456-run_"),
            "{key}"
        );
        let object = Object::from(ObjectMeta {
            location: key,
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 5,
            e_tag: None,
            version: None,
        });
        assert_eq!((object.created_at, object.run, object.bytes), (at, Some(run), 5));
    }

    #[test]
    fn places_are_texts() {
        let place = Place {
            key: "2026-11-18/1-run_0-0".into(),
            start: 77,
        };
        assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        for wrong in ["", "a", "a@", "@", "a@-1", "../a@1", "a//b@1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_told() {
        let open = |url: &str| {
            let settings = ArtifactSettings {
                url: Some(url.to_owned()),
                ..ArtifactSettings::default()
            };
            ArtifactStore::open(&settings, "/nonexistent".into())
                .unwrap_err()
                .to_string()
        };
        assert!(open("file://here").contains("no absolute path"));
        assert!(open("ftp://here").contains("not known"));
        assert!(open("s3:///x").contains("without a bucket"));
        assert!(open("s3://b/a/../c").contains("artifacts.url"));
        assert!(open("file:///proc/nothing").contains("cannot be used"));
    }
}
