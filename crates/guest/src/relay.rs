//! A connection to the guest by standard input and output, for back ends that can only execute programs in a sandbox.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is written once there is a connection, before any byte of it.
const CONNECTED: &[u8] = b"connected\n";
/// How long a guest that was just started is waited for: executing this again would take longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that are passed on at once.
const PIECE: usize = 64 << 10;
const STEP: Duration = Duration::from_millis(2);

/// Passes bytes between standard input and output and the guest that listens at a socket, until one of the two ends.
/// Whoever gave up the other end of standard input wants no more answers. Fails if nobody listens at the socket.
pub fn relay(socket: &Path) -> io::Result<()> {
    let mut to_guest = connect(socket)?;
    let mut from_guest = to_guest.try_clone()?;
    // Rust's own standard output keeps what does not end in a line feed.
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    output.write_all(CONNECTED)?;
    let (ended, end) = std::sync::mpsc::sync_channel(2);
    let other = ended.clone();
    std::thread::spawn(move || {
        let _told_or_over = other.send(pass(&mut from_guest, &mut output));
    });
    std::thread::spawn(move || {
        let _told_or_over = ended.send(pass(&mut input, &mut to_guest));
    });
    // What breaks is no failure of this: the other end went away.
    let _first = end.recv();
    Ok(())
}

/// Not `io::copy`, which splices: a splice that waits for standard input holds up, on some kernels, what an engine reads from
/// standard output.
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&piece[..read])?;
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < end => std::thread::sleep(STEP),
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", socket.display()))),
        }
    }
}
