//! The initial RAM disk, which is the guest program as the first process, modules, and a description of the machine.
//!
//! What all machines with one kernel have in common is one archive; the description of one machine is another, appended:
//! the kernel unpacks all that follow each other.

use ostler_sandbox::cpio::Archive;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

/// What the guest is told, at `/ostler.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    /// To end at once.
    pub(crate) trial: bool,
    /// Whether there is a second drive.
    pub(crate) data: bool,
    pub(crate) network: Option<Network>,
    pub(crate) env: BTreeMap<String, String>,
}

/// Addresses of the one network interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Network {
    address: Ipv4Addr,
    prefix: u32,
    gateway: Ipv4Addr,
    name_server: Ipv4Addr,
}

/// The network that QEMU makes for one machine.
pub(crate) const USER_NETWORK: Network = Network {
    address: Ipv4Addr::new(10, 0, 2, 15),
    prefix: 24,
    gateway: Ipv4Addr::new(10, 0, 2, 2),
    name_server: Ipv4Addr::new(10, 0, 2, 3),
};

/// The archive with the guest and the modules, in the order in which they are to be loaded.
pub(crate) fn common(guest: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.directory("dev")?;
    archive.directory("root")?;
    archive.file("init", 0o755, guest)?;
    archive.directory("modules")?;
    for (index, (name, content)) in modules.iter().enumerate() {
        archive.file(&format!("modules/{index:03}-{name}.ko"), 0o644, content)?;
    }
    archive.finish()
}

/// The archive with the description of a machine.
pub(crate) fn description(machine: &Machine) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.file("ostler.json", 0o600, &serde_json::to_vec(machine)?)?;
    archive.finish()
}
