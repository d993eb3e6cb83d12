//! Addresses that a sandbox may reach directly.

use ostler_egress::{AddressRule, Network};
use std::fmt;

/// A rule for IPv4, which is what the packet filter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Direct {
    // In this order a network comes before those within it.
    port: u16,
    network: Network,
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)
    }
}

impl Direct {
    fn new(network: Network, port: u16) -> Option<Self> {
        network.address().is_ipv4().then_some(Self { port, network })
    }

    /// Whether it means a reserved range, or a part of one, on purpose.
    pub(crate) fn is_special(self) -> bool {
        self.network.is_reserved()
    }

    pub(crate) const fn port(self) -> u16 {
        self.port
    }

    fn contains(self, other: Self) -> bool {
        self.port == other.port
            && self.network.prefix() <= other.network.prefix()
            // Those are in different sets.
            && self.is_special() == other.is_special()
            && self.network.contains(other.network.address())
    }

    /// As `nft -j` shows an element: an address or a network.
    pub(crate) fn parse(shown: &serde_json::Value, port: u16) -> Option<Self> {
        let network = match shown {
            serde_json::Value::String(address) => address.parse(),
            other => {
                let network = other.get("prefix")?;
                let (address, prefix) = (network.get("addr")?.as_str()?, network.get("len")?.as_u64()?);
                format!("{address}/{prefix}").parse()
            }
        };
        Self::new(network.ok()?, port)
    }
}

/// The IPv4 part without what another entry includes: the filter's set takes no overlapping elements.
pub(crate) fn direct(addresses: &[AddressRule]) -> Vec<Direct> {
    let mut all: Vec<Direct> = addresses
        .iter()
        .filter_map(|a| Direct::new(a.network, a.port))
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
    fn a_network_of_everything_is_possible() {
        let found = direct(&[allowed("0.0.0.0", 0, 22), allowed("255.255.255.255", 32, 22)]);
        assert_eq!(found.len(), 2, "the second is special");
        assert_eq!(found[0].to_string(), "0.0.0.0/0");
    }
}
