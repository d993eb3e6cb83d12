//! Many connections over the one port of a machine. See [`ostler_guest_protocol::port`].

use ostler_guest_protocol::port::{Kind, LENGTH, NONCE, Scanner, message};
use ostler_sandbox::connect_socket;
use std::future::poll_fn;
use std::io::{self, Cursor};
use std::path::Path;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, join, split};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// One of the connections.
pub(crate) type Stream = Compat<yamux::Stream>;

/// Connections at a time.
const STREAMS: usize = 256;
/// Bytes that all of them together may have on their way; the least that the multiplexer allows.
const WINDOW: usize = STREAMS * 256 * 1024;
/// Largest piece of a connection that is sent in one frame, bytes.
const FRAME: usize = 16 * 1024;
/// After that time without an answer the guest is greeted again.
const AGAIN: Duration = Duration::from_millis(40);
/// The greeting that is repeated often enough to fill a frame that an earlier server did not finish.
const LONG_GREETING: u32 = 2;
/// Longest wait for a connection that the multiplexer has only to number.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

type Opened = oneshot::Sender<Stream>;

/// A conversation with a guest. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Mux {
    requests: mpsc::Sender<Opened>,
    task: AbortHandle,
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mux {
    /// Begins a conversation over the port's socket; fails when the guest does not answer within `limit`.
    pub(crate) async fn begin(path: &Path, limit: Duration) -> io::Result<Self> {
        let (stream, rest) = greet(path, Kind::Go, limit).await?;
        let (read, write) = split(stream);
        let mut config = Config::default();
        config
            .set_max_num_streams(STREAMS)
            .set_max_connection_receive_window(Some(WINDOW))
            .set_split_send_size(FRAME);
        let socket = join(Cursor::new(rest).chain(read), write).compat();
        let mut connection = Connection::new(socket, config, Mode::Client);
        let (requests, mut requested) = mpsc::channel::<Opened>(STREAMS);
        let mut waiting: Option<Opened> = None;
        let work = poll_fn(move |cx| {
            loop {
                if waiting.is_none() {
                    match requested.poll_recv(cx) {
                        Poll::Ready(Some(next)) => waiting = Some(next),
                        Poll::Ready(None) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                }
                if let Some(opened) = waiting.take() {
                    match connection.poll_new_outbound(cx) {
                        Poll::Ready(Ok(stream)) => {
                            // Whoever asked may have given up.
                            let _nobody = opened.send(stream.compat());
                            continue;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => waiting = Some(opened),
                    }
                }
                match connection.poll_next_inbound(cx) {
                    // Guests have no reason to open connections; this closes it.
                    Poll::Ready(Some(Ok(_unwanted))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let task = tokio::spawn(work).abort_handle();
        Ok(Self { requests, task })
    }

    /// Opens a connection; fails when the conversation has ended.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        let (opened, stream) = oneshot::channel();
        let ended = || {
            io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the conversation with the guest has ended",
            )
        };
        let ask = async {
            self.requests.send(opened).await.map_err(|_| ended())?;
            stream.await.map_err(|_| ended())
        };
        tokio::time::timeout(OPEN_LIMIT, ask)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Asks the guest to end; fails when it does not answer within `limit`. The connection is to be kept until it has ended:
/// QEMU may throw away what it has not yet passed on when this side hangs up.
pub(crate) async fn end(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    greet(path, Kind::End, limit).await.map(|(stream, _)| stream)
}

async fn greet(path: &Path, then: Kind, limit: Duration) -> io::Result<(UnixStream, Vec<u8>)> {
    let work = async {
        let mut stream = connect_socket(path).await?;
        let rest = begin(&mut stream, then).await?;
        Ok((stream, rest))
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the guest does not answer within {limit:?}"),
        ))
    })
}

async fn begin(stream: &mut UnixStream, then: Kind) -> io::Result<Vec<u8>> {
    let nonce: [u8; NONCE] = rand::random();
    let hello = message(Kind::Hello, nonce);
    let mut scanner = Scanner::default();
    let mut buffer = vec![0; FRAME];
    let mut greetings = 0;
    let mut gone = false;
    let mut again = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let count = read?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                scanner.push(&buffer[..count]);
            }
            _ = again.tick(), if !gone => {
                let times = if greetings == LONG_GREETING { 2 * FRAME / LENGTH } else { 1 };
                greetings += 1;
                stream.write_all(&hello.repeat(times)).await?;
            }
        }
        while let Some((kind, named)) = scanner.next_message() {
            match kind {
                Kind::Ack if named == nonce && !gone => {
                    stream.write_all(&message(then, nonce)).await?;
                    gone = true;
                    if then == Kind::End {
                        return Ok(Vec::new());
                    }
                }
                Kind::Started if named == nonce => return Ok(scanner.rest()),
                _ => {}
            }
        }
    }
}
