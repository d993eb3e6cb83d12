//! Root drives: the file system of an image as an ext4 file, for virtual machines.
//!
//! The e2fsprogs of Debian 12 fill a file system from a directory and not yet from a tar, so the image is unpacked first,
//! with its owners; that takes root.

use super::bootstrap::Locked;
use super::{BUILDER, CONTAINER, DockerImages, LAYER, call, engine, short, within};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use futures::StreamExt;
use ostler_sandbox::images::{Image, ImageError};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

impl DockerImages {
    /// Writes the drive of an image to `path` unless it is there.
    pub(super) async fn drive(&self, image: &Image, path: &Path, size_mb: u64) -> Result<(), ImageError> {
        if path.exists() {
            return Ok(());
        }
        let dir = path.parent().unwrap_or_else(|| Path::new("/"));
        let io = |what: &str| ImageError::io(format!("{what} {}", path.display()));
        tokio::fs::create_dir_all(dir)
            .await
            .map_err(io("making the directory of"))?;
        let _lock = {
            let path = path.with_extension("lock");
            let locked = tokio::task::spawn_blocking(move || -> std::io::Result<Locked> {
                let file = File::create(&path)?;
                file.lock()?;
                Ok(Locked { path, _file: file })
            });
            locked
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
                .map_err(io("locking"))?
        };
        if path.exists() {
            return Ok(());
        }
        // Beside the drive: both are large, and it is renamed in the end.
        let scratch = tempfile::Builder::new()
            .prefix(".drive-")
            .tempdir_in(dir)
            .map_err(io("a directory for"))?;
        let root = scratch.path().join("root");
        let new = scratch.path().join("new");
        tokio::fs::create_dir(&root)
            .await
            .map_err(io("a directory for"))?;
        let container = format!("{CONTAINER}drive-{}-{}", short(&image.hash), std::process::id());
        let options = CreateContainerOptionsBuilder::default().name(&container).build();
        let body = ContainerCreateBody {
            image: Some(image.tag.clone()),
            labels: Some(HashMap::from([(
                BUILDER.to_owned(),
                self.options.instance.clone(),
            )])),
            ..ContainerCreateBody::default()
        };
        call(
            "make a container to export",
            self.api.create_container(Some(options), body),
        )
        .await?;
        let unpacked = self.unpack(&container, &root).await;
        self.remove_container(&container).await?;
        unpacked?;
        make_file_system(&root, &new, size_mb).await?;
        tokio::fs::rename(&new, path).await.map_err(io("naming"))?;
        Ok(())
    }

    async fn unpack(&self, container: &str, root: &Path) -> Result<(), ImageError> {
        let mut tar = command("tar");
        tar.args([
            "--extract",
            "--file=-",
            "--numeric-owner",
            "--same-owner",
            "--preserve-permissions",
        ])
        .args(["--xattrs", "--xattrs-include=*", "--directory"])
        .arg(root)
        .stdin(Stdio::piped());
        let mut child = tar.spawn().map_err(ImageError::io("starting tar"))?;
        let mut pieces = self.api.export_container(container);
        let mut input = child.stdin.take();
        let feed = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(engine("export an image"))?;
                if let Some(input) = &mut input
                    && input.write_all(&piece).await.is_err()
                {
                    // It has ended, and says why.
                    break;
                }
            }
            drop(input.take());
            Ok(())
        };
        within(LAYER, "export an image", feed).await??;
        finish(
            child,
            "unpacking the image",
            "run the server as root for this, or build the drive on a host where it is",
        )
        .await
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn make_file_system(root: &Path, file: &Path, size_mb: u64) -> Result<(), ImageError> {
    let mut mke2fs = command("mke2fs");
    mke2fs
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "ostler-root",
            "-m",
            "0",
            "-E",
            "root_owner=0:0",
            "-d",
        ])
        .arg(root)
        .arg(file)
        .arg(format!("{size_mb}M"));
    let child = mke2fs.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ImageError::Missing(
            "mke2fs, which makes file systems, is missing on this host: `apt-get install e2fsprogs`".into(),
        ),
        _ => ImageError::io("starting mke2fs")(error),
    })?;
    let hint = format!("if the image does not fit into {size_mb} MiB, ask for a larger drive");
    finish(child, "making the file system", &hint).await
}

async fn finish(child: tokio::process::Child, what: &str, hint: &str) -> Result<(), ImageError> {
    let output = tokio::time::timeout(LAYER, child.wait_with_output()).await;
    let output = output
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(ImageError::io(what))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(ImageError::io(what)(std::io::Error::other(format!(
        "{last} ({hint})"
    ))))
}
