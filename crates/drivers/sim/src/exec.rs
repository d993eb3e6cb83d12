//! One started program and its events.

use crate::control::lock;
use bytes::Bytes;
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::{ExecEvent, ExecInfo, Exited, StartRequest};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// Output kept where the caller names no amount, bytes. Memory holds it all, so it is less than a real guest keeps.
const KEEP_BYTES: u64 = 64 << 20;

pub(crate) struct Exec {
    pub(crate) pid: i32,
    pub(crate) terminal: bool,
    argv: Vec<String>,
    started_us: i64,
    keep_bytes: u64,
    log: Mutex<Log>,
    /// Sequence number of the newest event; changes wake readers.
    newest: watch::Sender<u64>,
    pub(crate) stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    /// Last signal sent; 0 for none.
    pub(crate) signal: watch::Sender<i32>,
}

#[derive(Default)]
struct Log {
    /// Without gaps; the first has sequence number `dropped + 1`.
    events: VecDeque<ExecEvent>,
    dropped: u64,
    bytes: u64,
    ended: bool,
}

/// What a reader finds next.
pub(crate) enum Next {
    Event(ExecEvent),
    Wait,
    End,
}

impl Exec {
    pub(crate) fn new(pid: i32, request: &StartRequest, stdin: Option<mpsc::Sender<Bytes>>) -> Self {
        Self {
            pid,
            terminal: request.terminal.is_some(),
            argv: request.argv.clone(),
            started_us: now_us(),
            keep_bytes: match request.keep_bytes {
                0 => KEEP_BYTES,
                keep => keep,
            },
            log: Mutex::default(),
            newest: watch::Sender::new(0),
            stdin: Mutex::new(stdin),
            signal: watch::Sender::new(0),
        }
    }

    /// Appends output; after the end it is lost, as a real program could not have written it.
    pub(crate) fn write(&self, event: Event) {
        let event = match event {
            Event::Stderr(data) if self.terminal => Event::Stdout(data),
            other => other,
        };
        let mut log = lock(&self.log);
        if !log.ended {
            self.push(&mut log, event);
        }
    }

    pub(crate) fn end(&self, exited: Exited) {
        let mut log = lock(&self.log);
        if !log.ended {
            self.push(&mut log, Event::Exited(exited));
            log.ended = true;
        }
    }

    fn push(&self, log: &mut Log, event: Event) {
        let seq = log.dropped + log.events.len() as u64 + 1;
        log.bytes += size(&event);
        log.events.push_back(ExecEvent {
            seq,
            time_us: now_us(),
            event: Some(event),
        });
        while log.bytes > self.keep_bytes && log.events.len() > 1 {
            if let Some(old) = log.events.pop_front() {
                log.bytes -= old.event.as_ref().map_or(0, size);
                log.dropped = old.seq;
            }
        }
        self.newest.send_replace(seq);
    }

    pub(crate) fn next(&self, seq: u64) -> Next {
        let log = lock(&self.log);
        if seq <= log.dropped {
            return Next::Event(ExecEvent {
                seq: log.dropped,
                time_us: log.events.front().map_or(0, |e| e.time_us),
                event: Some(Event::Dropped(log.dropped)),
            });
        }
        match log.events.get((seq - log.dropped - 1) as usize) {
            Some(event) => Next::Event(event.clone()),
            None if log.ended => Next::End,
            None => Next::Wait,
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub(crate) fn running(&self) -> bool {
        !lock(&self.log).ended
    }

    pub(crate) fn info(&self, exec_id: &str) -> ExecInfo {
        let log = lock(&self.log);
        ExecInfo {
            exec_id: exec_id.to_owned(),
            running: !log.ended,
            last_seq: log.dropped + log.events.len() as u64,
            pid: self.pid,
            argv: self.argv.clone(),
            started_us: self.started_us,
            terminal: self.terminal,
            exited: log.events.back().and_then(|last| match &last.event {
                Some(Event::Exited(exited)) => Some(exited.clone()),
                _ => None,
            }),
        }
    }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as i64
}

fn size(event: &Event) -> u64 {
    match event {
        Event::Stdout(data) | Event::Stderr(data) => data.len() as u64,
        Event::Exited(_) | Event::Dropped(_) => 0,
    }
}
