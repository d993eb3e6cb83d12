//! The server's way in where there is a serial port and nothing else: many connections over one port.
//!
//! How a conversation begins is told in [`ostler_guest_protocol::port`]. It ends when the server goes away or begins
//! another, and then nothing of it is left: whatever was on its way is thrown away on both sides.

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_guest_protocol::port::{Kind, LENGTH, Scanner, message};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Cursor};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, join, split};
use tokio::time::{Instant, sleep};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// One of the many connections.
pub(crate) type Stream = Compat<yamux::Stream>;

/// The kernel finds its devices while the guest starts.
const DEVICE_LIMIT: Duration = Duration::from_secs(20);
/// How often is looked for the device, and for a server.
const STEP: Duration = Duration::from_millis(20);
/// Connections at a time.
const STREAMS: usize = 256;
/// Bytes that all of them together may have on their way; the least that the multiplexer allows.
const WINDOW: usize = STREAMS * 256 * 1024;

/// Gives every connection that comes over the port of this name to `each`. Ends only with an error: without the port nobody
/// can reach this guest.
pub(crate) async fn accept(name: &str, mut each: impl FnMut(Stream)) -> io::Result<()> {
    let file = open(name).await?;
    loop {
        while hung_up(&file)? {
            sleep(STEP).await;
        }
        if let Err(error) = conversation(&file, &mut each).await {
            eprintln!("ostler-guest: the port: {error}");
            sleep(STEP).await;
        }
    }
}

async fn open(name: &str) -> io::Result<File> {
    let end = Instant::now() + DEVICE_LIMIT;
    loop {
        match find(name) {
            Some(path) => {
                return File::options()
                    .read(true)
                    .write(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(&path)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())));
            }
            None if Instant::now() > end => {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("this machine has no serial port named {name}"),
                ));
            }
            None => sleep(STEP).await,
        }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    let found = ports.filter_map(Result::ok).find(|port| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim() == name)
    })?;
    let path = PathBuf::from("/dev").join(found.file_name());
    path.exists().then_some(path)
}

/// Whether nobody is at the other end.
fn hung_up(file: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let state = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(state.contains(PollFlags::POLLHUP))
}

/// One conversation, until the server leaves it.
async fn conversation(file: &File, each: &mut impl FnMut(Stream)) -> io::Result<()> {
    // Registered anew each time: that the other end has hung up is remembered for ever.
    // SAFETY: the descriptor is owned by the value that is registered, so it stays valid as long as that lives.
    let mut port = Port(unsafe { AsyncFd::register(file.try_clone()?) }?);
    let Some(rest) = begin(&mut port).await? else {
        return Ok(());
    };
    let (read, write) = split(port);
    let mut config = Config::default();
    config
        .set_max_num_streams(STREAMS)
        .set_max_connection_receive_window(Some(WINDOW));
    let socket = join(Cursor::new(rest).chain(read), write).compat();
    let mut connection = Connection::new(socket, config, Mode::Server);
    // An error is what the beginning of the next conversation looks like in the middle of this one.
    while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        each(stream.compat());
    }
    Ok(())
}

/// Waits for the server to begin. Returns what it sent after that, and nothing when it has gone.
async fn begin(port: &mut Port) -> io::Result<Option<Vec<u8>>> {
    let mut scanner = Scanner::default();
    let mut last = None;
    let mut buffer = [0; 64 * LENGTH];
    loop {
        let count = port.read(&mut buffer).await?;
        if count == 0 {
            return Ok(None);
        }
        scanner.push(&buffer[..count]);
        let mut greeted = false;
        while let Some((kind, nonce)) = scanner.next_message() {
            match kind {
                Kind::Hello => {
                    last = Some(nonce);
                    greeted = true;
                }
                Kind::Go if last == Some(nonce) => {
                    port.write_all(&message(Kind::Started, nonce)).await?;
                    return Ok(Some(scanner.rest()));
                }
                Kind::End if last == Some(nonce) => kill(Pid::this(), Signal::SIGTERM)?,
                Kind::Go | Kind::End | Kind::Ack | Kind::Started => {}
            }
        }
        if let Some(nonce) = last.filter(|_| greeted) {
            port.write_all(&message(Kind::Ack, nonce)).await?;
        }
    }
}

/// The port, which reads and writes without waiting.
struct Port(AsyncFd<File>);

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|inner| io::Read::read(&mut inner.get_ref(), unfilled)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|inner| io::Write::write(&mut inner.get_ref(), buf)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
