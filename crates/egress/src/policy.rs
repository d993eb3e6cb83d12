//! The compiled policy of a sandbox. Pure: it says what is allowed and asks nobody.

use crate::Error;
use crate::host::{self, Host};
use crate::network::{Network, reserved};
use ostler_domain::Egress;
use std::net::IpAddr;

/// Ports of a domain that is listed without one.
const WEB_PORTS: [u16; 2] = [443, 80];
/// Most entries of a policy.
const MOST: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct DomainRule {
    name: String,
    /// `*.name`: what is below it, and not itself.
    below: bool,
    port: Option<u16>,
}

/// An entry of `addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRule {
    /// The addresses.
    pub network: Network,
    /// The port.
    pub port: u16,
}

impl AddressRule {
    /// Whether it means this address on purpose. A range that is not public must be listed as such or a part of it: an
    /// entry for everything (`0.0.0.0/0:443`) is meant for the Internet, not for this machine and its metadata service.
    /// A packet filter that is made of these rules must leave reserved ranges out of wider networks in the same way.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.network.contains(address)
            && reserved(address).is_none_or(|(range, _)| self.network.prefix() >= range.prefix())
    }
}

/// How a name is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameMatch<'a> {
    /// Listed itself.
    Exact,
    /// By `*.`; the part that the sandbox chooses.
    Below(&'a str),
}

/// What a sandbox may reach; everything else is denied. The default allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    domains: Vec<DomainRule>,
    addresses: Vec<AddressRule>,
}

impl Policy {
    /// Compiles what a template says. An error names the entry.
    pub fn compile(egress: &Egress) -> Result<Self, Error> {
        let count = egress.domains.len() + egress.addresses.len();
        if count > MOST {
            return Err(Error::TooMany { count, most: MOST });
        }
        let entry = |entry: &String, reason| Error::Entry {
            entry: entry.clone(),
            reason,
        };
        Ok(Self {
            domains: egress
                .domains
                .iter()
                .map(|e| domain(e).map_err(|reason| entry(e, reason)))
                .collect::<Result<_, _>>()?,
            addresses: egress
                .addresses
                .iter()
                .map(|e| address(e).map_err(|reason| entry(e, reason)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The entries of `addresses`, for a packet filter. See [`AddressRule::covers`].
    pub fn addresses(&self) -> &[AddressRule] {
        &self.addresses
    }

    /// Whether the address is listed with this port, and by which entry: the narrowest.
    pub fn address(&self, address: IpAddr, port: u16) -> Option<&AddressRule> {
        self.addresses
            .iter()
            .filter(|rule| rule.port == port && rule.covers(address))
            .max_by_key(|rule| rule.network.prefix())
    }

    /// Whether the address is listed with any port.
    pub(crate) fn address_any_port(&self, address: IpAddr) -> Option<&AddressRule> {
        self.addresses
            .iter()
            .filter(|rule| rule.covers(address))
            .max_by_key(|rule| rule.network.prefix())
    }

    /// Whether and how a normalised name is allowed, with this port or, for `None`, with any.
    pub(crate) fn name<'a>(&self, name: &'a str, port: Option<u16>) -> Option<NameMatch<'a>> {
        let matches = |rule: &DomainRule| {
            if !port.is_none_or(|port| rule.port.map_or_else(|| WEB_PORTS.contains(&port), |p| p == port)) {
                return None;
            }
            if !rule.below {
                return (rule.name == name).then_some(NameMatch::Exact);
            }
            let chosen = name.strip_suffix(rule.name.as_str())?.strip_suffix('.')?;
            (!chosen.is_empty()).then_some(NameMatch::Below(chosen))
        };
        let mut found: Vec<_> = self.domains.iter().filter_map(matches).collect();
        // The least of what the sandbox chose is what its limits are about.
        found.sort_by_key(|m| match m {
            NameMatch::Exact => 0,
            NameMatch::Below(chosen) => chosen.len(),
        });
        found.first().copied()
    }
}

fn port(text: &str) -> Result<u16, String> {
    Some(text)
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|t| t.parse().ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("`{text}` is not a port from 1 to 65535"))
}

fn domain(entry: &str) -> Result<DomainRule, String> {
    if entry.contains("://") || entry.contains('/') {
        return Err(
            "it is a URL or a network; a domain is a name such as `example.org` or `*.example.org:8443`"
                .to_owned(),
        );
    }
    let (text, port) = match entry.rsplit_once(':') {
        Some((text, p)) if !entry.starts_with('[') => (text, Some(port(p)?)),
        _ => (entry, None),
    };
    let (text, below) = match text.strip_prefix("*.") {
        Some(text) => (text, true),
        None => (text, false),
    };
    if text == "*" {
        return Err("`*` would allow every name; write the domains that are needed".to_owned());
    }
    if text.contains('*') {
        return Err("`*` is only possible as the first label, as in `*.example.org`".to_owned());
    }
    if let Ok(Host::Address(_)) = Host::parse(text) {
        return Err("it is an address; those belong in `addresses`, with a port".to_owned());
    }
    Ok(DomainRule {
        name: host::name(text)?,
        below,
        port,
    })
}

fn address(entry: &str) -> Result<AddressRule, String> {
    const FORM: &str =
        "an address is written as `192.0.2.7:5432`, `192.0.2.0/24:443` or `[2001:db8::/64]:22`";
    let (network, text) = match entry.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => entry.split_once(':').filter(|(_, port)| !port.contains(':')),
    }
    .ok_or_else(|| format!("its port cannot be found: {FORM}"))?;
    Ok(AddressRule {
        network: network.parse().map_err(|reason| format!("{reason}: {FORM}"))?,
        port: port(text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(domains: &[&str], addresses: &[&str]) -> Result<Policy, Error> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Policy::compile(&Egress {
            domains: own(domains),
            addresses: own(addresses),
        })
    }

    #[test]
    fn names_match_whole_labels() {
        let policy = policy(
            &[
                "Example.org.",
                "*.wild.example",
                "git.example:8443",
                "bücher.example",
            ],
            &[],
        )
        .unwrap();
        let allowed = |name: &str, port| policy.name(name, Some(port)).is_some();
        assert!(allowed("example.org", 443) && allowed("example.org", 80) && !allowed("example.org", 22));
        assert!(!allowed("www.example.org", 443) && !allowed("notexample.org", 443));
        assert!(!allowed("example.org.evil", 443));
        assert!(allowed("a.wild.example", 443) && allowed("a.b.wild.example", 443));
        assert!(!allowed("wild.example", 443) && !allowed("awild.example", 443));
        assert!(allowed("git.example", 8443) && !allowed("git.example", 443));
        assert!(allowed("xn--bcher-kva.example", 443));
        assert_eq!(
            policy.name("a.b.wild.example", None),
            Some(NameMatch::Below("a.b"))
        );
    }

    #[test]
    fn addresses_match_networks_and_ports() {
        let policy = policy(
            &[],
            &[
                "192.0.2.7:5432",
                "0.0.0.0/0:443",
                "10.1.0.0/16:22",
                "[2001:db8::/64]:22",
            ],
        )
        .unwrap();
        let allowed = |address: &str, port| policy.address(address.parse().unwrap(), port).is_some();
        assert!(allowed("192.0.2.7", 5432) && !allowed("192.0.2.7", 5433) && !allowed("192.0.2.8", 5432));
        assert!(allowed("::ffff:192.0.2.7", 5432));
        assert!(allowed("10.1.2.3", 22) && !allowed("10.2.0.1", 22));
        assert!(allowed("2001:db8::9", 22) && !allowed("2001:db8:0:1::", 22));
        // Everything is everything that is public.
        assert!(allowed("1.1.1.1", 443));
        assert!(!allowed("169.254.169.254", 443) && !allowed("127.0.0.1", 443) && !allowed("10.1.2.3", 443));
    }

    #[test]
    fn wrong_entries_are_named_with_what_is_wrong() {
        for entry in [
            "",
            "*",
            "*.",
            "a*.example",
            "https://example.org",
            "example.org/x",
            "example.org:0",
            "example.org:http",
            "1.2.3.4",
            "[::1]",
            "1.2.3.4:443",
            "0x7f.1",
            "a b",
            "*.*.example",
            "::1",
            "example.org:+1",
        ] {
            let error = policy(&[entry], &[]).unwrap_err();
            assert!(error.to_string().contains(&format!("`{entry}`")), "{error}");
        }
        for entry in [
            "",
            "1.2.3.4",
            "1.2.3.4:",
            "1.2.3.4/24:1",
            "example.org:443",
            "::1:22",
            "[::1]",
            "[::1]22",
            "1.2.3.4:70000",
        ] {
            assert!(policy(&[], &[entry]).is_err(), "{entry}");
        }
        let many = vec!["example.org"; MOST + 1];
        assert!(matches!(policy(&many, &[]), Err(Error::TooMany { .. })));
    }
}
