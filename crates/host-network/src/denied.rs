//! What the packet filter refused, read from the kernel's packet log.

use crate::netlink::{ACK, REQUEST, Socket, attributes_of, message, messages, put};
use ostler_domain::SandboxId;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const SUBSYSTEM: u8 = libc::NFNL_SUBSYS_ULOG as u8;
const PACKET: u8 = 0;
const CONFIG: u8 = 1;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const COMMAND_BIND: u8 = 1;
const MODE_PACKET: u8 = 2;
/// Bytes of a packet that are looked at: headers.
const SNAPLEN: u32 = 64;
const INTERFACE_IN: u16 = 4;
const PAYLOAD: u16 = 9;

/// What kind of packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, of either version.
    Icmp,
    /// Another one, by its number.
    Other(u8),
}

/// A packet of a sandbox that was refused. At most ten a second of each sandbox are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Denied {
    /// Who sent it, known by the interface it came from.
    pub sandbox: SandboxId,
    /// What it was.
    pub protocol: Protocol,
    /// The sender it named, which may be false.
    pub source: IpAddr,
    /// Where it was meant to go.
    pub destination: IpAddr,
    /// The port there, where the protocol has ports.
    pub port: Option<u16>,
}

/// A refused packet as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Index of the interface it came from.
    pub(crate) interface: u32,
    pub(crate) protocol: Protocol,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: Option<u16>,
}

/// The kernel's packet log of one group.
#[derive(Debug)]
pub(crate) struct PacketLog {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl PacketLog {
    /// Becomes the reader of a group; only one can be.
    pub(crate) fn open(group: u16) -> io::Result<Self> {
        // Asked blocking, then read without: the answer to a configuration comes at once.
        let socket = Socket::open()?;
        let mut bind = Vec::new();
        put(&mut bind, CONFIG_COMMAND, &[COMMAND_BIND]);
        socket.ask(&message(SUBSYSTEM, CONFIG, REQUEST | ACK, 0, group, &bind))?;
        let mut mode = Vec::new();
        let mut value = SNAPLEN.to_be_bytes().to_vec();
        value.extend([MODE_PACKET, 0]);
        put(&mut mode, CONFIG_MODE, &value);
        socket.ask(&message(SUBSYSTEM, CONFIG, REQUEST | ACK, 0, group, &mode))?;
        let fd = socket.into_fd();
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self {
            // SAFETY: the descriptor is owned by the value that is registered, so it stays valid as long as that lives.
            fd: unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?,
            buffer: vec![0; 1 << 16],
        })
    }

    /// The next refused packets.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Packet>> {
        use std::os::fd::AsRawFd;
        loop {
            let mut ready = self.fd.readable().await?;
            let read = ready.try_io(|fd| {
                nix::sys::socket::recv(
                    fd.get_ref().as_raw_fd(),
                    &mut self.buffer,
                    nix::sys::socket::MsgFlags::empty(),
                )
                .map_err(io::Error::from)
            });
            match read {
                Ok(Ok(length)) => {
                    let kind = u16::from(SUBSYSTEM) << 8 | u16::from(PACKET);
                    return Ok(messages(&self.buffer[..length])
                        .filter(|(k, _)| *k == kind)
                        .filter_map(|(_, body)| parse(body))
                        .collect());
                }
                // More than there was room for: what is lost is not told.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Ok(Err(e)) => return Err(e),
                Err(_not_yet) => {}
            }
        }
    }
}

fn parse(body: &[u8]) -> Option<Packet> {
    let (mut interface, mut packet) = (None, None);
    for (kind, value) in attributes_of(body) {
        match kind {
            INTERFACE_IN => interface = value.first_chunk().map(|b| u32::from_be_bytes(*b)),
            PAYLOAD => packet = headers(value),
            _ => {}
        }
    }
    let (protocol, source, destination, port) = packet?;
    Some(Packet {
        interface: interface?,
        protocol,
        source,
        destination,
        port,
    })
}

fn headers(packet: &[u8]) -> Option<(Protocol, IpAddr, IpAddr, Option<u16>)> {
    let at = |offset: usize, length: usize| packet.get(offset..offset + length);
    let (protocol, source, destination, length): (u8, IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => (
            *packet.get(9)?,
            Ipv4Addr::from(*at(12, 4)?.first_chunk::<4>()?).into(),
            Ipv4Addr::from(*at(16, 4)?.first_chunk::<4>()?).into(),
            usize::from(packet.first()? & 0xf) * 4,
        ),
        6 => (
            *packet.get(6)?,
            Ipv6Addr::from(*at(8, 16)?.first_chunk::<16>()?).into(),
            Ipv6Addr::from(*at(24, 16)?.first_chunk::<16>()?).into(),
            40,
        ),
        _ => return None,
    };
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        1 | 58 => Protocol::Icmp,
        other => Protocol::Other(other),
    };
    let port = matches!(protocol, Protocol::Tcp | Protocol::Udp)
        .then(|| at(length + 2, 2)?.first_chunk().map(|b| u16::from_be_bytes(*b)))
        .flatten();
    Some((protocol, source, destination, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_short_packets_are_nothing() {
        let mut udp = vec![0u8; 28];
        udp[0] = 0x45;
        udp[9] = 17;
        udp[12..16].copy_from_slice(&[10, 213, 0, 2]);
        udp[16..20].copy_from_slice(&[192, 0, 2, 9]);
        udp[22..24].copy_from_slice(&443u16.to_be_bytes());
        let (protocol, source, destination, port) = headers(&udp).unwrap();
        assert_eq!((protocol, port), (Protocol::Udp, Some(443)));
        assert_eq!(source.to_string(), "10.213.0.2");
        assert_eq!(destination.to_string(), "192.0.2.9");
        assert_eq!(headers(&udp[..20]).unwrap().3, None, "cut off before the ports");
        assert_eq!(headers(&udp[..19]), None);
        let mut six = vec![0u8; 40];
        six[0] = 0x60;
        six[6] = 58;
        assert_eq!(headers(&six).unwrap().0, Protocol::Icmp);
        assert_eq!(headers(&[]), None);
    }
}
