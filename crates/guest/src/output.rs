//! What a program writes, numbered, for any number of readers at any time.
//!
//! The newest is in memory. What does not fit goes to disk in batches, in files that have no name, so that nothing is
//! left of them whatever happens to this process. When the limit or the disk is reached, the oldest is dropped.

use crate::lock;
use bytes::{Buf, BufMut, Bytes};
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::{ExecEvent, Exited};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Bytes in memory before the older half goes to disk.
const MEMORY: u64 = 256 * 1024;
/// Kept if the caller does not say.
const DEFAULT_KEEP: u64 = 16 << 30;
/// Dropping takes away this part of what is kept.
const FILES: u64 = 8;
/// What an event takes beside its content.
const OVERHEAD: u64 = 64;

pub(crate) struct Output {
    log: Mutex<Log>,
    newest: watch::Sender<u64>,
}

struct Log {
    dir: PathBuf,
    keep: u64,
    /// The last event that is gone.
    dropped: u64,
    /// Older than what is in memory; the oldest first.
    disk: VecDeque<Segment>,
    memory: VecDeque<ExecEvent>,
    memory_bytes: u64,
    last_seq: u64,
    ended: bool,
}

struct Segment {
    file: File,
    bytes: u64,
    batches: Vec<Batch>,
}

struct Batch {
    last_seq: u64,
    offset: u64,
    len: usize,
}

/// What a reader gets.
pub(crate) enum Next {
    Event(ExecEvent),
    /// Nothing yet.
    Wait,
    /// There will be nothing more.
    End,
}

/// The place of one reader.
pub(crate) struct Cursor {
    seq: u64,
    /// Read from disk at once, to be given one by one.
    batch: VecDeque<ExecEvent>,
}

impl Cursor {
    /// At an event; 0 means the first.
    pub(crate) fn at(seq: u64) -> Self {
        Self {
            seq: seq.max(1),
            batch: VecDeque::new(),
        }
    }
}

impl Output {
    /// An empty one that keeps `keep` bytes (0: 16 GiB), on disk in `dir`.
    pub(crate) fn new(dir: &Path, keep: u64) -> Self {
        Self {
            log: Mutex::new(Log {
                dir: dir.to_owned(),
                keep: if keep == 0 { DEFAULT_KEEP } else { keep },
                dropped: 0,
                disk: VecDeque::new(),
                memory: VecDeque::new(),
                memory_bytes: 0,
                last_seq: 0,
                ended: false,
            }),
            newest: watch::Sender::new(0),
        }
    }

    /// Adds what was written. Nothing is added after the end.
    pub(crate) fn push(&self, event: Event) {
        let newest = lock(&self.log).push(event);
        self.newest.send_replace(newest);
    }

    /// Ends it, once.
    pub(crate) fn end(&self, exited: Exited) {
        let mut log = lock(&self.log);
        let newest = log.push(Event::Exited(exited));
        log.ended = true;
        self.newest.send_replace(newest);
    }

    pub(crate) fn ended(&self) -> bool {
        lock(&self.log).ended
    }

    /// How it ended, once it has.
    pub(crate) fn exited(&self) -> Option<Exited> {
        match &lock(&self.log).memory.back()?.event {
            Some(Event::Exited(exited)) => Some(exited.clone()),
            _ => None,
        }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        lock(&self.log).last_seq
    }

    /// Changes with each event.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The event at the cursor, which moves on.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Next {
        if let Some(event) = cursor.batch.pop_front() {
            cursor.seq = event.seq + 1;
            return Next::Event(event);
        }
        let mut log = lock(&self.log);
        let next = log.next(cursor);
        if let Next::Event(event) = &next {
            cursor.seq = event.seq + 1;
        }
        next
    }
}

impl Log {
    fn push(&mut self, event: Event) -> u64 {
        if self.ended {
            return self.last_seq;
        }
        self.last_seq += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.memory_bytes += size(&event);
        self.memory.push_back(ExecEvent {
            seq: self.last_seq,
            time_us: now.as_micros() as i64,
            event: Some(event),
        });
        let limit = MEMORY.min(self.keep / 4);
        if self.memory_bytes > limit {
            self.spill(limit / 2);
        }
        self.last_seq
    }

    /// Moves the oldest to disk until no more than `left` bytes are in memory; the newest event stays in any case.
    fn spill(&mut self, left: u64) {
        let mut content = Vec::new();
        let mut last_seq = 0;
        while self.memory_bytes > left && self.memory.len() > 1 {
            let Some(event) = self.memory.pop_front() else {
                break;
            };
            self.memory_bytes -= event.event.as_ref().map_or(0, size);
            last_seq = event.seq;
            encode(&event, &mut content);
        }
        if content.is_empty() {
            return;
        }
        while let Err(_full) = self.write(&content, last_seq) {
            if self.disk.is_empty() {
                self.dropped = last_seq;
                return;
            }
            self.drop_oldest();
        }
        while self.disk.len() > 1
            && self.disk.iter().map(|segment| segment.bytes).sum::<u64>() + self.memory_bytes > self.keep
        {
            self.drop_oldest();
        }
    }

    fn write(&mut self, content: &[u8], last_seq: u64) -> io::Result<()> {
        let full = |segment: &Segment| segment.bytes + content.len() as u64 > self.keep / FILES;
        if self.disk.back().is_none_or(full) {
            self.disk.push_back(Segment {
                file: nameless(&self.dir)?,
                bytes: 0,
                batches: Vec::new(),
            });
        }
        let Some(segment) = self.disk.back_mut() else {
            return Ok(());
        };
        segment.file.write_all_at(content, segment.bytes)?;
        segment.batches.push(Batch {
            last_seq,
            offset: segment.bytes,
            len: content.len(),
        });
        segment.bytes += content.len() as u64;
        Ok(())
    }

    fn drop_oldest(&mut self) {
        if let Some(segment) = self.disk.pop_front()
            && let Some(batch) = segment.batches.last()
        {
            self.dropped = batch.last_seq;
        }
    }

    fn next(&mut self, cursor: &mut Cursor) -> Next {
        if cursor.seq <= self.dropped {
            return Next::Event(self.gone());
        }
        let in_memory = self.last_seq + 1 - self.memory.len() as u64;
        if cursor.seq >= in_memory {
            return match self.memory.get((cursor.seq - in_memory) as usize) {
                Some(event) => Next::Event(event.clone()),
                None if self.ended => Next::End,
                None => Next::Wait,
            };
        }
        if let Ok(batch) = self.read(cursor.seq) {
            cursor.batch = batch;
        } else {
            // What cannot be read is as good as gone.
            self.disk.clear();
            self.dropped = in_memory - 1;
        }
        match cursor.batch.pop_front() {
            Some(event) => Next::Event(event),
            None => Next::Event(self.gone()),
        }
    }

    fn gone(&self) -> ExecEvent {
        ExecEvent {
            seq: self.dropped,
            time_us: self.memory.front().map_or(0, |event| event.time_us),
            event: Some(Event::Dropped(self.dropped)),
        }
    }

    /// The events from one on, to the end of its batch.
    fn read(&self, seq: u64) -> io::Result<VecDeque<ExecEvent>> {
        let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let holds = |segment: &&Segment| segment.batches.last().is_some_and(|batch| batch.last_seq >= seq);
        let segment = self.disk.iter().find(holds).ok_or_else(missing)?;
        let index = segment.batches.partition_point(|batch| batch.last_seq < seq);
        let batch = segment.batches.get(index).ok_or_else(missing)?;
        let mut content = vec![0; batch.len];
        segment.file.read_exact_at(&mut content, batch.offset)?;
        let mut content = Bytes::from(content);
        let mut events = VecDeque::new();
        while let Some(event) = decode(&mut content) {
            events.push_back(event);
        }
        // Batches have no gaps, so the first number follows from the last.
        for (event, seq) in events.iter_mut().rev().zip((0..=batch.last_seq).rev()) {
            event.seq = seq;
        }
        events.retain(|event| event.seq >= seq);
        Ok(events)
    }
}

fn size(event: &Event) -> u64 {
    match event {
        Event::Stdout(data) | Event::Stderr(data) => data.len() as u64 + OVERHEAD,
        Event::Exited(_) | Event::Dropped(_) => OVERHEAD,
    }
}

/// Kind, time, length, content. Only output goes to disk: the end is the newest event and stays in memory.
fn encode(event: &ExecEvent, into: &mut Vec<u8>) {
    let (kind, data) = match &event.event {
        Some(Event::Stdout(data)) => (1, &data[..]),
        Some(Event::Stderr(data)) => (2, &data[..]),
        _ => (0, &[][..]),
    };
    into.put_u8(kind);
    into.put_i64(event.time_us);
    into.put_u32(data.len() as u32);
    into.put_slice(data);
}

fn decode(from: &mut Bytes) -> Option<ExecEvent> {
    let kind = from.try_get_u8().ok()?;
    let time_us = from.try_get_i64().ok()?;
    let len = from.try_get_u32().ok()? as usize;
    (len <= from.len()).then_some(())?;
    let data = from.split_to(len);
    Some(ExecEvent {
        seq: 0,
        time_us,
        event: match kind {
            1 => Some(Event::Stdout(data)),
            2 => Some(Event::Stderr(data)),
            _ => None,
        },
    })
}

/// A file that is gone when it is closed.
fn nameless(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(format!(".output-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: u64) -> Bytes {
        Bytes::from(format!("line {n} {}", "x".repeat((n % 700) as usize)))
    }

    fn all(output: &Output, from: u64) -> (Vec<ExecEvent>, bool) {
        let mut cursor = Cursor::at(from);
        let mut events = Vec::new();
        loop {
            match output.next(&mut cursor) {
                Next::Event(event) => events.push(event),
                Next::Wait => return (events, false),
                Next::End => return (events, true),
            }
        }
    }

    fn filled(dir: &Path, keep: u64, count: u64) -> Output {
        let output = Output::new(dir, keep);
        for n in 1..=count {
            let data = text(n);
            output.push(if n % 3 == 0 {
                Event::Stderr(data)
            } else {
                Event::Stdout(data)
            });
        }
        output
    }

    #[test]
    fn everything_can_be_read_from_anywhere_while_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let count = 5000;
        let output = filled(dir.path(), 0, count);
        assert!(lock(&output.log).disk.len() == 1, "not enough for the disk");
        output.end(Exited::default());
        output.push(Event::Stdout(text(1)));
        for from in [0, 1, 2, 777, 2500, count - 1, count, count + 1, count + 2] {
            let (events, ended) = all(&output, from);
            assert!(ended);
            let mut seq = from.max(1);
            for event in events {
                assert_eq!(event.seq, seq);
                match event.event {
                    Some(Event::Stdout(data)) => assert!(data == text(seq) && seq % 3 != 0),
                    Some(Event::Stderr(data)) => assert!(data == text(seq) && seq % 3 == 0),
                    Some(Event::Exited(_)) => assert_eq!(seq, count + 1),
                    other => panic!("{other:?}"),
                }
                seq += 1;
            }
            assert_eq!(seq, (count + 2).max(from));
        }
        // The files have no names.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_dropped_and_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let keep = 100_000;
        let output = filled(dir.path(), keep, 2000);
        let (events, ended) = all(&output, 1);
        assert!(!ended);
        let Some(Event::Dropped(up_to)) = events[0].event else {
            panic!("{:?}", events[0]);
        };
        assert_eq!(events[0].seq, up_to);
        let left: u64 = events[1..]
            .iter()
            .map(|event| event.event.as_ref().map_or(0, size))
            .sum();
        assert!(left <= keep + keep / 4 && left >= keep / 2, "{left} of {keep}");
        for (event, seq) in events[1..].iter().zip(up_to + 1..) {
            assert_eq!(event.seq, seq);
        }
        assert_eq!(events.last().unwrap().seq, 2000);
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_the_oldest_only() {
        let dir = tempfile::tempdir().unwrap();
        let output = filled(&dir.path().join("absent"), 0, 5000);
        let (events, _) = all(&output, 1);
        assert!(matches!(events[0].event, Some(Event::Dropped(_))));
        assert_eq!(events.last().unwrap().seq, 5000);
        assert!(events.len() > 50, "{}", events.len());
    }

    #[test]
    fn a_reader_that_is_overtaken_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let output = filled(dir.path(), 50_000, 10);
        let mut cursor = Cursor::at(3);
        assert!(matches!(output.next(&mut cursor), Next::Event(event) if event.seq == 3));
        for n in 11..=3000 {
            output.push(Event::Stdout(text(n)));
        }
        let Next::Event(event) = output.next(&mut cursor) else {
            panic!("nothing to read");
        };
        assert!(matches!(event.event, Some(Event::Dropped(up_to)) if up_to == event.seq && up_to > 10));
    }
}
