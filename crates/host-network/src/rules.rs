//! The packet filter of an instance, as a transaction of `nft`.

use crate::addresses::Direct;
use crate::names::Names;
use crate::options::Range;
use ostler_egress::Network;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The set of what may be reached directly of the public Internet.
const ALLOWED: &str = "allowed";
/// The set of what may be reached directly of the rest.
const SPECIAL: &str = "special";

/// Ports of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) proxy: u16,
    pub(crate) names: u16,
}

/// Replaces the whole table in one transaction: there is no instant without it.
///
/// What leaves for the outside is looked up for every packet, not only for the first of a connection. So what the
/// kernel remembers of connections gives a sandbox no right that is not in the set.
pub(crate) fn table(
    names: &Names,
    range: Range,
    ports: Ports,
    allowed: &BTreeMap<String, Vec<Direct>>,
) -> String {
    let (table, ours, group) = (names.table(), names.interface_prefix(), names.log_group);
    let Ports { proxy, names: dns } = ports;
    let reserved: Vec<String> = Network::reserved_ipv4().map(|n| n.to_string()).collect();
    let reserved = reserved.join(", ");
    let mut text = format!(
        r#"table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  set {ALLOWED} {{
    typeof iifname . ip daddr . meta l4proto . th dport
    flags interval
  }}
  set {SPECIAL} {{
    typeof iifname . ip daddr . meta l4proto . th dport
    flags interval
  }}
  set noisy {{
    type ifname
    size 65536
    flags dynamic,timeout
    timeout 1m
  }}
  # Only a limited number of refused packets of each sandbox is told, so that none hides what another does.
  chain tell {{
    update @noisy {{ iifname limit rate 10/second burst 20 packets }} log group {group} snaplen 64
  }}
  chain silent {{
    jump tell
    drop
  }}
  # Where an answer is possible, so that programs fail at once instead of waiting.
  chain refuse {{
    jump tell
    reject with icmpx admin-prohibited
  }}
  # Fragments have been put together before this.
  chain arriving {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{ours}*" meta nfproto != ipv4 goto silent
    iifname "{ours}*" fib saddr . iif oif missing goto silent
  }}
  chain redirecting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{ours}*" goto redirect_sandbox
  }}
  chain redirect_sandbox {{
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns}
    ip daddr != {{ {reserved} }} iifname . ip daddr . meta l4proto . th dport @{ALLOWED} accept
    ip daddr {{ {reserved} }} iifname . ip daddr . meta l4proto . th dport @{SPECIAL} accept
    meta l4proto tcp redirect to :{proxy}
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname "{ours}*" goto sandbox_to_host
    meta l4proto {{ tcp, udp }} th dport {{ {proxy}, {dns} }} ct state new drop
  }}
  chain sandbox_to_host {{
    fib daddr . iif type != local goto refuse
    tcp dport {{ {proxy}, {dns} }} accept
    udp dport {dns} accept
    goto refuse
  }}
  chain from_host {{
    type filter hook output priority filter; policy accept;
    oifname "{ours}*" ct state new drop
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname "{ours}*" goto sandbox_out
    oifname "{ours}*" goto sandbox_in
  }}
  # No other sandbox, whatever is allowed.
  chain sandbox_out {{
    oifname "{ours}*" goto refuse
    ip daddr {range} goto refuse
    ip daddr != {{ {reserved} }} iifname . ip daddr . meta l4proto . th dport @{ALLOWED} accept
    ip daddr {{ {reserved} }} iifname . ip daddr . meta l4proto . th dport @{SPECIAL} accept
    goto refuse
  }}
  chain sandbox_in {{
    ct state established,related accept
    drop
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {range} oifname != "{ours}*" masquerade
  }}
}}
"#
    );
    for (interface, addresses) in allowed {
        text.push_str(&elements(names, "add", interface, addresses));
    }
    text
}

/// Adds (`add`) or removes (`delete`) what a sandbox may reach; nothing for no addresses.
pub(crate) fn elements(names: &Names, verb: &str, interface: &str, addresses: &[Direct]) -> String {
    let table = names.table();
    let mut text = String::new();
    for address in addresses {
        let set = if address.is_special() { SPECIAL } else { ALLOWED };
        for protocol in ["tcp", "udp"] {
            // Writing to a string cannot fail.
            let _never = writeln!(
                text,
                "{verb} element inet {table} {set} {{ \"{interface}\" . {address} . {protocol} . {} }}",
                address.port()
            );
        }
    }
    text
}

/// The elements of the sets in a table as `nft -j` shows it, by interface.
pub(crate) fn parse(shown: &serde_json::Value) -> BTreeMap<String, Vec<Direct>> {
    let mut found: BTreeMap<String, Vec<Direct>> = BTreeMap::new();
    let sets = shown.get("nftables").and_then(|v| v.as_array());
    let elements = sets
        .into_iter()
        .flatten()
        .filter_map(|object| {
            let set = object.get("set")?;
            let name = set.get("name")?.as_str()?;
            [ALLOWED, SPECIAL]
                .contains(&name)
                .then(|| set.get("elem")?.as_array())?
        })
        .flatten();
    for element in elements {
        let Some([interface, address, _protocol, port]) = element
            .get("concat")
            .and_then(|c| c.as_array())
            .map(Vec::as_slice)
        else {
            continue;
        };
        let port = port.as_u64().and_then(|p| u16::try_from(p).ok());
        if let (Some(interface), Some(port)) = (interface.as_str(), port)
            && let Some(direct) = Direct::parse(address, port)
        {
            let of_interface = found.entry(interface.to_owned()).or_default();
            if !of_interface.contains(&direct) {
                of_interface.push(direct);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_egress::AddressRule;

    #[test]
    fn what_nft_shows_is_what_was_added() {
        let shown = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "allowed", "elem": [
                {"concat": ["o1a2b3c4d-0001", {"prefix": {"addr": "11.0.0.0", "len": 8}}, "tcp", 443]},
                {"concat": ["o1a2b3c4d-0001", {"prefix": {"addr": "11.0.0.0", "len": 8}}, "udp", 443]},
            ]}},
            {"set": {"name": "special", "elem": [
                {"concat": ["o1a2b3c4d-0001", "192.0.2.1", "tcp", 5432]},
            ]}},
            {"set": {"name": "noisy", "elem": [{"elem": {"val": "o1a2b3c4d-0001", "expires": 7}}]}},
            {"rule": {"chain": "refuse"}},
        ]});
        let found = parse(&shown);
        let allowed = |network: &str, prefix: u8, port| AddressRule {
            network: format!("{network}/{prefix}").parse().unwrap(),
            port,
        };
        let wanted = crate::addresses::direct(&[allowed("11.0.0.0", 8, 443), allowed("192.0.2.1", 32, 5432)]);
        assert_eq!(found["o1a2b3c4d-0001"], wanted);
        let text = elements(&Names::of("a"), "add", "x", &wanted);
        assert!(
            text.contains("allowed { \"x\" . 11.0.0.0/8 . udp . 443 }"),
            "{text}"
        );
        assert!(
            text.contains("special { \"x\" . 192.0.2.1 . tcp . 5432 }"),
            "{text}"
        );
    }
}
