//! The terminal of one program: a pair of descriptors of which the guest holds the one that a screen and a keyboard
//! would hold.

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::tcgetpgrp;
use ostler_guest_protocol::v1;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;

/// Size where the caller names none.
const ROWS: u32 = 24;
const COLUMNS: u32 = 80;
const MOST: u32 = 10_000;
/// Value of `TERM` where the caller names none.
const TERM: &str = "xterm-256color";
/// The character that a terminal takes for the end of what is typed.
const END_OF_FILE: u8 = 4;

/// The guest's end of a terminal.
pub(crate) struct Terminal {
    master: AsyncFd<OwnedFd>,
    /// Whether what was typed last ended a line: only there is the end of file one.
    line_ended: AtomicBool,
}

/// Makes a terminal. The second is for the program, which alone must have it.
pub(crate) fn open(wanted: &v1::Terminal) -> Result<(Arc<Terminal>, OwnedFd), Status> {
    let pair = openpty(&size(wanted.rows, wanted.columns)?, None)
        .map_err(|error| Status::failed_precondition(format!("no terminal can be made here: {error}")))?;
    let ready = || {
        close_on_exec(&pair.slave)?;
        close_on_exec(&pair.master)?;
        set_nonblocking(&pair.master)
    };
    ready()
        // SAFETY: an `OwnedFd` is and stays the same open descriptor until it is dropped.
        .and_then(|()| Ok(unsafe { AsyncFd::register(pair.master) }?))
        .map(|master| {
            let terminal = Terminal {
                master,
                line_ended: AtomicBool::new(true),
            };
            (Arc::new(terminal), pair.slave)
        })
        .map_err(|error| Status::resource_exhausted(format!("no terminal can be made: {error}")))
}

/// What programs are told about the kind of terminal.
pub(crate) fn kind(wanted: &v1::Terminal) -> &str {
    match wanted.term.as_str() {
        "" => TERM,
        term => term,
    }
}

fn size(rows: u32, columns: u32) -> Result<Winsize, Status> {
    let or = |given: u32, usual: u32| if given == 0 { usual } else { given };
    let (rows, columns) = (or(rows, ROWS), or(columns, COLUMNS));
    if rows > MOST || columns > MOST {
        return Err(Status::invalid_argument(format!(
            "a terminal has at most {MOST} rows and columns"
        )));
    }
    Ok(Winsize {
        ws_row: rows as u16,
        ws_col: columns as u16,
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Terminal {
    /// Changes the size. The kernel tells the program.
    pub(crate) fn resize(&self, rows: u32, columns: u32) -> Result<(), Status> {
        let size = size(rows, columns)?;
        // SAFETY: the descriptor is open as long as `self`, and the kernel only reads the size.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(Status::failed_precondition(format!(
            "the terminal keeps its size: {error}"
        )))
    }

    /// Sends a signal to what runs in the foreground. False if nothing does.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        // On this side the terminal tells the group on the other.
        tcgetpgrp(self.master.get_ref().as_fd())
            .is_ok_and(|group| group.as_raw() > 0 && killpg(group, signal).is_ok())
    }

    /// What has to be typed so that the program reads the end of file: in the middle of a line, the first only ends it.
    pub(crate) fn end_of_file(&self) -> &'static [u8] {
        if self.line_ended.load(Ordering::Relaxed) {
            &[END_OF_FILE]
        } else {
            &[END_OF_FILE, END_OF_FILE]
        }
    }
}

/// What the program shows, or what is typed: one reader and one writer of a terminal.
pub(crate) struct Half(pub(crate) Arc<Terminal>);

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.master.poll_read_ready(context))?;
            let free = buffer.initialize_unfilled();
            match ready.try_io(|master| Ok(nix::unistd::read(master, free)?)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other side any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.master.poll_write_ready(context))?;
            match ready.try_io(|master| Ok(nix::unistd::write(master, data)?)) {
                Ok(Ok(n)) => {
                    if let Some(last) = data[..n].last() {
                        let ended = matches!(last, b'\r' | b'\n');
                        self.0.line_ended.store(ended, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(n));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_the_usual_one_or_a_sane_one() {
        let usual = size(0, 0).unwrap();
        assert_eq!((usual.ws_row, usual.ws_col), (24, 80));
        let given = size(7, 9).unwrap();
        assert_eq!((given.ws_row, given.ws_col), (7, 9));
        assert!(size(1, MOST + 1).is_err() && size(u32::MAX, 1).is_err());
    }
}
