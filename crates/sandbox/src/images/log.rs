//! The log of a build: a file with a limit, whose last lines are at hand for an error.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the end that are kept in memory.
const TAIL: usize = 16 << 10;

/// The log of one build.
#[derive(Debug)]
pub struct BuildLog(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    left: u64,
    tail: Vec<u8>,
}

impl BuildLog {
    /// A new log at `path`, in place of an older one, that keeps `max_bytes`.
    pub fn create(path: &Path, max_bytes: u64) -> io::Result<Self> {
        Ok(Self(Mutex::new(Inner {
            file: File::create(path)?,
            left: max_bytes,
            tail: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a piece of output. What goes over the limit, or does not fit on the disk, is dropped, which the log says
    /// once; the end stays at hand in memory.
    pub fn write(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.tail.extend_from_slice(bytes);
        let over = inner.tail.len().saturating_sub(TAIL);
        inner.tail.drain(..over);
        if inner.left == 0 {
            return;
        }
        let fits = inner.left.min(bytes.len() as u64);
        inner.left -= fits;
        let mut written = inner.file.write_all(&bytes[..fits as usize]);
        if fits < bytes.len() as u64 {
            inner.left = 0;
            written = written.and_then(|()| {
                inner
                    .file
                    .write_all(b"\nthe log has reached its limit; what follows is not kept\n")
            });
        }
        if let Err(error) = written {
            inner.left = 0;
            tracing::warn!(%error, "the log of a build cannot be written on");
        }
    }

    /// Appends a line of the builder's own.
    pub fn say(&self, line: &str) {
        self.write(format!("== {line}\n").as_bytes());
    }

    /// The last lines, at most `lines` of them.
    pub fn last(&self, lines: usize) -> String {
        let inner = self.lock();
        let text = String::from_utf8_lossy(&inner.tail);
        let mut last: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .rev()
            .take(lines)
            .collect();
        last.reverse();
        last.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_said_once_and_the_end_stays_at_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = BuildLog::create(&path, 10).unwrap();
        for line in ["first\n", "second\n", "third\n"] {
            log.write(line.as_bytes());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("reached its limit").count(), 1);
        assert!(text.starts_with("first\nseco\n"), "{text}");
        assert_eq!(log.last(2), "second\nthird");
    }

    #[test]
    fn memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(&dir.path().join("log"), 1).unwrap();
        for _ in 0..100 {
            log.write(&[b'x'; 1000]);
        }
        assert_eq!(log.lock().tail.len(), TAIL);
    }
}
