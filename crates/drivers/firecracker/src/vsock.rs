//! Connections to the guest through Firecracker's vsock device.
//!
//! On the host the device is a unix socket. Who connects to it says which port of the guest is meant, and after
//! Firecracker's word that the guest has accepted, the same connection carries the bytes.

use std::io;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The vsock port on which the guest program listens inside a virtual machine.
pub const GUEST_PORT: u32 = 1024;

/// Longest answer: the word, a space, ten digits and the end of the line.
const ANSWER: usize = 14;

/// Connects to the guest's port. Without an end where the guest's kernel does not answer: callers set a deadline.
pub(crate) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = ostler_sandbox::connect_socket(socket).await?;
    stream
        .write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes())
        .await?;
    let mut answer = Vec::with_capacity(ANSWER);
    // Byte by byte: what follows the line belongs to the guest.
    loop {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("nothing in the machine listens on vsock port {GUEST_PORT} (yet)"),
                ));
            }
            Err(e) => return Err(e),
        };
        if byte == b'\n' {
            break;
        }
        answer.push(byte);
        if answer.len() == ANSWER {
            break;
        }
    }
    let accepted = std::str::from_utf8(&answer)
        .ok()
        .and_then(|line| line.strip_prefix("OK "))
        .is_some_and(|port| port.parse::<u32>().is_ok());
    if accepted {
        return Ok(stream);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "instead of a connection Firecracker answered `{}`",
            String::from_utf8_lossy(&answer).escape_debug()
        ),
    ))
}
