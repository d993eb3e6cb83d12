//! Making the kernel forget the connections of an address, before another sandbox gets it.

use crate::netlink::{
    ACK, DUMP, REQUEST, Socket, attribute, attributes_of, error, message, messages, nest, put,
};
use std::io;
use std::net::Ipv4Addr;

const SUBSYSTEM: u8 = libc::NFNL_SUBSYS_CTNETLINK as u8;
const GET: u8 = 1;
const DELETE: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_ADDRESSES: u16 = 1;
const ADDRESS_SOURCE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1;

/// Forgets every connection that the address began. Blocks.
pub(crate) fn forget(address: Ipv4Addr) -> io::Result<()> {
    let socket = Socket::open()?;
    let mut failed = None;
    for tuple in begun_by(&socket, address)? {
        let mut attributes = Vec::new();
        nest(&mut attributes, TUPLE_ORIGINAL, &tuple);
        match socket.ask(&message(
            SUBSYSTEM,
            DELETE,
            REQUEST | ACK,
            libc::AF_INET as u8,
            0,
            &attributes,
        )) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => failed = Some(e),
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The original tuples of an address's connections.
fn begun_by(socket: &Socket, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
    // Kernels since 5.8 leave out the others themselves; older ones ignore the filter.
    let mut source = Vec::new();
    put(&mut source, ADDRESS_SOURCE, &address.octets());
    let mut tuple = Vec::new();
    nest(&mut tuple, TUPLE_ADDRESSES, &source);
    let mut filter = Vec::new();
    put(&mut filter, FILTER_ORIGINAL, &BY_SOURCE.to_ne_bytes());
    put(&mut filter, FILTER_REPLY, &0u32.to_ne_bytes());
    let mut attributes = Vec::new();
    nest(&mut attributes, TUPLE_ORIGINAL, &tuple);
    nest(&mut attributes, FILTER, &filter);
    socket.send(&message(
        SUBSYSTEM,
        GET,
        REQUEST | DUMP,
        libc::AF_INET as u8,
        0,
        &attributes,
    ))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        for (kind, body) in messages(socket.receive(&mut buffer)?) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => {
                    error(body)?;
                }
                _ => found.extend(
                    attributes_of(body)
                        .find(|(kind, _)| *kind == TUPLE_ORIGINAL)
                        .filter(|(_, tuple)| source_of(tuple) == Some(address))
                        .map(|(_, tuple)| tuple.to_vec()),
                ),
            }
        }
    }
}

fn source_of(tuple: &[u8]) -> Option<Ipv4Addr> {
    let source = attribute(attribute(tuple, TUPLE_ADDRESSES)?, ADDRESS_SOURCE)?;
    Some(Ipv4Addr::from(*source.first_chunk::<4>()?))
}
