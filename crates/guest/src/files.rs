//! Files into the sandbox and out of it.
//!
//! Archives are made and unpacked on a thread of their own, as files are slow and archives have no end known beforehand.

use bytes::Bytes;
use futures::Stream;
use ostler_guest_protocol::v1::{DownloadFrame, DownloadRequest, UploadFrame, UploadHeader};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tonic::{Status, Streaming};

const PIECE: usize = 64 * 1024;
/// Pieces on their way.
const PIECES: usize = 4;
const DEFAULT_MODE: u32 = 0o644;

/// Writes a file, or unpacks an archive. A file is there as a whole or not at all. Returns the bytes received.
pub(crate) async fn upload(mut frames: Streaming<UploadFrame>) -> Result<u64, Status> {
    let mut first = frames.message().await?.unwrap_or_default();
    let header = first
        .header
        .take()
        .ok_or_else(|| Status::invalid_argument("the first frame must hold the header"))?;
    if !header.path.starts_with('/') {
        return Err(Status::invalid_argument(format!(
            "the path `{}` must be absolute",
            header.path
        )));
    }
    let content = futures::stream::try_unfold(Some((first, frames)), |state| async move {
        let Some((frame, mut frames)) = state else {
            return Ok(None);
        };
        let rest = if frame.end {
            None
        } else {
            let next = frames.message().await.map_err(io::Error::other)?;
            let next = next.ok_or_else(|| io::Error::other(Status::cancelled("the upload broke off")))?;
            Some((next, frames))
        };
        Ok::<_, io::Error>(Some((frame.data, rest)))
    });
    let mut content = Counted {
        inner: SyncIoBridge::new(Box::pin(StreamReader::new(content))),
        bytes: 0,
    };
    let path = header.path.clone();
    let work = move || {
        let path = PathBuf::from(&header.path);
        if header.tar {
            unpack(&mut content, &path)?;
            // What follows the archive's end belongs to it as well.
            io::copy(&mut content, &mut io::sink())?;
        } else {
            write(&mut content, &path, &header)?;
        }
        Ok(content.bytes)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| failed("written", Path::new(&path), &error))
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

fn unpack(content: &mut impl Read, path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let mut archive = tar::Archive::new(content);
    for entry in archive.entries()? {
        let mut entry = entry?;
        // False for an entry whose place is outside.
        if !entry.unpack_in(path)? {
            let name = entry.path()?.display().to_string();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the archive's entry `{name}` lies outside"),
            ));
        }
    }
    Ok(())
}

fn write(content: &mut impl Read, path: &Path, header: &UploadHeader) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    };
    std::fs::create_dir_all(parent)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let partly = Partly(parent.join(hidden));
    let mode = if header.mode == 0 {
        DEFAULT_MODE
    } else {
        header.mode
    } & 0o7777;
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partly.0)?;
    io::copy(content, &mut file)?;
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    std::fs::rename(&partly.0, path)
}

/// A file that is removed unless it was renamed.
struct Partly(PathBuf);

impl Drop for Partly {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Reads a file, or makes an archive.
pub(crate) async fn download(
    request: DownloadRequest,
) -> Result<impl Stream<Item = Result<DownloadFrame, Status>> + Send + 'static, Status> {
    let path = PathBuf::from(&request.path);
    if !path.is_absolute() {
        return Err(Status::invalid_argument(format!(
            "the path `{}` must be absolute",
            request.path
        )));
    }
    let plain = |member: &&String| {
        let mut parts = Path::new(member).components();
        member.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if let Some(member) = request.members.iter().find(plain) {
        return Err(Status::invalid_argument(format!(
            "`{member}` does not lie below {}",
            request.path
        )));
    }
    let there = path.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let metadata = std::fs::metadata(&there)?;
        if request.tar {
            return Ok(None);
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        File::open(&there).map(Some)
    });
    let opened = opened
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| failed("read", &path, &error))?;
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut sink = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        let done = match opened {
            Some(mut file) => io::copy(&mut file, &mut sink).and_then(|_| sink.flush()),
            None => pack(&path, &request.members, &mut sink),
        };
        if let Err(error) = done {
            // The receiver is gone when the caller is.
            let _ = pieces.blocking_send(Err(failed("read", &path, &error)));
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Sends what is written to it.
struct Pieces(mpsc::Sender<Result<DownloadFrame, Status>>);

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = &data[..data.len().min(PIECE)];
        let frame = DownloadFrame {
            data: Bytes::copy_from_slice(piece),
        };
        self.0
            .blocking_send(Ok(frame))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(path: &Path, members: &[String], sink: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(sink);
    if members.is_empty() {
        add_children(&mut archive, path, Path::new(""))?;
    }
    for member in members {
        add(&mut archive, path, Path::new(member))?;
    }
    archive.into_inner()?.flush()
}

fn add_children<W: Write>(archive: &mut tar::Builder<W>, base: &Path, name: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(base.join(name))? {
        names.push(entry?.file_name());
    }
    names.sort();
    for child in names {
        add(archive, base, &name.join(child))?;
    }
    Ok(())
}

/// Adds what is there. Programs may go on while it is read: what vanishes is left out, and a file has the length that it
/// had at first. Sockets and the like cannot be packed.
fn add<W: Write>(archive: &mut tar::Builder<W>, base: &Path, name: &Path) -> io::Result<()> {
    let path = base.join(name);
    let Some(metadata) = there(std::fs::symlink_metadata(&path))? else {
        return Ok(());
    };
    let mut header = header(&metadata);
    if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, name.join(""), io::empty())?;
        there(add_children(archive, base, name)).map(drop)
    } else if metadata.is_symlink() {
        let Some(target) = there(std::fs::read_link(&path))? else {
            return Ok(());
        };
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, name, target)
    } else if metadata.is_file() {
        let Some(file) = there(File::open(&path))? else {
            return Ok(());
        };
        header.set_size(metadata.len());
        let content = file.chain(io::repeat(0)).take(metadata.len());
        archive.append_data(&mut header, name, content)
    } else {
        Ok(())
    }
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn header(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(metadata.permissions().mode() & 0o7777);
    header.set_mtime(metadata.mtime().max(0) as u64);
    header.set_size(0);
    header
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Status {
    let message = format!("{} cannot be {what}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("file {}", path.display())),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Status::resource_exhausted(message)
        }
        io::ErrorKind::Other => match error.get_ref().and_then(|inner| inner.downcast_ref::<Status>()) {
            // The caller's stream broke.
            Some(status) => status.clone(),
            None => Status::invalid_argument(message),
        },
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Status::invalid_argument(message)
        }
        _ => Status::failed_precondition(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_archive_holds_what_is_there_and_comes_back_the_same() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/c"), "text").unwrap();
        std::fs::write(from.path().join("d"), vec![7; 200_000]).unwrap();
        symlink("b/c", from.path().join("a/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
        let long = "n".repeat(200);
        std::fs::write(from.path().join(&long), "long").unwrap();

        let mut all = Vec::new();
        pack(from.path(), &[], &mut all).unwrap();
        unpack(&mut &all[..], to.path()).unwrap();
        assert_eq!(std::fs::read_to_string(to.path().join("a/link")).unwrap(), "text");
        assert!(std::fs::read_link(to.path().join("a/link")).is_ok());
        assert_eq!(std::fs::read(to.path().join("d")).unwrap(), vec![7; 200_000]);
        assert_eq!(std::fs::read_to_string(to.path().join(&long)).unwrap(), "long");
        assert!(!to.path().join("socket").exists());

        let mut some = Vec::new();
        pack(from.path(), &["d".into(), "absent".into()], &mut some).unwrap();
        let other = tempfile::tempdir().unwrap();
        unpack(&mut &some[..], other.path()).unwrap();
        let names: Vec<_> = std::fs::read_dir(other.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn nothing_is_unpacked_outside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        let name = &mut header.as_old_mut().name;
        name[..6].copy_from_slice(b"../out");
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        let refused = unpack(&mut &archive[..], &inside).unwrap_err();
        assert!(refused.to_string().contains("../out"), "{refused}");

        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "door", dir.path()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, "door/out", &b"x"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        assert!(unpack(&mut &archive[..], &inside).is_err());
        assert!(!dir.path().join("out").exists());
    }
}
