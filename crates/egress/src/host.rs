//! What programs name as a destination: a domain name or an IP address, nothing in between.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host part of a destination, normalised.
///
/// One strict reading, because every form that we read in one way and another program in another is a way around the
/// policy: `0x7f.1`, `2130706433` and `127.1` are addresses to `inet_aton` and names to others, so they are neither here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A name in lower case, without the dot at its end, international labels as `xn--` (RFC 5891).
    Name(String),
    /// An address; IPv4-mapped IPv6 as IPv4.
    Address(IpAddr),
}

impl Host {
    /// Reads a host as it stands in URLs: IPv6 addresses in brackets.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let address: Ipv6Addr = inside.parse().map_err(|_| "it is not an IPv6 address")?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        Ok(Self::Name(name(text)?))
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Normalises a domain name, or says what is wrong with it. Limits of RFC 1035: 63 bytes per label, 253 in all.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    let ascii = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_| "it is not a valid international name")?
    };
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.len() > 253 {
        return Err("the name is longer than 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("a label of the name is empty or longer than 63 characters");
        }
        if !label
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        {
            return Err("names hold only letters, digits, `-`, `_` and dots");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a label of the name begins or ends with `-`");
        }
    }
    // The URL standard's test for what a lenient program takes for an IPv4 address.
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last
        .strip_prefix("0x")
        .map(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex == Some(true) || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is an unusual form of an IP address");
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, normal) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("XN--bcher-KVA.example", "xn--bcher-kva.example"),
            ("_srv.a-b.example", "_srv.a-b.example"),
            ("ｅxample.org", "example.org"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host::Name(normal.to_owned())), "{text}");
        }
    }

    #[test]
    fn addresses_have_one_form() {
        for (text, address) in [
            ("1.2.3.4", "1.2.3.4"),
            ("[::1]", "::1"),
            ("[::ffff:1.2.3.4]", "1.2.3.4"),
            ("[::FFFF:0102:0304]", "1.2.3.4"),
        ] {
            assert_eq!(
                Host::parse(text),
                Ok(Host::Address(address.parse().unwrap())),
                "{text}"
            );
        }
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "127.1",
            "0177.0.0.1",
            "1.2.3.4.",
            "１２７.0.0.1",
            "1.2.3.256",
            "a.0x",
            "[1.2.3.4]",
            "[fe80::1%eth0]",
            "::1",
            "[::1",
            "a b",
            "a\0b",
            "a/b",
            "a@b",
            "a:b",
            "-a.example",
            "a%2eexample",
            "*.example.org",
            &"a".repeat(64),
        ] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }
}
