//! Just enough of netlink: messages of attributes to and from the kernel's packet log, connection table and interfaces.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// Flag of a request.
pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// Flag: an answer is wanted also when there is nothing to say.
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
/// Flag: all entries are wanted.
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Bytes of the structure before the attributes of a message about an interface.
const LINK_HEADER: usize = 16;
const LINK_ALIAS: u16 = libc::IFLA_IFALIAS;

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// To netfilter.
    pub(crate) fn open() -> io::Result<Self> {
        Self::to(SockProtocol::NetlinkNetFilter)
    }

    fn to(part: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            part,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(fd))
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub(crate) fn send(&self, message: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        Ok(())
    }

    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())?;
        Ok(&buffer[..length])
    }

    /// Sends a request and waits for its acknowledgement. Blocks.
    pub(crate) fn ask(&self, message: &[u8]) -> io::Result<()> {
        self.send(message)?;
        let mut buffer = [0; 4096];
        loop {
            for (kind, body) in messages(self.receive(&mut buffer)?) {
                if i32::from(kind) == libc::NLMSG_ERROR {
                    return error(body);
                }
            }
        }
    }
}

/// The outcome in an error message, where 0 is success.
pub(crate) fn error(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes a note on an interface, which `ip link` shows and which goes with it.
pub(crate) fn set_alias(interface: u32, alias: &str) -> io::Result<()> {
    let mut body = vec![0; LINK_HEADER];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    put(&mut body, LINK_ALIAS, alias.as_bytes());
    Socket::to(SockProtocol::NetlinkRoute)?.ask(&framed(libc::RTM_SETLINK, REQUEST | ACK, &body))
}

fn framed(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    out
}

/// One message to a part of netfilter.
pub(crate) fn message(
    subsystem: u8,
    kind: u8,
    flags: u16,
    family: u8,
    resource: u16,
    attributes: &[u8],
) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend_from_slice(&resource.to_be_bytes());
    body.extend_from_slice(attributes);
    framed(u16::from(subsystem) << 8 | u16::from(kind), flags, &body)
}

/// Appends an attribute.
pub(crate) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An attribute that holds attributes.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, inner: &[u8]) {
    put(out, kind | libc::NLA_F_NESTED as u16, inner);
}

/// The messages in what was received: kind and body, without the header.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message's body.
pub(crate) fn attributes_of(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(body.get(FAMILY_HEADER..).unwrap_or_default())
}

/// Attributes: kind and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of one attribute.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_what_is_cut_off_ends() {
        let mut inner = Vec::new();
        put(&mut inner, 1, &[1, 2, 3]);
        put(&mut inner, 2, &[9; 8]);
        let mut outer = Vec::new();
        nest(&mut outer, 7, &inner);
        let bytes = message(4, 1, REQUEST, 2, 5, &outer);
        let read = |bytes: &[u8]| -> Option<Vec<(u16, Vec<u8>)>> {
            let (kind, body) = messages(bytes).next()?;
            assert_eq!(kind, 0x0401);
            let (kind, nested) = attributes_of(body).next()?;
            assert_eq!(kind, 7);
            Some(attributes(nested).map(|(k, v)| (k, v.to_vec())).collect())
        };
        assert_eq!(read(&bytes).unwrap(), [(1, vec![1, 2, 3]), (2, vec![9; 8])]);
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), None, "{end}");
        }
        assert_eq!(messages(&[0; 64]).next(), None, "a length of 0 must not loop");
        assert_eq!(attributes(&[0; 64]).next(), None);
    }
}
