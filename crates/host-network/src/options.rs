//! What a host network is made with.

use crate::NetworkError;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// What a host network is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Separates installations on one host; all names of kernel objects are made of it.
    pub instance: String,
    /// Directory of this instance, made if missing; holds only a lock file.
    pub state_dir: PathBuf,
    /// Addresses of the sandboxes, four for each.
    pub range: Range,
    /// Slots that are made ahead.
    pub spare: usize,
    /// Connections that one sandbox may have to the proxy at once, and DNS queries under way.
    pub connections: usize,
}

impl NetworkOptions {
    /// Options with defaults: 10.213.0.0/16, 4 slots ahead, 512 connections per sandbox.
    pub fn new(instance: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            range: Range::default(),
            spare: 4,
            connections: 512,
        }
    }
}

/// A range of IPv4 addresses like `10.213.0.0/16`, from /8 to /28.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    prefix: u8,
}

impl Default for Range {
    fn default() -> Self {
        Self {
            first: u32::from(Ipv4Addr::new(10, 213, 0, 0)),
            prefix: 16,
        }
    }
}

impl FromStr for Range {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || {
            NetworkError::Cannot(format!(
                "`{text}` is no range of addresses for sandboxes: write one like 10.213.0.0/16, from /8 to /28"
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let range = Self {
            first: u32::from(address),
            prefix,
        };
        if !(8..=28).contains(&prefix) || range.first & !mask(prefix) != 0 {
            return Err(wrong());
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl Range {
    /// How many sandboxes it has room for; the names of interfaces hold four hexadecimal digits.
    pub(crate) fn slots(self) -> u32 {
        (1 << (30 - self.prefix)).min(0x1_0000)
    }

    /// The network of a slot, of which the second address is the host's and the third the sandbox's.
    pub(crate) fn network(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 4 * slot)
    }

    pub(crate) fn gateway(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 4 * slot + 1)
    }

    pub(crate) fn address(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 4 * slot + 2)
    }

    /// Whether another network has addresses in common with it.
    pub(crate) fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(prefix.min(self.prefix));
        (u32::from(network) ^ self.first) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_divided() {
        let range: Range = "10.213.0.0/16".parse().unwrap();
        assert_eq!(range, Range::default());
        assert_eq!(range.slots(), 16384);
        assert_eq!(range.address(16383), Ipv4Addr::new(10, 213, 255, 254));
        for wrong in ["10.213.0.1/16", "10.213.0.0", "10.0.0.0/29", "::/16", "0.0.0.0/0"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
        assert!(range.overlaps(Ipv4Addr::new(10, 0, 0, 0), 8));
        assert!(range.overlaps(Ipv4Addr::new(10, 213, 7, 0), 24));
        assert!(!range.overlaps(Ipv4Addr::new(10, 214, 0, 0), 16));
    }
}
