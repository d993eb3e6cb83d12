//! On local disk, and what does not depend on the store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use bytes::Bytes;
use common::{NOW, Tar, WIDE, conformance, listed, noise, pieces, read};
use futures::{StreamExt, stream};
use ostler_artifacts::{ArtifactSettings, ArtifactStore, Limits, Problem, Reason};
use ostler_domain::RunId;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tar::EntryType;

fn open(directory: &Path) -> ArtifactStore {
    ArtifactStore::open(&ArtifactSettings::default(), directory.join("artifacts")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn local_disk_does_what_every_store_must() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert!(store.is_local());
    conformance(&store).await;
    let left: Vec<_> = std::fs::read_dir(directory.path().join("artifacts"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let url = format!("file://{}/by url", directory.path().display());
    let settings = ArtifactSettings {
        url: Some(url),
        ..ArtifactSettings::default()
    };
    let store = ArtifactStore::open(&settings, "/nonexistent".into()).unwrap();
    store.check().await.unwrap();
    assert!(directory.path().join("by url").is_dir());
}

#[tokio::test]
async fn what_does_not_belong_is_refused_and_the_rest_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let file = EntryType::Regular;
    let tar = Tar::new()
        .file("first", b"1")
        .raw(b"../out", file, b"x")
        .raw(b"/etc/passwd", file, b"x")
        .raw(b"a/../../b", file, b"x")
        .raw(b"\xff.txt", file, b"x")
        .raw(b"first", file, b"other")
        .raw(b"./first", file, b"other")
        .raw(b"link", EntryType::Symlink, b"")
        .raw(b"hard", EntryType::Link, b"")
        .raw(b"disk", EntryType::Block, b"")
        .raw(b"tty", EntryType::Char, b"")
        .raw(b"pipe", EntryType::Fifo, b"")
        .raw(b"odd", EntryType::new(b'Z'), &[0; 700])
        .raw(b"holes", EntryType::GNUSparse, b"x")
        .raw(b"dir/", EntryType::Directory, b"")
        .file("large", &noise(3000))
        .file("last", b"22");
    let limits = Limits {
        files: 10,
        bytes: 2000,
    };
    let kept = store.put(RunId::new(), limits, NOW, tar.stream()).await;
    let names: Vec<_> = kept.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["first", "last"]);
    assert_eq!(read(&store, &kept.files[0], None).await.unwrap(), b"1");
    assert_eq!(read(&store, &kept.files[1], None).await.unwrap(), b"22");
    let too_large = Reason::TooLarge {
        size: 3000,
        limit: 2000,
    };
    let wanted = [
        ("../out", Reason::Outside),
        ("/etc/passwd", Reason::Absolute),
        ("a/../../b", Reason::Outside),
        ("\u{fffd}.txt", Reason::NotText),
        ("first", Reason::Twice),
        ("./first", Reason::Twice),
        ("link", Reason::Link),
        ("hard", Reason::Link),
        ("disk", Reason::Special),
        ("tty", Reason::Special),
        ("pipe", Reason::Special),
        ("odd", Reason::Special),
        ("holes", Reason::Sparse),
        ("large", too_large),
    ];
    let wanted: Vec<_> = wanted
        .map(|(path, reason)| Problem {
            path: Some(path.to_owned()),
            reason,
        })
        .into();
    assert_eq!(kept.problems, wanted);
    let text = kept.problems[0].to_string();
    assert_eq!(
        text,
        "the artifact \"../out\" was not kept: its path contains `..`"
    );
}

#[tokio::test]
async fn too_many_files_and_too_many_problems_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut tar = Tar::new();
    for number in 0..50 {
        tar = tar.raw(format!("../{number}").as_bytes(), EntryType::Regular, b"");
    }
    for number in 0..10 {
        tar = tar.file(&number.to_string(), b"x");
    }
    let limits = Limits { files: 7, bytes: 100 };
    let kept = store.put(RunId::new(), limits, NOW, tar.stream()).await;
    assert_eq!(kept.files.len(), 7);
    // Fifty that lead elsewhere, and that the limit was reached.
    assert_eq!((kept.problems.len(), kept.more_problems), (20, 31));

    let none = Limits { files: 0, bytes: 0 };
    let kept = store
        .put(RunId::new(), none, NOW, Tar::new().file("a", b"x").stream())
        .await;
    assert_eq!(kept.files, []);
    assert_eq!(kept.problems[0].reason, Reason::TooMany { limit: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_files_take_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut tar = Tar::new();
    for number in 0..100_000 {
        tar = tar.file(
            &format!("out/{}/{number}.txt", number % 100),
            number.to_string().as_bytes(),
        );
    }
    let tar = tar.bytes();
    let begin = Instant::now();
    let kept = store.put(RunId::new(), WIDE, NOW, pieces(&tar)).await;
    let took = begin.elapsed();
    eprintln!("100,000 files, {} MB of archive: {took:?}", tar.len() >> 20);
    assert_eq!((kept.files.len(), kept.problems.len()), (100_000, 0));
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(listed(&store).await.len(), 1);
    for at in [0, 54_321, 99_999] {
        assert_eq!(
            read(&store, &kept.files[at], None).await.unwrap(),
            at.to_string().as_bytes()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let tar = Tar::new().file("large", &noise(40 << 20)).bytes();
    let input = pieces(&tar[..30 << 20]).chain(stream::pending());
    let put = store.put(RunId::new(), WIDE, NOW, input);
    assert!(tokio::time::timeout(Duration::from_secs(3), put).await.is_err());
    let day = directory.path().join("artifacts/2026-11-21");
    let files = || std::fs::read_dir(&day).map(Iterator::count).unwrap_or_default();
    let begin = Instant::now();
    while files() > 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "an unfinished file stays"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(listed(&store).await, []);
}

#[tokio::test]
async fn what_a_killed_server_left_is_not_listed_and_goes_after_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = store
        .put(RunId::new(), WIDE, NOW, Tar::new().file("a", b"x").stream())
        .await;
    let day = directory.path().join("artifacts/2026-11-21");
    let (old, new) = (day.join("1-run-0#1"), day.join("1-run-0#2"));
    let file = std::fs::File::create(&old).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(90_000))
        .unwrap();
    std::fs::write(&new, b"half").unwrap();
    assert_eq!(listed(&store).await.len(), 1);
    store.remove_before(NOW).await.unwrap();
    assert!(!old.exists() && new.exists());
    assert_eq!(read(&store, &kept.files[0], None).await.unwrap(), b"x");
}

/// A file system of its own, which goes with it.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options),
        );
        mounted.ok().map(|()| Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_takes_nothing_with_it() {
    ostler_test_kit::require!(HostNetwork);
    let small = Small::mount("size=14m").expect("root can mount");
    let store = open(small.0.path());
    let early = store
        .put(RunId::new(), WIDE, NOW, Tar::new().file("a", b"early").stream())
        .await;
    let tar = Tar::new()
        .file("b", b"b")
        .file("large", &noise(30 << 20))
        .file("c", b"c");
    let kept = store.put(RunId::new(), WIDE, NOW, tar.stream()).await;
    assert_eq!(kept.files, []);
    let [problem] = kept.problems.as_slice() else {
        panic!("{kept:?}")
    };
    // Parts are written while what follows is read.
    assert!(
        matches!(&problem.reason, Reason::Store { files: 2..=3, why } if why.contains("No space left")),
        "{problem}"
    );
    // The space is there again, and what was stored before is whole.
    assert_eq!(read(&store, &early.files[0], None).await.unwrap(), b"early");
    let begin = Instant::now();
    loop {
        let again = Tar::new().file("again", &noise(10 << 20)).stream();
        let kept = store.put(RunId::new(), WIDE, NOW, again).await;
        if kept.files.len() == 1 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{kept:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(listed(&store).await.len(), 2);
}

#[tokio::test]
async fn content_that_changed_on_the_disk_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = store
        .put(RunId::new(), WIDE, NOW, Tar::new().file("a", b"content").stream())
        .await;
    let path = directory.path().join("artifacts").join(&kept.files[0].place.key);
    std::fs::write(&path, b"CONTENT").unwrap();
    let error = read(&store, &kept.files[0], None).await.unwrap_err().to_string();
    assert!(error.contains("its checksum differs"), "{error}");
    std::fs::write(&path, b"cont").unwrap();
    let error = read(&store, &kept.files[0], None).await.unwrap_err().to_string();
    assert!(error.contains("shorter"), "{error}");
}

#[tokio::test]
async fn many_at_once_do_not_meet() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let puts = (0..50_u32).map(|number| {
        let store = store.clone();
        async move {
            let content = Bytes::from(number.to_string());
            let tar = Tar::new().file("same", &content).stream();
            let kept = store.put(RunId::new(), WIDE, NOW, tar).await;
            assert_eq!(read(&store, &kept.files[0], None).await.unwrap(), content);
        }
    });
    futures::future::join_all(puts).await;
    assert_eq!(listed(&store).await.len(), 50);
}
