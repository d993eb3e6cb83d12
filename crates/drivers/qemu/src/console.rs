//! What the kernel and the guest say on the machine's console, of which the end is kept.
//!
//! It is in files that are named by the number of bytes before them, so that a reader can go on where it stopped, also
//! after the oldest are gone. QEMU throws away what it has nobody to give to, so that a machine cannot fill the disk while
//! no server runs.

use ostler_sandbox::{ConsolePiece, connect_socket};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Most bytes in a file, of which there are two.
const FILE: u64 = 2 << 20;
/// Most bytes that a reader is given at a time.
const PIECE: u64 = 256 << 10;
/// Before the number in the name of a file.
const NAME: &str = "console.";

/// Connects to the console and writes what comes from there to files in `dir`, until the machine ends or the task is
/// aborted.
pub(crate) async fn follow(socket: PathBuf, dir: PathBuf) -> io::Result<()> {
    let stream = connect_socket(&socket).await?;
    copy(stream, &dir, FILE).await
}

async fn copy(mut stream: UnixStream, dir: &Path, most: u64) -> io::Result<()> {
    let mut start = files(dir).last().copied().unwrap_or_default();
    let mut file = open(dir, start)?;
    let mut length = file.metadata()?.len();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if length >= most {
            start += length;
            file = open(dir, start)?;
            length = 0;
            for old in files(dir).iter().rev().skip(2) {
                std::fs::remove_file(path(dir, *old))?;
            }
        }
        file.write_all(&buffer[..count])?;
        length += count as u64;
    }
}

/// A piece of what was said, from the byte `from` on; none of it when nothing more was said.
pub(crate) fn read(dir: &Path, from: u64) -> io::Result<ConsolePiece> {
    for start in files(dir) {
        let mut file = match File::open(path(dir, start)) {
            Ok(file) => file,
            // It has become the oldest, and gone, a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if start + file.metadata()?.len() <= from {
            continue;
        }
        let skipped = from.saturating_sub(start);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(PIECE).read_to_end(&mut bytes)?;
        return Ok(ConsolePiece {
            start: start + skipped,
            bytes,
        });
    }
    Ok(ConsolePiece {
        start: from,
        bytes: Vec::new(),
    })
}

/// The last bytes that were said, `most` of them.
pub(crate) fn tail(dir: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = files(dir).into_iter().rev().take(2);
    for start in last {
        let wanted = most.saturating_sub(bytes.len() as u64);
        let mut end = read_end(&path(dir, start), wanted).unwrap_or_default();
        end.append(&mut bytes);
        bytes = end;
    }
    bytes
}

fn read_end(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The numbers of the files that there are, the lowest first.
fn files(dir: &Path) -> Vec<u64> {
    let mut starts: Vec<u64> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(NAME)?.parse().ok())
        .collect();
    starts.sort_unstable();
    starts
}

fn path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{NAME}{start}"))
}

fn open(dir: &Path, start: u64) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path(dir, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn say(dir: &Path, text: String) {
        let (mut machine, server) = UnixStream::pair().unwrap();
        let write = async move { machine.write_all(text.as_bytes()).await.unwrap() };
        let (done, ()) = tokio::join!(copy(server, dir, 40_000), write);
        done.unwrap();
    }

    fn all(dir: &Path, mut from: u64) -> (u64, Vec<u8>) {
        let first = read(dir, from).unwrap().start;
        let mut bytes = Vec::new();
        loop {
            let piece = read(dir, from).unwrap();
            if piece.bytes.is_empty() {
                return (first, bytes);
            }
            bytes.extend(&piece.bytes);
            from = piece.start + piece.bytes.len() as u64;
        }
    }

    #[tokio::test]
    async fn the_end_is_kept_and_can_be_read_from_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!((all(dir, 7), tail(dir, 10)), ((7, Vec::new()), Vec::new()));
        let lines: Vec<String> = (0..20_000).map(|line| format!("line {line:06}\n")).collect();
        let text = lines.concat();
        let (one, two) = text.split_at(1000);
        say(dir, one.to_owned()).await;
        assert_eq!(all(dir, 0), (0, one.as_bytes().to_vec()));
        assert_eq!(all(dir, 990).1, one.as_bytes()[990..]);
        // A later server goes on.
        say(dir, two.to_owned()).await;
        let (start, kept) = all(dir, 5);
        assert_eq!(kept, text.as_bytes()[start as usize..]);
        assert!(
            (40_000..=2 * (40_000 + 16_384)).contains(&kept.len()),
            "{}",
            kept.len()
        );
        assert_eq!(files(dir).len(), 2);
        let end = text.len() as u64;
        assert_eq!(all(dir, end), (end, Vec::new()));
        assert_eq!(all(dir, end - 3), (end - 3, b"99\n".to_vec()));
        for most in [3, 30_000] {
            assert_eq!(tail(dir, most), text.as_bytes()[text.len() - most as usize..]);
        }
    }
}
