//! What every kind of store must do, and archives to do it with.

#![allow(dead_code, reason = "each of the test programs uses a part")]

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use ostler_artifacts::{ArtifactError, ArtifactStore, Keep, Kept, Limits, Object, Reason, Stored};
use ostler_domain::{RunId, Timestamp};
use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;
use tar::{Builder, EntryType, Header};

pub(crate) const WIDE: Limits = Limits {
    files: 200_000,
    bytes: 1 << 40,
};

/// 2026-11-21T12:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_795_262_400_000_000);

/// An archive in the making.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn file(mut self, path: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    /// An entry as a hostile writer would make it.
    pub(crate) fn raw(mut self, path: &[u8], kind: EntryType, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    pub(crate) fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        pieces(&self.bytes())
    }
}

/// In the pieces in which a sandbox sends.
pub(crate) fn pieces(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin + use<> {
    let all: Vec<_> = bytes
        .chunks(64 << 10)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(all)
}

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::with_capacity(length + 8);
    while all.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(length);
    all
}

pub(crate) async fn read(
    store: &ArtifactStore,
    file: &Stored,
    range: Option<Range<u64>>,
) -> Result<Vec<u8>, ArtifactError> {
    let content = store.get(&file.place, file.bytes, &file.sha256, range).await?;
    content
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

pub(crate) async fn listed(store: &ArtifactStore) -> Vec<Object> {
    store.list().try_collect().await.unwrap()
}

fn clean(kept: &Kept) {
    assert_eq!((kept.problems.as_slice(), kept.more_problems), (&[][..], 0));
}

/// What every store must do. It must be empty, and is so afterwards.
pub(crate) async fn conformance(store: &ArtifactStore) {
    store.check().await.unwrap();
    assert_eq!(listed(store).await, [], "the check leaves something");
    small_files(store).await;
    large_file(store).await;
    broken_stream(store).await;
    retention(store).await;
    assert_eq!(listed(store).await, []);
}

async fn small_files(store: &ArtifactStore) {
    let run = RunId::new();
    let long = format!("{}/ärger & more?.xml", "deep/".repeat(40));
    let tar = Tar::new()
        .file("report.xml", b"<testsuite/>")
        .file("empty", b"")
        .file(&long, b"0123456789");
    let kept = store.put(run, WIDE, NOW, tar.stream()).await;
    clean(&kept);
    let names: Vec<_> = kept.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["report.xml", "empty", &long.replace("//", "/")]);
    assert_eq!(kept.created_at, NOW);
    // sha256sum of nothing.
    assert_eq!(
        kept.files[1].sha256,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(read(store, &kept.files[0], None).await.unwrap(), b"<testsuite/>");
    assert_eq!(read(store, &kept.files[1], None).await.unwrap(), b"");
    let last = &kept.files[2];
    assert_eq!(read(store, last, None).await.unwrap(), b"0123456789");
    assert_eq!(read(store, last, Some(3..7)).await.unwrap(), b"3456");
    assert_eq!(read(store, last, Some(9..10)).await.unwrap(), b"9");
    assert_eq!(read(store, last, Some(5..5)).await.unwrap(), b"");
    assert!(read(store, last, Some(5..11)).await.is_err());

    // A run's few files are one object.
    let objects = listed(store).await;
    assert_eq!(objects.len(), 1);
    assert_eq!((objects[0].run, objects[0].created_at), (Some(run), NOW));
    assert_eq!(objects[0].bytes, 22);

    // A record that says something else than the store.
    let mut other = kept.files[0].clone();
    other.sha256 = kept.files[1].sha256.clone();
    let error = read(store, &other, None).await.unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    let mut longer = last.clone();
    longer.bytes += 100;
    let error = read(store, &longer, None).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Damaged { .. }),
        "what is too short is told: {error}"
    );

    let keys = || kept.files.iter().map(|file| file.place.key.clone());
    store.delete(keys().take(1)).await.unwrap();
    store.delete(keys()).await.unwrap();
    let gone = read(store, last, None).await.unwrap_err();
    assert!(matches!(gone, ArtifactError::Gone(_)), "{gone}");
    assert_eq!(listed(store).await, []);

    // Nothing to keep is nothing in the store.
    let kept = store.put(run, WIDE, NOW, Tar::new().stream()).await;
    clean(&kept);
    assert_eq!(listed(store).await, []);
}

async fn large_file(store: &ArtifactStore) {
    // Over several parts, none of which ends where a file does.
    let (first, second) = (noise((8 << 20) + 1234), noise((13 << 20) + 5));
    let tar = Tar::new().file("first", &first).file("second", &second);
    let kept = store.put(RunId::new(), WIDE, NOW, tar.stream()).await;
    clean(&kept);
    assert_eq!(listed(store).await.len(), 1);
    assert!(read(store, &kept.files[0], None).await.unwrap() == first);
    assert!(read(store, &kept.files[1], None).await.unwrap() == second);
    let middle = (8 << 20) - 3000..(8 << 20) + 3000;
    let part = read(
        store,
        &kept.files[1],
        Some(middle.start as u64..middle.end as u64),
    )
    .await;
    assert!(part.unwrap() == second[middle]);
    store.delete([kept.files[0].place.key.clone()]).await.unwrap();
}

async fn broken_stream(store: &ArtifactStore) {
    let tar = Tar::new()
        .file("whole", b"whole")
        .file("half", &noise(20 << 20))
        .bytes();
    let cut = pieces(&tar[..15 << 20]).map(|piece| piece.map_err(|never| match never {}));
    let cut = cut.chain(stream::iter([Err("the sandbox is gone")]));
    let kept = store.put(RunId::new(), WIDE, NOW, cut).await;
    assert_eq!(kept.files.len(), 1);
    assert_eq!(read(store, &kept.files[0], None).await.unwrap(), b"whole");
    let [problem] = kept.problems.as_slice() else {
        panic!("{kept:?}")
    };
    assert_eq!(
        problem.reason,
        Reason::Broken("the stream broke off: the sandbox is gone".into())
    );
    store.delete([kept.files[0].place.key.clone()]).await.unwrap();

    // Without any whole file nothing is left, large or small.
    for length in [15 << 20, 2000] {
        let tar = Tar::new().file("half", &noise(20 << 20)).bytes();
        let kept = store.put(RunId::new(), WIDE, NOW, pieces(&tar[..length])).await;
        assert_eq!((kept.files.len(), kept.problems.len()), (0, 1));
        assert_eq!(listed(store).await, []);
    }
}

async fn retention(store: &ArtifactStore) {
    let minutes = |minutes: u64| NOW.minus(Duration::from_secs(60 * minutes));
    let mut all = Vec::new();
    for age in [3000, 1600, 90, 5, 0] {
        let tar = Tar::new().file("a", &[7; 1000]);
        let kept = store.put(RunId::new(), WIDE, minutes(age), tar.stream()).await;
        clean(&kept);
        all.push(kept.files[0].clone());
    }
    let keep = |days: Option<u64>, bytes| Keep {
        age: days.map(|days| Duration::from_secs(days * 86_400)),
        bytes,
    };
    let left = async |keep| {
        let cutoff = store.cutoff(NOW, keep).await.unwrap();
        let removed = store.remove_before(cutoff).await.unwrap();
        assert_eq!(removed.bytes, 1000 * removed.objects);
        listed(store).await.len()
    };
    assert_eq!(left(keep(None, None)).await, 5);
    assert_eq!(left(keep(Some(2), Some(1 << 30))).await, 4);
    assert_eq!(left(keep(Some(2), Some(3500))).await, 3);
    assert_eq!(left(keep(None, Some(2000))).await, 2);
    // What is stored just now stays, however large it is.
    assert_eq!(left(keep(None, Some(0))).await, 1);
    assert_eq!(read(store, &all[4], None).await.unwrap().len(), 1000);
    store.delete([all[4].place.key.clone()]).await.unwrap();
}
