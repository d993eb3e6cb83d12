//! Connections that programs in the sandbox make to the guest, carried to whoever serves them.

use crate::lock;
use bytes::Bytes;
use futures::Stream;
use ostler_guest_protocol::v1::{Incoming, TunnelFrame};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Connections that wait to be taken; more wait in the kernel.
const MOST: usize = 256;
/// How long a connection waits, which covers a restart of the server.
const WAIT: Duration = Duration::from_secs(300);
const PIECE: usize = 64 * 1024;
/// Frames on their way in each direction.
const FRAMES: usize = 4;
/// After a listener failed, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection, wherever it comes from.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The connections that nobody has taken yet.
#[derive(Default)]
pub(crate) struct Tunnels {
    waiting: Mutex<Waiting>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Waiting {
    last_id: u64,
    /// Counts the callers of `accept`; only the last one is told anything.
    acceptor: u64,
    connections: BTreeMap<u64, (&'static str, Box<dyn Connection>)>,
}

impl Tunnels {
    /// Offers the connections of a listener on loopback. Runs for ever.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener, name: &'static str) {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| {
                // Only a matter of speed.
                let _ = stream.set_nodelay(true);
                stream
            });
            self.offer(accepted, name).await;
        }
    }

    /// Offers the connections of a socket. Runs for ever.
    pub(crate) async fn serve_unix(self: Arc<Self>, listener: UnixListener, name: &'static str) {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            self.offer(accepted, name).await;
        }
    }

    async fn offer(self: &Arc<Self>, accepted: io::Result<impl Connection + 'static>, name: &'static str) {
        let Ok(connection) = accepted else {
            tokio::time::sleep(PAUSE).await;
            return;
        };
        let mut changed = self.changed.subscribe();
        while lock(&self.waiting).connections.len() >= MOST {
            // The sender is part of this.
            let _ = changed.changed().await;
        }
        let id = {
            let mut waiting = lock(&self.waiting);
            waiting.last_id += 1;
            let id = waiting.last_id;
            waiting.connections.insert(id, (name, Box::new(connection)));
            id
        };
        self.changed.send_replace(());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(WAIT).await;
            drop(this.take(id));
        });
    }

    /// Takes a connection that waits.
    pub(crate) fn take(&self, id: u64) -> Option<Box<dyn Connection>> {
        let taken = lock(&self.waiting).connections.remove(&id);
        self.changed.send_replace(());
        taken.map(|(_, connection)| connection)
    }

    /// Announces what waits, and then what comes. An earlier stream of announcements ends.
    pub(crate) fn accept(self: Arc<Self>) -> impl Stream<Item = Result<Incoming, Status>> + Send + 'static {
        let acceptor = {
            let mut waiting = lock(&self.waiting);
            waiting.acceptor += 1;
            waiting.acceptor
        };
        self.changed.send_replace(());
        let changed = self.changed.subscribe();
        futures::stream::unfold((self, changed, 0), move |(this, mut changed, told)| async move {
            loop {
                changed.mark_unchanged();
                let next = {
                    let waiting = lock(&this.waiting);
                    if waiting.acceptor != acceptor {
                        return None;
                    }
                    let mut untold = waiting.connections.range(told + 1..);
                    untold.next().map(|(id, (name, _))| (*id, *name))
                };
                if let Some((connection_id, name)) = next {
                    let incoming = Incoming {
                        connection_id,
                        listener: name.to_owned(),
                    };
                    return Some((Ok(incoming), (this, changed, connection_id)));
                }
                changed.changed().await.ok()?;
            }
        })
    }

    /// Carries a connection until both directions have ended, or the caller has gone.
    pub(crate) async fn carry(
        &self,
        mut from_caller: Streaming<TunnelFrame>,
    ) -> Result<ReceiverStream<Result<TunnelFrame, Status>>, Status> {
        let first = from_caller
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the first frame must name a connection"))?;
        let connection = self
            .take(first.connection_id)
            .ok_or_else(|| Status::not_found(format!("connection {} that waits", first.connection_id)))?;
        let (mut from_program, mut to_program) = tokio::io::split(connection);
        let (to_caller, frames) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            let out = async {
                loop {
                    let mut piece = vec![0; PIECE];
                    let n = from_program.read(&mut piece).await.unwrap_or(0);
                    piece.truncate(n);
                    let frame = TunnelFrame {
                        data: Bytes::from(piece),
                        end: n == 0,
                        ..TunnelFrame::default()
                    };
                    if to_caller.send(Ok(frame)).await.is_err() {
                        return Err(());
                    }
                    if n == 0 {
                        return Ok(());
                    }
                }
            };
            let back = async {
                let mut frame = first;
                loop {
                    if to_program.write_all(&frame.data).await.is_err() {
                        return Err(());
                    }
                    if frame.end {
                        let _ = to_program.shutdown().await;
                        return Ok(());
                    }
                    // Without an `end` before it, the end of the stream is a caller that went away.
                    frame = from_caller.message().await.ok().flatten().ok_or(())?;
                }
            };
            // One direction that breaks breaks the connection; dropping both halves closes it.
            let _ = tokio::try_join!(out, back);
        });
        Ok(ReceiverStream::new(frames))
    }
}
