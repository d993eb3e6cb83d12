//! The server's way in where the virtual machine has a vsock device: every connection is one of the machine's kernel.

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket,
};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// After an accept failed, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives every connection to the port to `each`. Ends only with an error: without it nobody can reach this guest.
pub(crate) async fn accept(port: u32, mut each: impl FnMut(UnixStream)) -> io::Result<()> {
    // SAFETY: the descriptor is owned by the value that is registered, so it stays valid as long as that lives.
    let listener = unsafe { AsyncFd::register(listening(port)?) }?;
    loop {
        let mut ready = listener.readable().await?;
        let accepted = ready.try_io(|fd| {
            let fd = accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
            // SAFETY: the descriptor was just made and belongs to nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        match accepted {
            // Reading, writing and shutting down are the same for all sockets of connections; the type asks no more.
            Ok(Ok(stream)) => each(UnixStream::from_std(stream.into())?),
            Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
            Err(_would_block) => {}
        }
    }
}

fn listening(port: u32) -> io::Result<OwnedFd> {
    let named = |what: &str, error: nix::Error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("vsock port {port}: {what}: {error}"),
        )
    };
    let fd = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(|e| named("the kernel of this machine has no vsock", e))?;
    let address = VsockAddr::new(nix::libc::VMADDR_CID_ANY, port);
    bind(fd.as_raw_fd(), &address).map_err(|e| named("it cannot be had", e))?;
    listen(&fd, Backlog::MAXCONN).map_err(|e| named("it cannot be listened on", e))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_has_one_listener() {
        // Kernels without the protocol say so; those with it give a free port to one of two.
        match listening(nix::libc::VMADDR_PORT_ANY) {
            Err(error) => assert!(error.to_string().contains("has no vsock"), "{error}"),
            Ok(fd) => {
                let bound: VsockAddr = nix::sys::socket::getsockname(fd.as_raw_fd()).unwrap();
                let error = listening(bound.port()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            }
        }
    }
}
