//! The user that QEMU runs as: one of its own for every machine, without any rights.

use ostler_domain::SandboxId;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

/// First of the user ids of machines: above the ranges that distributions, containers and systemd hand out, beside those of
/// the other drivers, below 2³¹.
const FIRST_UID: u32 = 0x7200_0000;
/// How many there are.
const UIDS: u32 = 0x10_0000;
/// The user for trials, which is none of them.
pub(crate) const FOR_TRIALS: u32 = FIRST_UID + UIDS;

/// A user that none of `taken` is, and that no process of this host runs as; `None` when all are in use. The first choice
/// comes from the end of the id, which is random, so that installations that know nothing of each other differ.
pub(crate) fn free(id: SandboxId, taken: &BTreeSet<u32>) -> Option<u32> {
    let start = number(id);
    let running: BTreeSet<u32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.metadata().ok()?.uid()))
        .collect();
    (0..UIDS)
        .map(|step| FIRST_UID + start.wrapping_add(step) % UIDS)
        .find(|uid| !taken.contains(uid) && !running.contains(uid))
}

/// A hardware address of this machine alone, as far as 24 random bits go, in QEMU's range.
pub(crate) fn hardware_address(id: SandboxId) -> String {
    let [_, a, b, c] = number(id).to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn number(id: SandboxId) -> u32 {
    let text = id.to_string();
    let tail = text.bytes().rev().take(8);
    tail.fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_of_one_machine_only() {
        let id = SandboxId::new();
        let first = free(id, &BTreeSet::new()).unwrap();
        let second = free(id, &[first].into()).unwrap();
        assert_ne!(first, second);
        for uid in [first, second] {
            assert!((FIRST_UID..FIRST_UID + UIDS).contains(&uid));
        }
        assert_ne!(hardware_address(id), hardware_address(SandboxId::new()));
    }
}
