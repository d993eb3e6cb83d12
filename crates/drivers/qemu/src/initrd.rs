//! The initial RAM disk, which is the guest program as the first process, modules, and a description of the machine.
//!
//! What all machines with one kernel have in common is one archive; the description of one machine is another, appended:
//! the kernel unpacks all that follow each other.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
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
pub(crate) fn common(guest: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev");
    archive.directory("root");
    archive.file("init", 0o755, guest);
    archive.directory("modules");
    for (index, (name, content)) in modules.iter().enumerate() {
        archive.file(&format!("modules/{index:03}-{name}.ko"), 0o644, content);
    }
    archive.end()
}

/// The archive with the description of a machine.
pub(crate) fn description(machine: &Machine) -> serde_json::Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("ostler.json", 0o600, &serde_json::to_vec(machine)?);
    Ok(archive.end())
}

/// An archive in the format `newc` of cpio, see the kernel's `buffer-format.rst`.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let mut header = String::from("070701");
        // Inode, mode, user, group, links, time, size, device and device of a special file, length of the name, check sum.
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        for field in fields {
            // Writing to a string cannot fail.
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend(header.bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align(4);
        self.bytes.extend(content);
        self.align(4);
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.align(512);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_aligned_and_say_the_length_of_each_entry() {
        let bytes = common(b"guest", &[("virtio".into(), b"module".to_vec())]);
        assert_eq!(bytes.len() % 512, 0);
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, length) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 109 + length]).unwrap();
            if name == "TRAILER!!!" {
                break;
            }
            let start = (at + 110 + length).next_multiple_of(4);
            found.push((name, mode, &bytes[start..start + size]));
            at = (start + size).next_multiple_of(4);
        }
        assert_eq!(found[2], ("init", 0o100_755, b"guest".as_slice()));
        assert_eq!(
            found[4],
            ("modules/000-virtio.ko", 0o100_644, b"module".as_slice())
        );
    }
}
