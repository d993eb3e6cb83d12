//! Files in and out.

use crate::world::World;
use bytes::Bytes;
use futures::StreamExt;
use ostler_guest_protocol::v1::{DownloadRequest, UploadFrame, UploadHeader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tonic::{Code, Status};

async fn upload(world: &mut World, path: &Path, tar: bool, mode: u32, content: &[u8]) -> Result<u64, Status> {
    let header = UploadHeader {
        path: path.display().to_string(),
        tar,
        mode,
    };
    let mut frames = vec![UploadFrame {
        header: Some(header),
        ..UploadFrame::default()
    }];
    frames.extend(content.chunks(50_000).map(|data| UploadFrame {
        data: Bytes::copy_from_slice(data),
        ..UploadFrame::default()
    }));
    frames.push(UploadFrame {
        end: true,
        ..UploadFrame::default()
    });
    let reply = world.client.upload(futures::stream::iter(frames)).await?;
    Ok(reply.into_inner().bytes)
}

async fn download(world: &mut World, path: &Path, tar: bool, members: &[&str]) -> Result<Vec<u8>, Status> {
    let request = DownloadRequest {
        path: path.display().to_string(),
        tar,
        members: members.iter().map(|&member| member.to_owned()).collect(),
    };
    let mut frames = world.client.download(request).await?.into_inner();
    let mut content = Vec::new();
    while let Some(frame) = frames.next().await {
        content.extend_from_slice(&frame?.data);
    }
    Ok(content)
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let mut world = World::new().await;
    let path = world.workspace().join("a/b/file");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(
        upload(&mut world, &path, false, 0o750, &content).await.unwrap(),
        content.len() as u64
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o750
    );
    assert_eq!(download(&mut world, &path, false, &[]).await.unwrap(), content);
    // Again, shorter: it is replaced as a whole.
    upload(&mut world, &path, false, 0, b"short").await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"short");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "something partly written is left"
    );
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let world = World::new().await;
    let path = world.workspace().join("file");
    std::fs::write(&path, "before").unwrap();
    let header = UploadHeader {
        path: path.display().to_string(),
        tar: false,
        mode: 0,
    };
    let first = UploadFrame {
        header: Some(header),
        data: Bytes::from_static(b"half"),
        end: false,
    };
    let frames = futures::stream::iter([first.clone()]).chain(futures::stream::pending());
    let mut client = world.other().await;
    let call = client.upload(frames);
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(200), call)
            .await
            .is_err()
    );
    let complete = client.upload(futures::stream::iter([first])).await;
    assert_eq!(complete.unwrap_err().code(), Code::Cancelled);
    drop(client);
    let whole = || std::fs::read_dir(world.workspace()).unwrap().count() == 1;
    assert!(
        crate::world::eventually(whole).await,
        "something partly written is left"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
}

#[tokio::test]
async fn archives_go_in_and_come_out() {
    let mut world = World::new().await;
    let from = world.workspace().join("from");
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    std::fs::write(from.join("deep/er/one"), "1").unwrap();
    std::fs::write(from.join("two"), "2").unwrap();
    let archive = download(&mut world, &from, true, &[]).await.unwrap();
    let to = world.workspace().join("to");
    assert_eq!(
        upload(&mut world, &to, true, 0, &archive).await.unwrap(),
        archive.len() as u64
    );
    assert_eq!(std::fs::read_to_string(to.join("deep/er/one")).unwrap(), "1");
    let some = download(&mut world, &from, true, &["two", "absent"])
        .await
        .unwrap();
    let mut some = tar::Archive::new(&some[..]);
    let names: Vec<_> = some
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(names, [Path::new("two")]);
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let mut world = World::new().await;
    let dir = world.workspace();
    std::fs::write(dir.join("file"), "x").unwrap();
    let nowhere = download(&mut world, &dir.join("none"), false, &[])
        .await
        .unwrap_err();
    assert_eq!(nowhere.code(), Code::NotFound);
    assert!(nowhere.message().contains("none"), "{nowhere:?}");
    assert_eq!(
        download(&mut world, &dir.join("none"), true, &["x"])
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    for (path, tar, members) in [
        (dir.as_path(), false, &[][..]),
        (Path::new("relative"), false, &[][..]),
        (dir.as_path(), true, &["../x"][..]),
        (dir.as_path(), true, &["/etc/passwd"][..]),
    ] {
        let refused = download(&mut world, path, tar, members).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    for (path, tar) in [
        (Path::new("relative"), false),
        (&dir.join("file/below"), false),
        (&dir.join("out"), true),
    ] {
        let refused = upload(
            &mut world,
            path,
            tar,
            0,
            b"this is no archive, whatever is said of it",
        )
        .await
        .unwrap_err();
        assert!(
            matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{refused:?}"
        );
    }
    let headless = futures::stream::iter([UploadFrame::default()]);
    assert_eq!(
        world.client.upload(headless).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
