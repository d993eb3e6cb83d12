//! From the tar stream of a sandbox to packs.

use crate::pack::Pack;
use crate::tar::{Archive, Broken, Entry, Kind};
use crate::{ArtifactStore, Place, Problem, Reason, name};
use bytes::Bytes;
use futures::Stream;
use ostler_domain::{RunId, Timestamp};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Longest wait for the next piece of the stream.
const STANDSTILL: Duration = Duration::from_secs(60);
/// A pack of at least this size gets no further file, so that a failure late in a long stream does not cost what came
/// early.
const FULL: u64 = 256 << 20;
/// Largest file, bytes: what fits in the parts of one upload.
const MAX_FILE: u64 = 64 << 30;
/// Problems that are told one by one.
const TOLD: usize = 20;

/// What one run may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most files.
    pub files: u32,
    /// Most bytes, of all files together.
    pub bytes: u64,
}

impl Limits {
    /// Bytes of an archive that holds no more than this: each file takes a header, the end of its last block and perhaps a
    /// long name; and some are refused.
    fn archive(self) -> u64 {
        let framing = u64::from(self.files).saturating_mul(4096);
        self.bytes.saturating_add(framing).saturating_add(16 << 20)
    }
}

/// A file that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Path below the workspace: UTF-8, without `.`, `..` and empty parts.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
    /// Where it is.
    pub place: Place,
}

/// What was stored of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The moment that retention counts from; records must carry it.
    pub created_at: Timestamp,
    /// The files, in the order in which they came. All of them are stored durably.
    pub files: Vec<Stored>,
    /// What was not stored; the first of them.
    pub problems: Vec<Problem>,
    /// How many problems there were beyond those.
    pub more_problems: u64,
}

impl Kept {
    fn problem(&mut self, path: Option<&[u8]>, reason: Reason) {
        if self.problems.len() == TOLD {
            self.more_problems += 1;
            return;
        }
        // A name may be long, or no text at all.
        let readable =
            |raw: &[u8]| String::from_utf8_lossy(&raw[..raw.len().min(name::MAX_PATH)]).into_owned();
        self.problems.push(Problem {
            path: path.map(readable),
            reason,
        });
    }
}

/// How far a stream was read.
struct Taking<'a> {
    store: &'a ArtifactStore,
    run: RunId,
    limits: Limits,
    kept: Kept,
    seen: HashSet<String>,
    bytes: u64,
    /// The pack that is being written, with the files that are whole in it.
    pack: Option<(Pack, Vec<Stored>)>,
}

impl ArtifactStore {
    /// Stores the files of a tar stream within limits. What cannot be kept is a problem of its file only; a stream that
    /// breaks off, or a store that fails, is a problem and the end. At any moment at most some 30 MB are held in memory.
    ///
    /// What is stored has no record yet: until the caller has written one for each file, nobody finds it, and retention
    /// removes it in its time.
    pub async fn put<S, E>(&self, run: RunId, limits: Limits, now: Timestamp, tar: S) -> Kept
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let mut archive = Archive::new(tar, limits.archive(), STANDSTILL);
        let mut taking = Taking {
            store: self,
            run,
            limits,
            kept: Kept {
                created_at: now,
                files: Vec::new(),
                problems: Vec::new(),
                more_problems: 0,
            },
            seen: HashSet::new(),
            bytes: 0,
            pack: None,
        };
        let mut end = taking.all(&mut archive).await;
        if let Err(Stop::Broken(broken)) = &end {
            let reason = Reason::Broken(broken.to_string());
            taking.kept.problem(None, reason);
            end = Ok(());
        }
        if end.is_ok() {
            end = taking.close().await;
        }
        if let Err(Stop::Store { files, why }) = end {
            taking.kept.problem(None, Reason::Store { files, why });
        }
        taking.kept
    }
}

/// Why nothing more is read.
enum Stop {
    Broken(Broken),
    /// With the number of files that are lost by it.
    Store {
        files: usize,
        why: String,
    },
}

impl Taking<'_> {
    async fn all<S, E>(&mut self, archive: &mut Archive<S>) -> Result<(), Stop>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        while let Some(entry) = archive.next().await.map_err(Stop::Broken)? {
            if entry.kind == Kind::Directory {
                continue;
            }
            if self.seen.len() >= self.limits.files as usize {
                let limit = self.limits.files;
                self.kept.problem(None, Reason::TooMany { limit });
                return Ok(());
            }
            match self.admit(&entry) {
                Ok(path) => self.one(archive, path, entry.size).await?,
                Err(reason) => self.kept.problem(Some(&entry.path), reason),
            }
        }
        Ok(())
    }

    fn admit(&self, entry: &Entry) -> Result<String, Reason> {
        match entry.kind {
            Kind::Link => return Err(Reason::Link),
            Kind::Sparse => return Err(Reason::Sparse),
            Kind::Special => return Err(Reason::Special),
            Kind::File | Kind::Directory => {}
        }
        let path = name::checked(&entry.path)?;
        if self.seen.contains(&path) {
            return Err(Reason::Twice);
        }
        let (size, limit) = (entry.size, self.limits.bytes);
        if size > limit.saturating_sub(self.bytes) || size > MAX_FILE {
            return Err(Reason::TooLarge {
                size,
                limit: limit.min(MAX_FILE),
            });
        }
        Ok(path)
    }

    async fn one<S, E>(&mut self, archive: &mut Archive<S>, path: String, size: u64) -> Result<(), Stop>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let (pack, files) = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let key = ArtifactStore::key(self.kept.created_at, self.run);
                none.insert((Pack::new(self.store.objects(), key), Vec::new()))
            }
        };
        let place = Place {
            key: pack.key().to_string(),
            start: pack.length(),
        };
        let mut hash = Sha256::new();
        while let Some(piece) = archive.data().await.map_err(Stop::Broken)? {
            hash.update(&piece);
            let written = pack.write(&piece).await;
            written.map_err(|why| Stop::Store {
                files: files.len() + 1,
                why,
            })?;
        }
        self.seen.insert(path.clone());
        self.bytes += size;
        files.push(Stored {
            path,
            bytes: size,
            sha256: hex(&hash.finalize()),
            place,
        });
        if pack.length() >= FULL {
            self.close().await?;
        }
        Ok(())
    }

    /// Ends the present pack. What of it is no whole file stays in it unseen.
    async fn close(&mut self) -> Result<(), Stop> {
        // A pack without a whole file is dropped.
        let Some((pack, files)) = self.pack.take().filter(|(_, files)| !files.is_empty()) else {
            return Ok(());
        };
        pack.finish().await.map_err(|why| Stop::Store {
            files: files.len(),
            why,
        })?;
        self.kept.files.extend(files);
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a text cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
