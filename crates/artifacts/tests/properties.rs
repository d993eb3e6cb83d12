//! Whatever a sandbox sends, what is kept is within its bounds and is what was sent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::{NOW, listed, pieces, read};
use object_store::memory::InMemory;
use ostler_artifacts::{ArtifactStore, Limits};
use ostler_domain::RunId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;
use tar::{EntryType, Header};

#[derive(Debug, Clone)]
struct Sent {
    name: Vec<u8>,
    kind: u8,
    content: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let part = prop_oneof![
        Just(b"..".to_vec()),
        Just(b".".to_vec()),
        Just(Vec::new()),
        Just(b"a".to_vec()),
        Just(b"b\xff".to_vec()),
        proptest::collection::vec(1_u8.., 1..12),
    ];
    let name = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'));
    let kind = prop_oneof![6 => Just(b'0'), 1 => Just(b'2'), 1 => Just(b'5'), 1 => any::<u8>()]
        // Other kinds of files, and those whose content is about the entry that follows.
        .prop_filter("one of its kind", |kind| !b"\x007LKxgS".contains(kind));
    (name, kind, proptest::collection::vec(any::<u8>(), 0..900)).prop_map(|(name, kind, content)| Sent {
        name,
        kind,
        content,
    })
}

fn archive(all: &[Sent]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for sent in all {
        let mut header = Header::new_gnu();
        let length = sent.name.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&sent.name[..length]);
        header.set_entry_type(EntryType::new(sent.kind));
        header.set_size(sent.content.len() as u64);
        header.set_cksum();
        builder.append(&header, sent.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_kept_is_what_was_sent_and_stays_below_the_workspace(
        all in proptest::collection::vec(sent(), 0..12),
        files in 0_u32..10,
        bytes in 0_u64..3000,
        damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut tar = archive(&all);
        if let Some((at, byte)) = damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        runtime().block_on(async {
            let store = ArtifactStore::over(Arc::new(InMemory::new()));
            let limits = Limits { files, bytes };
            let kept = store.put(RunId::new(), limits, NOW, pieces(&tar)).await;
            prop_assert!(kept.files.len() <= files as usize);
            prop_assert!(kept.files.iter().map(|file| file.bytes).sum::<u64>() <= bytes);
            let paths: BTreeSet<_> = kept.files.iter().map(|file| &file.path).collect();
            prop_assert_eq!(paths.len(), kept.files.len());
            for file in &kept.files {
                for part in Path::new(&file.path).components() {
                    prop_assert!(matches!(part, Component::Normal(_)), "{:?}", file.path);
                }
                let content = read(&store, file, None).await.unwrap();
                prop_assert_eq!(content.len() as u64, file.bytes);
                if damage.is_none() {
                    let same = |sent: &&Sent| String::from_utf8(sent.name.clone()).is_ok_and(|name| {
                        let parts: Vec<_> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
                        parts.join("/") == file.path
                    });
                    let first = all.iter().filter(same).find(|sent| sent.content == content);
                    prop_assert!(first.is_some(), "{file:?} was never sent");
                }
            }
            let objects: BTreeMap<_, _> = listed(&store).await.into_iter().map(|object| (object.key, object.bytes)).collect();
            let used: BTreeSet<_> = kept.files.iter().map(|file| file.place.key.clone()).collect();
            prop_assert_eq!(objects.keys().cloned().collect::<BTreeSet<_>>(), used);
            // Nothing goes without a word.
            let plain = |sent: &&Sent| sent.kind == b'0';
            if damage.is_none() && kept.problems.is_empty() {
                let directories = |sent: &&Sent| !sent.name.ends_with(b"/");
                prop_assert_eq!(all.iter().filter(plain).filter(directories).count(), kept.files.len());
            }
            Ok(())
        })?;
    }

    #[test]
    fn places_are_read_as_they_are_written(text in "[a-z0-9@/._-]{0,30}") {
        if let Ok(place) = text.parse::<ostler_artifacts::Place>() {
            prop_assert_eq!(place.to_string().parse::<ostler_artifacts::Place>().unwrap(), place.clone());
            prop_assert!(!place.key.split('/').any(|part| part == ".."));
        }
    }
}

#[test]
fn memory_does_what_every_store_must() {
    runtime().block_on(async {
        common::conformance(&ArtifactStore::over(Arc::new(InMemory::new()))).await;
    });
}
