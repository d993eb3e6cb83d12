//! The user that a jailed Firecracker runs as: one of its own for every machine.

use ostler_domain::SandboxId;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

/// First of the user ids of machines: above the ranges that distributions, containers and systemd hand out, beside that
/// of the process driver, below 2³¹.
pub(crate) const FIRST_UID: u32 = 0x7100_0000;
/// How many there are.
pub(crate) const UIDS: u32 = 0x10_0000;

/// A user that none of `taken` is, and that no process of this host runs as; `None` when all are in use. The first choice
/// comes from the end of the id, which is random, so that installations that know nothing of each other differ.
pub(crate) fn free(id: SandboxId, taken: &BTreeSet<u32>) -> Option<u32> {
    let start = id
        .to_string()
        .bytes()
        .rev()
        .take(8)
        .fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    let running = running();
    (0..UIDS)
        .map(|step| FIRST_UID + start.wrapping_add(step) % UIDS)
        .find(|uid| !taken.contains(uid) && !running.contains(uid))
}

fn running() -> BTreeSet<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.metadata().ok()?.uid()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_of_one_machine_only() {
        let id = SandboxId::new();
        let first = free(id, &BTreeSet::new()).unwrap();
        assert!((FIRST_UID..FIRST_UID + UIDS).contains(&first));
        let taken: BTreeSet<u32> = [first].into();
        let second = free(id, &taken).unwrap();
        assert_ne!(first, second);
        assert!((FIRST_UID..FIRST_UID + UIDS).contains(&second));
        let all: BTreeSet<u32> = (FIRST_UID..FIRST_UID + UIDS).collect();
        assert_eq!(free(id, &all), None);
    }
}
