//! Files that match, as an archive.

use crate::world::World;
use futures::StreamExt;
use ostler_guest_protocol::v1::collect_problem::Kind;
use ostler_guest_protocol::v1::{CollectRequest, CollectSummary, MetricsRequest};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use tonic::Status;

/// Sorted by name.
pub(crate) async fn collect(
    world: &mut World,
    request: CollectRequest,
) -> Result<(Vec<(String, Vec<u8>)>, CollectSummary), Status> {
    let mut frames = world.client.collect(request).await?.into_inner();
    let (mut archive, mut summary) = (Vec::new(), None);
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        assert!(summary.is_none(), "something after the last frame");
        archive.extend_from_slice(&frame.data);
        summary = frame.summary;
    }
    let mut files = Vec::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().entry_type(), tar::EntryType::Regular);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.push((name, content));
    }
    files.sort();
    Ok((files, summary.unwrap()))
}

fn globs(globs: &[&str]) -> CollectRequest {
    CollectRequest {
        globs: globs.iter().map(|&glob| glob.to_owned()).collect(),
        ..CollectRequest::default()
    }
}

#[tokio::test]
async fn what_matches_is_collected_and_what_is_not_is_told() {
    let mut world = World::new().await;
    let dir = world.workspace();
    std::fs::create_dir_all(dir.join("reports/deep")).unwrap();
    std::fs::create_dir_all(dir.join("other")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff.xml");
    let long = format!("{}.xml", "n".repeat(200));
    std::fs::write(dir.join("reports/a.xml"), "a").unwrap();
    std::fs::write(dir.join("reports/deep").join(odd), "odd").unwrap();
    std::fs::write(dir.join("reports/deep").join(&long), "long").unwrap();
    std::fs::write(dir.join("reports/a.txt"), "no").unwrap();
    std::fs::write(dir.join("other/b.xml"), "no").unwrap();
    symlink("/etc/passwd", dir.join("reports/link.xml")).unwrap();
    symlink("/etc", dir.join("reports/etc")).unwrap();
    symlink("../other", dir.join("reports/way")).unwrap();
    nix::unistd::mkfifo(&dir.join("reports/pipe.xml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let (files, summary) = collect(&mut world, globs(&["reports/**/*.xml"])).await.unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = [
        "reports/a.xml".to_owned(),
        format!("reports/deep/{long}"),
        "reports/deep/odd-\u{fffd}.xml".to_owned(),
    ];
    assert_eq!(names, wanted);
    assert_eq!((summary.files, summary.bytes, summary.cut), (3, 8, false));
    let mut problems: Vec<(&str, Kind)> = summary
        .problems
        .iter()
        .map(|p| (p.path.as_str(), p.kind()))
        .collect();
    problems.sort();
    assert_eq!(
        problems,
        [
            ("reports/link.xml", Kind::Symlink),
            ("reports/pipe.xml", Kind::Special)
        ]
    );
    // A root that is reached by a link, or is none.
    for (root, code) in [
        (dir.join("reports/way"), tonic::Code::FailedPrecondition),
        (dir.join("reports/etc"), tonic::Code::FailedPrecondition),
        (dir.join("absent"), tonic::Code::NotFound),
        (dir.join("../.."), tonic::Code::InvalidArgument),
        ("relative".into(), tonic::Code::InvalidArgument),
    ] {
        let request = CollectRequest {
            root: root.display().to_string(),
            ..globs(&["*"])
        };
        let refused = collect(&mut world, request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    let refused = collect(&mut world, globs(&["../x"])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn limits_are_kept_and_told() {
    let mut world = World::new().await;
    let dir = world.workspace();
    for n in 0..10 {
        std::fs::write(dir.join(n.to_string()), vec![b'x'; 100]).unwrap();
    }
    std::fs::write(dir.join("large"), vec![b'x'; 1000]).unwrap();
    let request = CollectRequest {
        max_bytes: 500,
        max_total: 550,
        ..globs(&["*"])
    };
    let (files, summary) = collect(&mut world, request).await.unwrap();
    assert_eq!((files.len(), summary.files, summary.bytes), (5, 5, 500));
    let count = |kind| summary.problems.iter().filter(|p| p.kind() == kind).count();
    assert_eq!((count(Kind::Large), count(Kind::Many)), (1, 5));
    let request = CollectRequest {
        max_files: 3,
        ..globs(&["*"])
    };
    let (files, summary) = collect(&mut world, request).await.unwrap();
    assert_eq!((files.len(), summary.cut), (3, true));
}

#[tokio::test]
async fn a_hundred_thousand_files_take_no_memory() {
    let mut world = World::new().await;
    let dir = world.workspace();
    for n in 0..1000 {
        let dir = dir.join(format!("d{n}"));
        std::fs::create_dir(&dir).unwrap();
        for m in 0..100 {
            std::fs::File::create(dir.join(format!("{m}.log"))).unwrap();
        }
    }
    let memory = async |world: &mut World| {
        let metrics = world.client.metrics(MetricsRequest {}).await.unwrap();
        metrics.into_inner().memory_bytes
    };
    let before = memory(&mut world).await;
    let mut frames = world
        .client
        .collect(globs(&["**/*.log"]))
        .await
        .unwrap()
        .into_inner();
    let mut most = 0;
    let (mut count, mut bytes) = (0, 0);
    while let Some(frame) = frames.next().await {
        let frame = frame.unwrap();
        bytes += frame.data.len();
        count += 1;
        if count % 100 == 0 {
            most = most.max(memory(&mut world).await);
        }
        if let Some(summary) = frame.summary {
            assert_eq!((summary.files, summary.problems.len()), (100_000, 0));
        }
    }
    assert!(bytes > 100_000 * 512);
    assert!(most < before + (16 << 20), "{before} {most}");
}
