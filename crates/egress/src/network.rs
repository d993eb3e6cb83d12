//! IP networks, and which of them are not the public Internet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP network in prefix notation; a single address is the network with the longest prefix.
///
/// IPv4-mapped IPv6 addresses (RFC 4291) count as the IPv4 address inside, here and in every comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of one address.
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: width(address),
        }
    }

    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that all its addresses share.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it holds exactly one address.
    pub fn is_single(&self) -> bool {
        self.prefix == width(self.address)
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && masked(bits(address), self.prefix) == bits(self.address)
    }

    /// Whether it is a range that is not the public Internet, or a part of one. A wider network that happens to include
    /// one does not mean it.
    pub fn is_reserved(&self) -> bool {
        reserved(self.address).is_some_and(|(range, _)| self.prefix >= range.prefix)
    }

    /// The ranges of IPv4 that are not the public Internet. None overlaps with another.
    pub fn reserved_ipv4() -> impl Iterator<Item = Self> {
        let all = RESERVED.iter().map(|(range, _)| *range);
        all.filter(|range| range.address.is_ipv4())
    }

    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            prefix,
        }
    }

    const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Self {
        Self {
            address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)),
            prefix,
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

// Both families left-aligned in 128 bits, so that one mask serves both.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(bits: u128, prefix: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    /// `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`. What is wrong is said in words.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{address}` is not an IP address"))?;
        let Some(prefix) = prefix else {
            return Ok(Self::single(address));
        };
        if address.to_canonical() != address {
            return Err("write IPv4 networks in their own notation".to_owned());
        }
        let most = width(address);
        let prefix = Some(prefix)
            .filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|p| p.parse().ok())
            .filter(|p| *p <= most)
            .ok_or_else(|| format!("`/{prefix}` is not a prefix length from 0 to {most}"))?;
        let network = masked(bits(address), prefix);
        if network != bits(address) {
            return Err(format!("`{address}` has bits set behind its prefix of {prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

/// Ranges that are not the public Internet (IANA special-purpose registries, RFC 6890 and later), and addresses of
/// metadata services of clouds outside of them. The narrower come first.
const RESERVED: &[(Network, &str)] = &[
    (Network::v4(0, 0, 0, 0, 8), "an unspecified address"),
    (Network::v4(10, 0, 0, 0, 8), "a private address"),
    (Network::v4(100, 64, 0, 0, 10), "an address shared by a provider"),
    (Network::v4(127, 0, 0, 0, 8), "a loopback address"),
    (Network::v4(168, 63, 129, 16, 32), "a metadata service"),
    (
        Network::v4(169, 254, 0, 0, 16),
        "a link-local address, as metadata services have",
    ),
    (Network::v4(172, 16, 0, 0, 12), "a private address"),
    (Network::v4(192, 0, 0, 0, 24), "an address for protocols"),
    (Network::v4(192, 0, 2, 0, 24), "an address for documentation"),
    (Network::v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (Network::v4(192, 168, 0, 0, 16), "a private address"),
    (Network::v4(198, 18, 0, 0, 15), "an address for benchmarks"),
    (Network::v4(198, 51, 100, 0, 24), "an address for documentation"),
    (Network::v4(203, 0, 113, 0, 24), "an address for documentation"),
    (Network::v4(224, 0, 0, 0, 4), "a multicast address"),
    (Network::v4(240, 0, 0, 0, 4), "a reserved address"),
    (Network::v6(0x64, 0xff9b, 1, 48), "a local NAT64 address"),
    (Network::v6(0x2001, 0, 0, 23), "an address for protocols"),
    (Network::v6(0x2001, 0xdb8, 0, 32), "an address for documentation"),
    (Network::v6(0x2002, 0, 0, 16), "a 6to4 address"),
    (Network::v6(0x3fff, 0, 0, 20), "an address for documentation"),
    (
        Network::v6(0xfe80, 0, 0, 10),
        "a link-local address, as metadata services have",
    ),
    (
        Network::v6(0xfc00, 0, 0, 7),
        "a private address, as metadata services have",
    ),
    (Network::v6(0xff00, 0, 0, 8), "a multicast address"),
    (Network::v6(0, 0, 0, 96), "a loopback or unspecified address"),
    // Global unicast is 2000::/3; these three are everything else.
    (Network::v6(0, 0, 0, 3), "not a public address"),
    (Network::v6(0x4000, 0, 0, 2), "not a public address"),
    (Network::v6(0x8000, 0, 0, 1), "not a public address"),
];

/// NAT64 (RFC 6052): the last 32 bits are the IPv4 address that is really reached.
const NAT64: Network = Network::v6(0x64, 0xff9b, 0, 96);

/// The range that makes `address` not a public one, and what it is, in words.
pub(crate) fn reserved(address: IpAddr) -> Option<(Network, &'static str)> {
    let address = address.to_canonical();
    if let IpAddr::V6(v6) = address
        && NAT64.contains(address)
    {
        let inside = Ipv4Addr::from_bits(v6.to_bits() as u32);
        return reserved(inside.into()).map(|(_, what)| (NAT64, what));
    }
    RESERVED
        .iter()
        .find(|(range, _)| range.contains(address))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written() {
        for text in [
            "192.0.2.7",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "2001:db8::/32",
            "::/0",
            "::1",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "/8",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/8",
            "01.2.3.4",
            "1.2.3",
            "::/129",
            "::ffff:10.0.0.0/104",
            "1.2.3.0/24/24",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert_eq!(
            "::ffff:1.2.3.4".parse::<Network>().unwrap().to_string(),
            "1.2.3.4"
        );
    }

    #[test]
    fn reserved_networks_are_whole_ranges_or_parts() {
        for text in ["10.0.0.0/8", "10.2.0.0/16", "169.254.169.254", "fc00::/8"] {
            assert!(text.parse::<Network>().unwrap().is_reserved(), "{text}");
        }
        for text in ["0.0.0.0/0", "168.0.0.0/8", "172.0.0.0/8", "9.9.9.9", "2000::/3"] {
            assert!(!text.parse::<Network>().unwrap().is_reserved(), "{text}");
        }
        let ranges: Vec<Network> = Network::reserved_ipv4().collect();
        assert!(ranges.iter().all(Network::is_reserved));
        for (n, range) in ranges.iter().enumerate() {
            let mut others = ranges[n + 1..].iter();
            assert!(
                others.all(|o| !o.contains(range.address()) && !range.contains(o.address())),
                "{range}"
            );
        }
    }

    #[test]
    fn nothing_but_public_addresses_is_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(reserved(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "1.1.1.1",
            "9.9.9.9",
            "11.0.0.0",
            "100.128.0.1",
            "128.0.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "223.1.1.1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(reserved(text.parse().unwrap()), None, "{text}");
        }
    }
}
