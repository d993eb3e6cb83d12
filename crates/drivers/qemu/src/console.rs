//! What the kernel and the guest say on the machine's console, of which only the end is kept.
//!
//! QEMU throws away what it has nobody to give to, so that a machine cannot fill the disk while no server runs.

use ostler_sandbox::connect_socket;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Most bytes in the file.
const MOST: usize = 128 * 1024;
/// What is left of them when there are more.
const KEPT: usize = 32 * 1024;

/// Connects to the console and writes what comes from there to a file, until the machine ends or the task is aborted.
pub(crate) async fn follow(socket: PathBuf, file: PathBuf) -> io::Result<()> {
    let stream = connect_socket(&socket).await?;
    copy(stream, &file).await
}

async fn copy(mut stream: UnixStream, path: &Path) -> io::Result<()> {
    let mut recent = std::fs::read(path).unwrap_or_default();
    let mut file = open(path, false)?;
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        recent.extend_from_slice(&buffer[..count]);
        if recent.len() > MOST {
            recent.drain(..recent.len() - KEPT);
            file = open(path, true)?;
            file.write_all(&recent)?;
        } else {
            file.write_all(&buffer[..count])?;
        }
    }
}

fn open(path: &Path, anew: bool) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .append(!anew)
        .truncate(anew)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn only_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        std::fs::write(&path, "before\n").unwrap();
        let (mut machine, server) = UnixStream::pair().unwrap();
        let write = async move {
            for line in 0..40_000 {
                machine
                    .write_all(format!("line {line:06}\n").as_bytes())
                    .await
                    .unwrap();
            }
        };
        let (done, ()) = tokio::join!(copy(server, &path), write);
        done.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 039999\n") && !text.contains("before"));
        assert!((KEPT..=MOST + 4096).contains(&text.len()), "{}", text.len());
    }
}
