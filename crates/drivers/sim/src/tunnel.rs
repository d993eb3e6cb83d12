//! Connections from simulated programs to the guest's listeners.

use crate::control::lock;
use ostler_guest_protocol::v1::Incoming;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};

const STREAM: usize = 64 * 1024;
/// Announcements that wait for an `Accept` before programs that connect are made to wait.
const WAITING: usize = 64;

/// The connections of one sandbox that are announced or waiting to be taken.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Inner>);

struct Inner {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, DuplexStream>>,
    announce: mpsc::Sender<Incoming>,
    announced: Arc<tokio::sync::Mutex<mpsc::Receiver<Incoming>>>,
    /// Ends the `Accept` before this one.
    current: Mutex<Option<oneshot::Sender<()>>>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        let (announce, announced) = mpsc::channel(WAITING);
        Self(Arc::new(Inner {
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            announce,
            announced: Arc::new(tokio::sync::Mutex::new(announced)),
            current: Mutex::default(),
        }))
    }

    pub(crate) async fn open(&self, listener: &str) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(STREAM);
        let connection_id = self.0.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.waiting).insert(connection_id, theirs);
        let incoming = Incoming {
            connection_id,
            listener: listener.to_owned(),
        };
        if self.0.announce.send(incoming).await.is_err() {
            lock(&self.0.waiting).remove(&connection_id);
        }
        ours
    }

    pub(crate) fn take(&self, connection_id: u64) -> Option<DuplexStream> {
        lock(&self.0.waiting).remove(&connection_id)
    }

    /// The announcements, for the newest `Accept`; an earlier one gets no more.
    pub(crate) fn announcements(&self) -> impl futures::Stream<Item = Incoming> + Send + use<> {
        let (replaced, mut stop) = oneshot::channel();
        lock(&self.0.current).replace(replaced);
        let announced = self.0.announced.clone();
        async_stream::stream! {
            let mut announced = tokio::select! {
                guard = announced.lock() => guard,
                _replaced = &mut stop => return,
            };
            loop {
                let incoming = tokio::select! {
                    incoming = announced.recv() => incoming,
                    _replaced = &mut stop => return,
                };
                match incoming {
                    Some(incoming) => yield incoming,
                    None => return,
                }
            }
        }
    }
}
