//! What is asked of the host, and what it says: its lock, routes, interfaces and counters.

use crate::NetworkError;
use crate::command::{Programs, set};
use crate::names::is_ours;
use crate::options::NetworkOptions;
use crate::slot::Maker;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

/// How long the programs of a killed server get to end.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_STEP: Duration = Duration::from_millis(5);

/// What a sandbox has sent and received, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received by the sandbox.
    pub received: u64,
    /// Sent by the sandbox.
    pub sent: u64,
}

/// The lock of the instance, which also ends only with the last program that a killed server had started.
pub(crate) async fn lock_file(options: &NetworkOptions) -> Result<Flock<File>, NetworkError> {
    let failed = |e| NetworkError::io(format!("the directory {}", options.state_dir.display()))(e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.state_dir)
        .map_err(failed)?;
    let path = options.state_dir.join("network.lock");
    let mut file = File::create(&path).map_err(failed)?;
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < end => {
                file = back;
                tokio::time::sleep(LOCK_STEP).await;
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(NetworkError::Cannot(format!(
                    "another server has {}: only one can use an instance's network at a time",
                    path.display()
                )));
            }
            Err((_, e)) => return Err(failed(e.into())),
        }
    }
}

/// Refuses a range that this host has other uses for.
pub(crate) async fn free(maker: &Maker) -> Result<(), NetworkError> {
    let routes = maker
        .programs
        .ip_json(&["-4", "route", "show", "table", "all"])
        .await?;
    for route in routes.as_array().into_iter().flatten() {
        let text = |key: &str| route.get(key).and_then(|v| v.as_str());
        let (Some(destination), device) = (text("dst"), text("dev").unwrap_or_default()) else {
            continue;
        };
        let (address, prefix) = destination.split_once('/').unwrap_or((destination, "32"));
        let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) else {
            continue;
        };
        if prefix > 0 && !is_ours(device) && maker.range.overlaps(address, prefix) {
            return Err(NetworkError::Cannot(format!(
                "the addresses {} of sandboxes overlap with {destination} on {device}: choose another range",
                maker.range
            )));
        }
    }
    Ok(())
}

/// Interfaces with their alias.
pub(crate) async fn links(programs: &Programs) -> Result<Vec<(String, String)>, NetworkError> {
    let shown = programs.ip_json(&["link", "show"]).await?;
    let links = shown.as_array().into_iter().flatten();
    let text = |link: &serde_json::Value, key: &str| link.get(key)?.as_str().map(str::to_owned);
    Ok(links
        .filter_map(|l| Some((text(l, "ifname")?, text(l, "ifalias").unwrap_or_default())))
        .collect())
}

/// Lets packets through between a slot and the rest. For the host as a whole only if it does not already: the rules of
/// this instance keep all but its own from using that no better than before, so it is said in the log.
pub(crate) fn forward(interface: &str) -> std::io::Result<()> {
    let all = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    if all.trim() == "0" {
        tracing::info!("net.ipv4.ip_forward is set to 1, since a sandbox may reach an address directly");
        set("ipv4/ip_forward", "1")?;
    }
    set(&format!("ipv4/conf/{interface}/forwarding"), "1")
}

/// Whether the routes of /proc/net/route have one to exactly this network.
pub(crate) fn routed(routes: &str, network: Ipv4Addr) -> bool {
    let wanted = format!("{:08X}", u32::from_ne_bytes(network.octets()));
    routes
        .lines()
        .any(|l| l.split_ascii_whitespace().nth(1) == Some(&wanted))
}

/// The counters of an interface in the text of /proc/net/dev, seen from its other end.
pub(crate) fn counters(text: &str, interface: &str) -> Option<Counters> {
    let line = text
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
    let sent = numbers.next()?.ok()?;
    let received = numbers.nth(7)?.ok()?;
    Some(Counters { received, sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_seen_from_the_sandbox() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n\
                    o1a2b3c4d-0001: 100 2 0 0 0 0 0 0 7000 3 0 0 0 0 0 0\n";
        let found = counters(text, "o1a2b3c4d-0001").unwrap();
        assert_eq!((found.sent, found.received), (100, 7000));
        assert_eq!(counters(text, "o1a2b3c4d-0002"), None);
    }

    #[test]
    fn networks_of_other_instances_are_seen() {
        let text = "Iface Destination Gateway\no1a2b3c4d-0001\t0400D50A\t00000000\t0001\n";
        assert!(routed(text, Ipv4Addr::new(10, 213, 0, 4)));
        assert!(!routed(text, Ipv4Addr::new(10, 213, 0, 8)));
    }
}
