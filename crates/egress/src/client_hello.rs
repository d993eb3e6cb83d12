//! The server name in the first message of a TLS connection.
//!
//! TLS 1.2 and 1.3 look the same here: records (RFC 8446 §5.1) that hold a ClientHello (§4.1.2) with the extension
//! `server_name` (RFC 6066 §3). The parser is strict, since a message that the server reads otherwise than we do is a way
//! around the policy: nothing may be left over at any level, nothing may occur twice, and no name is no permission.
//!
//! Encrypted ClientHello (RFC 9849) puts the real name in an extension that also browsers without a key send with random
//! bytes; the two cannot be told apart. The outer name must agree like any other. What a server that is allowed does with an
//! inner name is like what it does with a Host header that we cannot see: a matter of trust in that server.

use crate::host::{self, Host};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// `encrypted_server_name` of an expired draft: hides the name without an outer one.
const ESNI: u16 = 0xffce;

/// Why there is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Right so far; more bytes are needed.
    #[error("the TLS ClientHello is not complete")]
    Incomplete,
    /// Another protocol.
    #[error("this is not TLS")]
    NotTls,
    /// It begins like TLS but breaks its rules.
    #[error("the TLS ClientHello is malformed: {0}")]
    Malformed(&'static str),
    /// A correct ClientHello that names no server.
    #[error("the TLS ClientHello names no server (SNI)")]
    NoName,
}

use HelloError::{Incomplete, Malformed, NoName, NotTls};

/// The normalised server name in what a client sent first: whole records, of which the last may be followed by anything.
///
/// [`HelloError::Incomplete`] asks for more bytes; the caller limits how many.
pub fn sni(bytes: &[u8]) -> Result<String, HelloError> {
    let message = handshake(bytes)?;
    let mut hello = Reader(&message);
    if hello.number(2)? >> 8 != 3 {
        return Err(Malformed("unknown version"));
    }
    hello.take(32)?;
    if hello.vector(1)?.len() > 32 {
        return Err(Malformed("long session id"));
    }
    let ciphers = hello.vector(2)?;
    if ciphers.is_empty() || ciphers.len() % 2 != 0 {
        return Err(Malformed("cipher suites"));
    }
    if hello.vector(1)?.is_empty() {
        return Err(Malformed("compression methods"));
    }
    if hello.0.is_empty() {
        return Err(NoName);
    }
    let mut extensions = Reader(hello.vector(2)?);
    hello.end()?;
    let mut seen = Vec::new();
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)? as u16;
        let data = extensions.vector(2)?;
        if seen.contains(&kind) {
            return Err(Malformed("an extension occurs twice"));
        }
        if seen.len() >= 256 {
            return Err(Malformed("too many extensions"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => name = Some(server_name(data)?),
            ESNI => return Err(Malformed("an encrypted server name without an outer one")),
            _ => {}
        }
    }
    name.ok_or(NoName)
}

/// The body of the ClientHello, put together from the records that it is spread over.
fn handshake(bytes: &[u8]) -> Result<Vec<u8>, HelloError> {
    let mut records = bytes;
    let mut message: Vec<u8> = Vec::new();
    loop {
        // Each byte is judged as it comes, so that another protocol is not waited for.
        for (i, right) in [|b: u8| b == HANDSHAKE, |b| b == 3, |b| b <= 4]
            .into_iter()
            .enumerate()
        {
            match records.get(i) {
                None => return Err(Incomplete),
                Some(byte) if !right(*byte) && records.len() == bytes.len() => return Err(NotTls),
                Some(byte) if !right(*byte) => return Err(Malformed("another record within the message")),
                Some(_) => {}
            }
        }
        let (Some(high), Some(low)) = (records.get(3), records.get(4)) else {
            return Err(Incomplete);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > 1 << 14 {
            return Err(Malformed("length of a record"));
        }
        let rest = records.get(5..).unwrap_or_default();
        message.extend_from_slice(rest.get(..length).unwrap_or(rest));
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Malformed("not a ClientHello"));
        }
        if rest.len() < length {
            return Err(Incomplete);
        }
        if let Some(&[_, a, b, c]) = message.get(..4) {
            let body = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if message.len() > body + 4 {
                return Err(Malformed("bytes after the ClientHello in its record"));
            }
            if message.len() == body + 4 {
                message.drain(..4);
                return Ok(message);
            }
        }
        records = rest.get(length..).unwrap_or_default();
    }
}

fn server_name(data: &[u8]) -> Result<String, HelloError> {
    let mut outer = Reader(data);
    let mut list = Reader(outer.vector(2)?);
    outer.end()?;
    if list.number(1)? != 0 {
        return Err(Malformed("a server name of an unknown kind"));
    }
    let text = list.vector(2)?;
    list.end()?;
    if !text.is_ascii() {
        return Err(Malformed("the server name is not ASCII"));
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed("the server name is not text"))?;
    match Host::parse(text) {
        Ok(Host::Name(_)) => host::name(text).map_err(Malformed),
        Ok(Host::Address(_)) => Err(Malformed("the server name is an address")),
        Err(reason) => Err(Malformed(reason)),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, HelloError> {
        Ok(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// Bytes behind their own length, which has `bytes` bytes.
    fn vector(&mut self, bytes: usize) -> Result<&'a [u8], HelloError> {
        let count = self.number(bytes)?;
        self.take(count)
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Malformed("bytes are left over"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(width: usize, data: &[u8]) -> Vec<u8> {
        let mut out = data.len().to_be_bytes()[8 - width..].to_vec();
        out.extend_from_slice(data);
        out
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vector(2, data)].concat()
    }

    fn name_extension(name: &[u8]) -> Vec<u8> {
        extension(0, &vector(2, &[vec![0], vector(2, name)].concat()))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            vec![3, 3],
            vec![7; 32],
            vector(1, &[1; 32]),
            vector(2, &[0x13, 1]),
            vector(1, &[0]),
            vector(2, &extensions.concat()),
        ]
        .concat();
        [vec![1], vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|chunk| [vec![22, 3, 1], vector(2, chunk)].concat())
            .collect()
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        records(&message(extensions), 1 << 14)
    }

    #[test]
    fn the_name_is_found_however_it_is_cut() {
        let message = message(&[
            extension(10, &[0, 0]),
            name_extension(b"Example.ORG"),
            extension(0xfe0d, &[0; 9]),
        ]);
        for size in [1, 2, 3, 5, 40, 1 << 14] {
            let bytes = records(&message, size);
            assert_eq!(sni(&bytes).as_deref(), Ok("example.org"));
            for end in 0..bytes.len() {
                assert_eq!(sni(&bytes[..end]), Err(Incomplete), "{end} of {}", bytes.len());
            }
            assert_eq!(
                sni(&[bytes, vec![0x17, 3, 3, 9]].concat()).as_deref(),
                Ok("example.org")
            );
        }
    }

    #[test]
    fn what_is_not_exactly_one_name_is_refused() {
        assert_eq!(sni(&hello(&[])), Err(NoName));
        let malformed =
            |extensions: &[Vec<u8>]| assert!(matches!(sni(&hello(extensions)), Err(Malformed(_))));
        malformed(&[name_extension(b"a.example"), name_extension(b"b.example")]);
        malformed(&[name_extension(b"1.2.3.4")]);
        malformed(&[name_extension(b"0x7f.1")]);
        malformed(&[name_extension(b"")]);
        malformed(&[name_extension(b"a.example\0.b.example")]);
        malformed(&[name_extension("b\u{fc}cher.example".as_bytes())]);
        malformed(&[extension(0, &[])]);
        malformed(&[extension(
            0,
            &vector(2, &[vec![1], vector(2, b"a.example")].concat()),
        )]);
        let two = [vec![0], vector(2, b"a.example"), vec![0], vector(2, b"b.example")].concat();
        malformed(&[extension(0, &vector(2, &two))]);
        malformed(&[name_extension(b"a.example"), extension(ESNI, &[1])]);
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x",
            b"PRI * HTTP/2.0",
            b"\x80\x2e\x01",
            b"\x16\x02",
            b"\x15\x03\x03",
        ] {
            assert_eq!(sni(bytes), Err(NotTls));
        }
        assert_eq!(sni(&[22, 3, 1, 0, 4, 2]), Err(Malformed("not a ClientHello")));
        assert_eq!(sni(&[22, 3, 1, 0, 0]), Err(Malformed("length of a record")));
        let mut more = message(&[name_extension(b"a.example")]);
        more.push(0);
        assert!(matches!(sni(&records(&more, 1 << 14)), Err(Malformed(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = sni(&bytes);
            let _ = sni(&records(&[vec![1], vector(3, &bytes)].concat(), 100));
        }

        #[test]
        fn a_changed_hello_gives_a_valid_name_or_none(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<proptest::sample::Index>(),
            size in 1usize..200,
        ) {
            let mut bytes = records(&message(&[extension(10, &[0, 0]), name_extension(b"www.example.org")]), size);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                if let Ok(name) = sni(bytes) {
                    prop_assert_eq!(Host::parse(&name), Ok(Host::Name(name.clone())));
                }
            }
        }
    }
}
