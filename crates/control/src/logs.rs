//! Run logs: one append-only file per run.
//!
//! A record is `length u32 | stream u8 | attempt u32 | seq u64 | exec_seq u64 | time i64 | bytes`, little-endian. A
//! record that a killed server left unfinished at the end is cut off when the file is opened for writing and not seen
//! by readers. `seq` counts the records of a run from 1 without gaps, over all its attempts; `exec_seq` is the guest's
//! own number, from which a restarted server goes on reading.

use ostler_domain::{RunId, Timestamp};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const HEADER: usize = 4 + 1 + 4 + 8 + 8 + 8;
/// Longest record that is believed; the guest's chunks are at most 64 KiB.
const MAX_RECORD: usize = 1 << 20;
/// Records of one read are cut after about this many bytes.
const BATCH: usize = 1 << 20;

/// Where a piece of a log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Ostler itself.
    Ostler,
}

impl LogStream {
    /// Its name in the interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Ostler => "ostler",
        }
    }
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Number from 1, without gaps.
    pub seq: u64,
    /// The guest's number; 0 for what Ostler says.
    pub exec_seq: u64,
    /// Attempt of the run.
    pub attempt: u32,
    /// When, by the sandbox's clock.
    pub at: Timestamp,
    /// Where from.
    pub stream: LogStream,
    /// Exact bytes.
    pub bytes: Vec<u8>,
}

/// All logs of a data directory.
#[derive(Debug, Clone)]
pub struct LogStore {
    dir: PathBuf,
    max_bytes: u64,
    live: Arc<Mutex<HashMap<RunId, watch::Sender<u64>>>>,
}

impl LogStore {
    /// Logs in `dir`, which is made; the output of one run is kept up to `max_bytes`.
    pub fn open(dir: PathBuf, max_bytes: u64) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        Ok(Self {
            dir,
            max_bytes,
            live: Arc::default(),
        })
    }

    /// Where they are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("{run}.log"))
    }

    /// Opens a run's log to append; there is none before something is written. One writer at a time: the server that
    /// executes the run.
    pub fn writer(&self, run: RunId) -> io::Result<LogWriter> {
        let mut writer = LogWriter {
            store: self.clone(),
            run,
            file: None,
            bytes: 0,
            last: 0,
            exec: (0, 0),
            full: None,
            unsynced: false,
        };
        match OpenOptions::new().read(true).append(true).open(self.path(run)) {
            Ok(file) => writer.resume(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (sender, _) = watch::channel(writer.last);
        self.lock().insert(run, sender);
        Ok(writer)
    }

    /// Reads from the beginning; `None` as long as nothing was written.
    pub fn reader(&self, run: RunId) -> io::Result<Option<LogReader>> {
        match File::open(self.path(run)) {
            Ok(file) => Ok(Some(LogReader::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells when the log grows, as long as somebody writes it; `None` when nobody does.
    pub fn watch(&self, run: RunId) -> Option<watch::Receiver<u64>> {
        self.lock().get(&run).map(watch::Sender::subscribe)
    }

    /// Removes a log. Nothing there is fine.
    pub fn remove(&self, run: RunId) -> io::Result<()> {
        match std::fs::remove_file(self.path(run)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, watch::Sender<u64>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends to a run's log.
#[derive(Debug)]
pub struct LogWriter {
    store: LogStore,
    run: RunId,
    /// Made by the first record.
    file: Option<File>,
    bytes: u64,
    last: u64,
    exec: (u32, u64),
    full: Option<String>,
    /// Whether something was written that may not be on the disk yet.
    unsynced: bool,
}

impl LogWriter {
    /// Goes on behind the last whole record of a log.
    fn resume(&mut self, mut file: File) -> io::Result<()> {
        let mut reader = LogReader::new(file.try_clone()?);
        while let Some(record) = reader.next_header()? {
            self.last = record.seq;
            if record.stream != LogStream::Ostler {
                self.exec = (record.attempt, record.exec_seq);
            }
        }
        self.bytes = reader.position;
        file.set_len(self.bytes)?;
        file.seek(SeekFrom::End(0))?;
        self.file = Some(file);
        Ok(())
    }

    /// Appends a piece. What goes over the limit, or does not fit on the disk, is dropped, which the log itself says
    /// once; the program goes on.
    pub fn append(&mut self, attempt: u32, exec_seq: u64, at: Timestamp, stream: LogStream, bytes: &[u8]) {
        self.exec = (attempt, exec_seq);
        if self.full.is_some() {
            return;
        }
        if self.bytes + bytes.len() as u64 > self.store.max_bytes {
            let said = format!(
                "the log has reached its limit of {} bytes; what follows is not kept\n",
                self.store.max_bytes
            );
            self.full = Some(said.trim_end().to_owned());
            let _ = self.write(attempt, 0, at, LogStream::Ostler, said.as_bytes());
            return;
        }
        // A guest that is not ours may send pieces that no reader would believe.
        let (first, rest) = bytes.split_at(bytes.len().min(MAX_RECORD));
        for part in std::iter::once(first).chain(rest.chunks(MAX_RECORD)) {
            if let Err(error) = self.write(attempt, exec_seq, at, stream, part) {
                tracing::error!(%error, run.id = %self.run, "a run's log cannot be written");
                self.full = Some(format!("the log could not be written on: {error}"));
                return;
            }
        }
    }

    /// Notes that output up to this number was not kept, so that it is not asked for again.
    pub fn skip(&mut self, attempt: u32, exec_seq: u64) {
        self.exec = (attempt, exec_seq);
    }

    /// Appends a sentence of Ostler's own, cut to what a record can hold.
    pub fn say(&mut self, attempt: u32, at: Timestamp, text: &str) {
        let text = &text[..text.floor_char_boundary(MAX_RECORD - 1)];
        if self.full.is_none()
            && let Err(error) = self.write(attempt, 0, at, LogStream::Ostler, format!("{text}\n").as_bytes())
        {
            tracing::error!(%error, run.id = %self.run, "a run's log cannot be written");
        }
    }

    fn write(
        &mut self,
        attempt: u32,
        exec_seq: u64,
        at: Timestamp,
        stream: LogStream,
        bytes: &[u8],
    ) -> io::Result<()> {
        let seq = self.last + 1;
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.extend((bytes.len() as u32).to_le_bytes());
        record.push(stream as u8);
        record.extend(attempt.to_le_bytes());
        record.extend(seq.to_le_bytes());
        record.extend(exec_seq.to_le_bytes());
        record.extend(at.0.to_le_bytes());
        record.extend(bytes);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.store.path(self.run);
                none.insert(OpenOptions::new().append(true).create(true).open(path)?)
            }
        };
        if let Err(error) = file.write_all(&record) {
            // A part of a record must not stand in the way of the next one.
            file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += record.len() as u64;
        self.unsynced = true;
        self.last = seq;
        if let Some(sender) = self.store.lock().get(&self.run) {
            sender.send_replace(seq);
        }
        Ok(())
    }

    /// The number of the last record.
    pub fn last_seq(&self) -> u64 {
        self.last
    }

    /// The guest's number of the last piece of that attempt; 0 when there is none.
    pub fn last_exec_seq(&self, attempt: u32) -> u64 {
        if self.exec.0 == attempt { self.exec.1 } else { 0 }
    }

    /// Why the log is not whole, if it is not.
    pub fn incomplete(&self) -> Option<&str> {
        self.full.as_deref()
    }

    /// Makes what was written durable.
    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced)
            && let Some(file) = &self.file
        {
            file.sync_data()?;
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.store.lock().remove(&self.run);
    }
}

/// Reads a run's log in order.
#[derive(Debug)]
pub struct LogReader {
    file: File,
    position: u64,
}

impl LogReader {
    const fn new(file: File) -> Self {
        Self { file, position: 0 }
    }

    /// The next records, about a megabyte of them; empty when there is nothing more at present.
    pub fn next_batch(&mut self) -> io::Result<Vec<LogRecord>> {
        let mut batch = Vec::new();
        let mut size = 0;
        while size < BATCH {
            let start = self.position;
            let Some(mut record) = self.next_header()? else {
                break;
            };
            let mut bytes = vec![0; (self.position - start) as usize - HEADER];
            self.file.seek(SeekFrom::Start(start + HEADER as u64))?;
            self.file.read_exact(&mut bytes)?;
            size += bytes.len() + HEADER;
            record.bytes = bytes;
            batch.push(record);
        }
        Ok(batch)
    }

    /// The next record without its bytes, moving past it; `None` at the end or before an unfinished record.
    fn next_header(&mut self) -> io::Result<Option<LogRecord>> {
        let length = self.file.metadata()?.len();
        if self.position + HEADER as u64 > length {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        self.file.seek(SeekFrom::Start(self.position))?;
        self.file.read_exact(&mut header)?;
        let mut at = 0;
        let mut take = |n: usize| {
            let part = &header[at..at + n];
            at += n;
            let mut value = [0; 8];
            value[..n].copy_from_slice(part);
            u64::from_le_bytes(value)
        };
        let bytes = take(4) as usize;
        let stream = match take(1) {
            0 => LogStream::Stdout,
            1 => LogStream::Stderr,
            _ => LogStream::Ostler,
        };
        let attempt = take(4) as u32;
        let (seq, exec_seq, time) = (take(8), take(8), take(8) as i64);
        let end = self.position + (HEADER + bytes) as u64;
        if bytes > MAX_RECORD || end > length {
            return Ok(None);
        }
        self.position = end;
        Ok(Some(LogRecord {
            seq,
            exec_seq,
            attempt,
            at: Timestamp(time),
            stream,
            bytes: Vec::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(limit: u64) -> (tempfile::TempDir, LogStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(dir.path().join("logs"), limit).unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_written_is_read_in_order() {
        let (_dir, store) = store(1 << 20);
        let run = RunId::new();
        assert!(store.reader(run).unwrap().is_none());
        let mut writer = store.writer(run).unwrap();
        writer.append(1, 1, Timestamp(5), LogStream::Stdout, b"a\xff");
        writer.append(1, 2, Timestamp(6), LogStream::Stderr, b"");
        writer.say(1, Timestamp(7), "said");
        let records = store.reader(run).unwrap().unwrap().next_batch().unwrap();
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.seq, r.exec_seq, r.at.0, r.stream, r.bytes.as_slice()))
            .collect();
        assert_eq!(
            seen,
            [
                (1, 1, 5, LogStream::Stdout, &b"a\xff"[..]),
                (2, 2, 6, LogStream::Stderr, b""),
                (3, 0, 7, LogStream::Ostler, b"said\n"),
            ]
        );
    }

    #[test]
    fn an_unfinished_record_is_cut_off_and_the_count_goes_on() {
        let (_dir, store) = store(1 << 20);
        let run = RunId::new();
        let mut writer = store.writer(run).unwrap();
        writer.append(2, 9, Timestamp(1), LogStream::Stdout, b"whole");
        drop(writer);
        let whole = std::fs::read(store.path(run)).unwrap();
        for cut in 1..whole.len() {
            let mut torn = whole.clone();
            torn.extend(&whole[..cut]);
            std::fs::write(store.path(run), torn).unwrap();
            assert_eq!(store.reader(run).unwrap().unwrap().next_batch().unwrap().len(), 1);
            let mut writer = store.writer(run).unwrap();
            assert_eq!(
                (
                    writer.last_seq(),
                    writer.last_exec_seq(2),
                    writer.last_exec_seq(3)
                ),
                (1, 9, 0)
            );
            writer.say(2, Timestamp(1), "x");
            drop(writer);
            assert_eq!(store.reader(run).unwrap().unwrap().next_batch().unwrap().len(), 2);
        }
    }

    #[test]
    fn the_limit_is_said_once_and_kept() {
        let (_dir, store) = store(100);
        let run = RunId::new();
        let mut writer = store.writer(run).unwrap();
        for seq in 1..=100 {
            writer.append(1, seq, Timestamp(1), LogStream::Stdout, &[b'x'; 50]);
        }
        assert!(writer.incomplete().unwrap().contains("limit of 100 bytes"));
        assert_eq!(writer.last_exec_seq(1), 100, "a restart must not read all again");
        let records = store.reader(run).unwrap().unwrap().next_batch().unwrap();
        assert_eq!(
            records.iter().filter(|r| r.stream == LogStream::Ostler).count(),
            1
        );
    }

    #[test]
    fn a_hostile_guests_huge_piece_does_not_hide_what_follows() {
        let (_dir, store) = store(16 << 20);
        let run = RunId::new();
        let mut writer = store.writer(run).unwrap();
        writer.append(1, 1, Timestamp(1), LogStream::Stdout, &vec![b'x'; 3 << 20]);
        writer.append(1, 2, Timestamp(1), LogStream::Stdout, b"evidence");
        writer.say(1, Timestamp(1), &"y".repeat(3 << 20));
        writer.append(1, 3, Timestamp(1), LogStream::Stdout, b"last");
        drop(writer);
        assert_eq!(store.writer(run).unwrap().last_exec_seq(1), 3);
        let mut reader = store.reader(run).unwrap().unwrap();
        let mut all = Vec::new();
        loop {
            let batch = reader.next_batch().unwrap();
            if batch.is_empty() {
                break;
            }
            all.extend(batch.into_iter().flat_map(|record| record.bytes));
        }
        let text = String::from_utf8(all).unwrap();
        assert!(
            text.contains("evidence") && text.ends_with("last"),
            "{}",
            text.len()
        );
    }

    #[test]
    fn a_watcher_is_told_of_growth_and_of_the_end() {
        let (_dir, store) = store(1 << 20);
        let run = RunId::new();
        assert!(store.watch(run).is_none());
        let mut writer = store.writer(run).unwrap();
        let mut watch = store.watch(run).unwrap();
        writer.say(1, Timestamp(1), "x");
        assert_eq!(*watch.borrow_and_update(), 1);
        drop(writer);
        assert!(watch.has_changed().is_err());
    }
}
