//! The user that QEMU runs as: one of its own for every machine, without any rights.

use ostler_domain::SandboxId;
use ostler_sandbox::detached::{UIDS, number};

/// First of the user ids of machines: above the ranges that distributions, containers and systemd hand out, beside those of
/// the other drivers, below 2³¹.
pub(crate) const FIRST_UID: u32 = 0x7200_0000;
/// The user for trials, which is none of them.
pub(crate) const FOR_TRIALS: u32 = FIRST_UID + UIDS;

/// A hardware address of this machine alone, as far as 24 random bits go, in QEMU's range.
pub(crate) fn hardware_address(id: SandboxId) -> String {
    let [_, a, b, c] = number(id).to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_differ_in_their_address() {
        let id = SandboxId::new();
        assert_ne!(hardware_address(id), hardware_address(SandboxId::new()));
    }
}
