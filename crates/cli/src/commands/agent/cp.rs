//! `ostler agent cp`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use bytes::Bytes;
use ostler_client::{ClientError, Download};
use ostler_contracts::ErrorCode;
use ostler_domain::SandboxId;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const PIECE: usize = 64 * 1024;
/// Pieces on their way.
const PIECES: usize = 8;

/// What is copied, and to where. One of the two is AGENT:PATH.
#[derive(Debug, clap::Args)]
pub struct Cp {
    /// A file or directory: PATH, or AGENT:PATH with a path that is absolute or below the workspace.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// What the copy is called, or with a `/` at the end the directory in which it keeps its name.
    #[arg(value_name = "TARGET")]
    target: String,
}

/// `AGENT:PATH`; a path with a `/` before its first colon is one of this machine.
fn remote(text: &str) -> Option<(&str, &str)> {
    text.split_once(':')
        .filter(|(agent, _)| !agent.is_empty() && !agent.contains('/') && !agent.starts_with('.'))
}

impl Cp {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let moved = Moved::new(session);
        match (remote(&self.source), remote(&self.target)) {
            (None, Some((agent, path))) => {
                let id = session.agent_id(agent).await?;
                upload(session, id, Path::new(&self.source), path, &moved).await?;
            }
            (Some((agent, path)), None) => {
                let id = session.agent_id(agent).await?;
                download(session, id, path, Path::new(&self.target), &moved).await?;
            }
            _ => {
                let what = "one of SOURCE and TARGET must be AGENT:PATH, the other a path of this machine";
                return Err(CliError::Usage(what.to_owned()));
            }
        }
        let bytes = moved.end();
        let what = serde_json::json!({ "bytes": bytes, "source": self.source, "target": self.target });
        if session.out.json {
            session.out.show(&what, String::new)?;
        }
        Ok(crate::exit::Exit::OK)
    }
}

/// Counts what is copied, and shows it on a terminal.
struct Moved {
    bytes: Arc<AtomicU64>,
    shown: Option<tokio::task::JoinHandle<()>>,
}

impl Moved {
    fn new(session: &Session) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let (out, count) = (session.out, Arc::clone(&bytes));
        let shown = io::stderr().is_terminal().then(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let kib = count.load(Ordering::Relaxed) / 1024;
                    out.error_bytes(format!("\r{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024).as_bytes());
                }
            })
        });
        Self { bytes, shown }
    }

    fn end(&self) -> u64 {
        if let Some(shown) = &self.shown {
            shown.abort();
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Some(shown) = &self.shown {
            shown.abort();
        }
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::Read {
        what: path.display().to_string(),
        source,
    }
}

fn name_of(path: &Path) -> Result<String> {
    // `.` and `..` have names as well, elsewhere.
    let whole = path.canonicalize().map_err(unreadable(path))?;
    let name = whole.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| CliError::Usage(format!("{} has no name; give the copy one", path.display())))
}

async fn upload(session: &Session, id: SandboxId, from: &Path, to: &str, moved: &Moved) -> Result<()> {
    let metadata = std::fs::metadata(from).map_err(unreadable(from))?;
    let path = if to.is_empty() || to.ends_with('/') {
        format!("{to}{}", name_of(from)?)
    } else {
        to.to_owned()
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    let (source, count) = (from.to_owned(), Arc::clone(&moved.bytes));
    let tar = metadata.is_dir();
    let mode = (!tar).then_some(metadata.mode() & 0o777);
    let reading = tokio::task::spawn_blocking(move || {
        let mut sink = Pieces {
            pieces: pieces.clone(),
            count,
        };
        let done = if tar {
            pack(&source, &mut sink)
        } else {
            std::fs::File::open(&source).and_then(|mut file| io::copy(&mut file, &mut sink).map(drop))
        };
        if let Err(error) = &done {
            // The upload then breaks off, and nothing is put in place.
            let _ = pieces.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        done
    });
    let sent = session
        .client
        .upload_to_agent(id, &path, tar, mode, ReceiverStream::new(receiver))
        .await;
    // What could not be read here is the reason, and not what the server says of it.
    match reading.await {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unreadable(from)(error)),
        _ => {}
    }
    sent?;
    Ok(())
}

fn pack(directory: &Path, sink: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE, sink));
    archive.follow_symlinks(false);
    archive.append_dir_all("", directory)?;
    archive.into_inner()?.flush()
}

/// Sends what is written to it.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    count: Arc<AtomicU64>,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&data[..data.len().min(PIECE)]);
        let n = piece.len();
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn download(session: &Session, id: SandboxId, from: &str, to: &Path, moved: &Moved) -> Result<()> {
    let name = from.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let into = to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/');
    if into && matches!(name, "" | "." | "..") {
        return Err(CliError::Usage(format!("`{from}` has no name; give the copy one")));
    }
    let to: PathBuf = if into { to.join(name) } else { to.to_owned() };
    let from = if from.is_empty() { "." } else { from };
    let (file, tar) = match session.client.download_from_agent(id, from, false).await {
        Ok(file) => (file, false),
        Err(refused) if refused.code() == Some(ErrorCode::Unprocessable) => {
            // Perhaps because it is a directory; what else it is was said first.
            match session.client.download_from_agent(id, from, true).await {
                Ok(file) => (file, true),
                Err(_) => return Err(refused.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    let target = to.clone();
    let count = Arc::clone(&moved.bytes);
    let writing = tokio::task::spawn_blocking(move || {
        let mut content = Content {
            pieces: receiver,
            rest: Bytes::new(),
            count,
        };
        if tar {
            unpack(&mut content, &target)
        } else {
            write(&mut content, &target)
        }
    });
    let received = receive(file, pieces).await;
    let written = writing.await.map_err(|error| CliError::Failed(error.to_string()))?;
    received?;
    written.map_err(|error| CliError::Failed(format!("cannot write {}: {error}", to.display())))
}

/// Passes on what comes; the end of the channel without the empty piece is a transfer that broke off.
async fn receive(mut file: Download, pieces: mpsc::Sender<Bytes>) -> std::result::Result<(), ClientError> {
    while let Some(piece) = file.next().await? {
        if !piece.is_empty() && pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
    let _ = pieces.send(Bytes::new()).await;
    Ok(())
}

/// What is downloaded, to be read.
struct Content {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
    count: Arc<AtomicU64>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) if piece.is_empty() => return Ok(0),
                Some(piece) => self.rest = piece,
                None => return Err(io::Error::other("the transfer broke off")),
            }
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Whole or not at all.
fn write(content: &mut impl Read, to: &Path) -> io::Result<()> {
    let mut part = to.as_os_str().to_owned();
    part.push(format!(".part{}", std::process::id()));
    let part = PathBuf::from(part);
    let copied = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| {
            io::copy(content, &mut file)?;
            let mode = std::fs::metadata(to).map_or(0o644, |old| old.mode() & 0o777);
            file.set_permissions(std::fs::Permissions::from_mode(mode))
        })
        .and_then(|()| std::fs::rename(&part, to));
    if copied.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    copied
}

/// Below a directory and nowhere else, whatever the archive says.
fn unpack(content: &mut Content, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let mut archive = tar::Archive::new(&mut *content);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.unpack_in(to)? {
            let name = entry.path()?.display().to_string();
            return Err(io::Error::other(format!("its entry `{name}` lies outside")));
        }
    }
    // To its end, so that one that broke off is noticed.
    io::copy(content, &mut io::sink()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_from_paths() {
        assert_eq!(remote("sbx_1:/a/b"), Some(("sbx_1", "/a/b")));
        assert_eq!(remote("1234:a:b"), Some(("1234", "a:b")));
        assert_eq!(remote("1234:"), Some(("1234", "")));
        for local in ["a", "/a:b", "./a:b", "../x:y", ":a", "dir/a:b"] {
            assert_eq!(remote(local), None, "{local}");
        }
    }

    #[test]
    fn what_broke_off_is_not_put_in_place() {
        let dir = std::env::temp_dir().join(format!("ostler-cp-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let to = dir.join("x");
        for (whole, wanted) in [(false, None), (true, Some("half"))] {
            let (pieces, receiver) = mpsc::channel(4);
            pieces.try_send(Bytes::from_static(b"half")).unwrap();
            if whole {
                pieces.try_send(Bytes::new()).unwrap();
            }
            drop(pieces);
            let mut content = Content {
                pieces: receiver,
                rest: Bytes::new(),
                count: Arc::default(),
            };
            assert_eq!(write(&mut content, &to).is_ok(), whole);
            assert_eq!(std::fs::read_to_string(&to).ok().as_deref(), wanted);
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
