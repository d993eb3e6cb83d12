//! Names of kernel objects. All carry the instance, so that they are found again and never mistaken for another's.

use sha2::{Digest, Sha256};

/// The names of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    tag: String,
    /// Group of the kernel's packet log.
    pub(crate) log_group: u16,
    /// Number that spreads the slots of several instances over a range.
    pub(crate) offset: u32,
}

impl Names {
    pub(crate) fn of(instance: &str) -> Self {
        let hash = Sha256::digest(instance.as_bytes());
        Self {
            tag: format!("{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]),
            // Group 0 is where the kernel's own tools log to.
            log_group: u16::from_be_bytes([hash[4], hash[5]]).max(1),
            offset: u32::from(u16::from_be_bytes([hash[6], hash[7]])),
        }
    }

    pub(crate) fn table(&self) -> String {
        format!("ostler_{}", self.tag)
    }

    /// What the names of all interfaces begin with.
    pub(crate) fn interface_prefix(&self) -> String {
        format!("o{}-", self.tag)
    }

    /// At most 15 characters, the kernel's limit.
    pub(crate) fn interface(&self, slot: u32) -> String {
        format!("{}{slot:04x}", self.interface_prefix())
    }

    pub(crate) fn namespace_prefix(&self) -> String {
        format!("ostler-{}-", self.tag)
    }

    pub(crate) fn namespace(&self, slot: u32) -> String {
        format!("{}{slot:04x}", self.namespace_prefix())
    }

    /// The slot of an interface or a namespace of this instance.
    pub(crate) fn slot(&self, name: &str) -> Option<u32> {
        let digits = name
            .strip_prefix(&self.interface_prefix())
            .or_else(|| name.strip_prefix(&self.namespace_prefix()))?;
        (digits.len() == 4)
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    }
}

/// Whether an interface is of any instance of this program.
pub(crate) fn is_ours(interface: &str) -> bool {
    let bytes = interface.as_bytes();
    bytes.len() == 14
        && bytes[0] == b'o'
        && bytes[9] == b'-'
        && bytes[1..9].iter().chain(&bytes[10..]).all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_found_again() {
        let (a, b) = (Names::of("a"), Names::of("b"));
        assert_ne!(a, b);
        let name = a.interface(0xffff);
        assert!(name.len() <= 15 && is_ours(&name), "{name}");
        assert_eq!(a.slot(&name), Some(0xffff));
        assert_eq!(a.slot(&a.namespace(7)), Some(7));
        assert_eq!(b.slot(&name), None);
        assert!(!is_ours("ovs-system") && !is_ours("eth0"));
    }
}
