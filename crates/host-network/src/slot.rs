//! One slot: making and removing it.

use crate::NetworkError;
use crate::command::{Programs, set};
use crate::names::Names;
use crate::namespace;
use crate::options::Range;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Name of the interface inside.
const INSIDE: &str = "eth0";

/// The network of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// File of the network namespace, to be entered with `setns`.
    pub namespace: PathBuf,
    /// Interface on the host.
    pub interface: String,
    /// Address of the sandbox.
    pub address: Ipv4Addr,
    /// Address of the host, where the name server answers (port 53).
    pub gateway: Ipv4Addr,
    pub(crate) number: u32,
    pub(crate) index: u32,
}

/// What slots are made with.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) programs: Programs,
    pub(crate) names: Names,
    pub(crate) range: Range,
}

impl Maker {
    /// The slot of a number whose parts exist; `None` when its interface does not.
    pub(crate) fn existing(&self, number: u32) -> Option<Slot> {
        let interface = self.names.interface(number);
        let index = nix::net::if_::if_nametoindex(interface.as_str()).ok()?;
        Some(Slot {
            namespace: namespace::path(&self.names.namespace(number)),
            interface,
            address: self.range.address(number),
            gateway: self.range.gateway(number),
            number,
            index,
        })
    }

    /// Makes a slot. What was made of it before a failure is left to [`Maker::remove`].
    pub(crate) async fn make(&self, number: u32) -> Result<Slot, NetworkError> {
        let action = "making a network namespace";
        let (namespace, interface) = (self.names.namespace(number), self.names.interface(number));
        let (address, gateway) = (self.range.address(number), self.range.gateway(number));
        self.programs
            .ip(action, None, &format!("netns add {namespace}\n"))
            .await?;
        // Before there is an interface. The loopback exists already and keeps IPv6, since programs use `::1`.
        let inside = namespace.clone();
        blocking(action, move || {
            namespace::within(&inside, || set("ipv6/conf/default/disable_ipv6", "1"))
        })
        .await?;
        let outside = format!(
            "link add {interface} type veth peer name {INSIDE} netns {namespace}\n\
             addr add {gateway}/30 dev {interface}\n"
        );
        self.programs.ip(action, None, &outside).await?;
        let outside = interface.clone();
        blocking(action, move || {
            for (name, value) in [
                ("rp_filter", "1"),
                ("route_localnet", "0"),
                ("proxy_arp", "0"),
                ("accept_redirects", "0"),
                ("send_redirects", "0"),
                ("accept_source_route", "0"),
                ("forwarding", "0"),
            ] {
                set(&format!("ipv4/conf/{outside}/{name}"), value)?;
            }
            set(&format!("ipv6/conf/{outside}/accept_ra"), "0")?;
            set(&format!("ipv6/conf/{outside}/disable_ipv6"), "1")
        })
        .await?;
        self.programs
            .ip(action, None, &format!("link set {interface} up\n"))
            .await?;
        let inside = format!(
            "link set lo up\n\
             addr add {address}/30 dev {INSIDE}\n\
             link set {INSIDE} up\n\
             route add default via {gateway}\n"
        );
        self.programs.ip(action, Some(&namespace), &inside).await?;
        self.existing(number).ok_or_else(|| NetworkError::Failed {
            action: action.to_owned(),
            message: format!("{interface} is gone again"),
        })
    }

    /// Removes all that there is of a slot, the way to the host first.
    pub(crate) async fn remove(&self, number: u32) -> Result<(), NetworkError> {
        let action = "removing a network namespace";
        let interface = self
            .existing(number)
            .map(|s| format!("link del {}\n", s.interface));
        let namespace = self.names.namespace(number);
        let namespace = namespace::path(&namespace)
            .exists()
            .then(|| format!("netns del {namespace}\n"));
        let lines: String = interface.into_iter().chain(namespace).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.programs.ip(action, None, &lines).await
    }
}

/// Does on a thread for such work what only takes system calls.
pub(crate) async fn blocking<T: Send + 'static>(
    action: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(NetworkError::io(action))
}
