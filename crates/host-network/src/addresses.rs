//! Addresses that a sandbox may reach directly.

use crate::options::mask;
use ostler_egress::AddressRule;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// A rule for IPv4, which is what the packet filter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Direct {
    // In this order a network comes before those within it.
    port: u16,
    network: u32,
    prefix: u8,
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Ipv4Addr::from(self.network))?;
        if self.prefix < 32 {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// IPv4 ranges that are not the public Internet (IANA's special-purpose registry, and a cloud's metadata service outside
/// of it). A wider network that happens to include one does not mean it; the egress policy decides in the same way.
pub(crate) const RESERVED: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

impl Direct {
    /// Whether it means a reserved range, or a part of one, on purpose.
    pub(crate) fn is_special(self) -> bool {
        RESERVED.iter().any(|(range, prefix)| {
            self.prefix >= *prefix && (self.network ^ u32::from(*range)) & mask(*prefix) == 0
        })
    }

    pub(crate) const fn port(self) -> u16 {
        self.port
    }

    fn contains(self, other: Self) -> bool {
        self.port == other.port
            && self.prefix <= other.prefix
            // Those are in different sets.
            && self.is_special() == other.is_special()
            && (self.network ^ other.network) & mask(self.prefix) == 0
    }

    /// As `nft -j` shows an element: an address or a network.
    pub(crate) fn parse(shown: &serde_json::Value, port: u16) -> Option<Self> {
        let (address, prefix) = match shown {
            serde_json::Value::String(address) => (address.as_str(), 32),
            other => {
                let network = other.get("prefix")?;
                let prefix = network.get("len")?.as_u64()?;
                (network.get("addr")?.as_str()?, u8::try_from(prefix).ok()?)
            }
        };
        let network = u32::from(address.parse::<Ipv4Addr>().ok()?);
        Some(Self {
            port,
            network,
            prefix,
        })
    }
}

/// The IPv4 part without what another entry includes: the filter's set takes no overlapping elements.
pub(crate) fn direct(addresses: &[AddressRule]) -> Vec<Direct> {
    let mut all: Vec<Direct> = addresses
        .iter()
        .filter_map(|a| {
            let IpAddr::V4(network) = a.network.address() else {
                return None;
            };
            Some(Direct {
                port: a.port,
                network: u32::from(network),
                prefix: a.network.prefix(),
            })
        })
        .collect();
    all.sort_unstable();
    let mut kept: Vec<Direct> = Vec::new();
    for next in all {
        if !kept.iter().rev().any(|k| k.contains(next)) {
            kept.push(next);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(network: &str, prefix: u8, port: u16) -> AddressRule {
        AddressRule {
            network: format!("{network}/{prefix}").parse().unwrap(),
            port,
        }
    }

    #[test]
    fn what_is_included_is_left_out() {
        let found = direct(&[
            allowed("10.1.2.3", 32, 443),
            allowed("10.0.0.0", 8, 443),
            allowed("10.1.2.3", 32, 80),
            allowed("10.1.2.3", 32, 80),
            allowed("10.128.0.0", 9, 443),
            allowed("2001:db8::", 64, 443),
            allowed("192.0.2.0", 24, 443),
        ]);
        let shown: Vec<String> = found.iter().map(|d| format!("{d}:{}", d.port())).collect();
        assert_eq!(shown, ["10.1.2.3:80", "10.0.0.0/8:443", "192.0.2.0/24:443"]);
    }

    #[test]
    fn special_ranges_must_be_meant() {
        let special = |network, prefix| direct(&[allowed(network, prefix, 80)])[0].is_special();
        assert!(!special("0.0.0.0", 0) && !special("168.0.0.0", 8) && !special("172.0.0.0", 8));
        assert!(special("10.0.0.0", 8) && special("10.2.0.0", 16) && special("169.254.169.254", 32));
    }

    #[test]
    fn the_policy_has_the_same_special_ranges() {
        let everything = allowed("0.0.0.0", 0, 80);
        for (range, prefix) in RESERVED {
            let first = u32::from(*range);
            let last = first | !mask(*prefix);
            for (address, inside) in [
                (Some(first), true),
                (Some(last), true),
                (first.checked_sub(1), false),
                (last.checked_add(1), false),
            ] {
                let Some(address) = address else { continue };
                let here = direct(&[allowed(&Ipv4Addr::from(address).to_string(), 32, 80)])[0].is_special();
                let there = !everything.covers(Ipv4Addr::from(address).into());
                assert_eq!(here, there, "{}", Ipv4Addr::from(address));
                assert!(here || !inside);
            }
        }
    }

    #[test]
    fn a_network_of_everything_is_possible() {
        let found = direct(&[allowed("0.0.0.0", 0, 22), allowed("255.255.255.255", 32, 22)]);
        assert_eq!(found.len(), 2, "the second is special");
        assert_eq!(found[0].to_string(), "0.0.0.0/0");
    }
}
