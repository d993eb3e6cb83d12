//! Finding and killing the processes of a sandbox without a namespace and without a cgroup: by the marker in their
//! environment and by descent from those that have it.

use nix::sys::signal::Signal;
use ostler_domain::SandboxId;
use ostler_sandbox::detached::{self, is_marked};
use ostler_sandbox::process::{Identity, stat};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Every living process that has the marker or descends from one that has it.
pub(crate) fn processes(id: SandboxId) -> Vec<Identity> {
    processes_and(id, &[])
}

/// The same, with those already known and their descendants.
fn processes_and(id: SandboxId, known: &[Identity]) -> Vec<Identity> {
    let mut parents = BTreeMap::new();
    let mut found: BTreeSet<i32> = known.iter().filter(|p| p.alive()).map(|p| p.pid).collect();
    for pid in detached::processes() {
        let Some(process) = stat(pid).filter(|s| !s.zombie) else {
            continue;
        };
        parents.insert(pid, (process.parent, process.start));
        if is_marked(pid, id) {
            found.insert(pid);
        }
    }
    loop {
        let next: Vec<i32> = parents
            .iter()
            .filter(|(pid, (parent, _))| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if next.is_empty() {
            break;
        }
        found.extend(next);
    }
    found
        .into_iter()
        .filter_map(|pid| {
            parents
                .get(&pid)
                .map(|(_, start)| Identity { pid, start: *start })
        })
        .collect()
}

/// Kills them all, and those already known as `strays`; those still alive after `limit` are returned. Blocks.
///
/// All are stopped before any is killed: the death of a parent would cut the descent of children that cleared their
/// environment.
pub(crate) fn kill_all(id: SandboxId, strays: &mut Vec<Identity>, limit: Duration) -> Vec<Identity> {
    let end = Instant::now() + limit;
    loop {
        let mut stopped = BTreeSet::new();
        loop {
            *strays = processes_and(id, strays);
            let new: Vec<&Identity> = strays
                .iter()
                .filter(|p| stopped.insert((p.pid, p.start)))
                .collect();
            if new.is_empty() || Instant::now() > end {
                break;
            }
            for process in new {
                let _gone_is_fine = process.signal(Signal::SIGSTOP);
            }
        }
        for process in strays.iter() {
            let _gone_is_fine = process.signal(Signal::SIGKILL);
        }
        let left = processes_and(id, strays);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_sandbox::detached::MARKER;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_that_left_its_session_and_cleared_its_environment_dies_too() {
        let id = SandboxId::new();
        let mut child = Command::new("sh")
            .args(["-c", "setsid env -i sleep 60 & wait"])
            .env(MARKER, id.to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let cleared = loop {
            let all = processes(id);
            let cleared: Vec<_> = all.iter().filter(|p| !is_marked(p.pid, id)).copied().collect();
            if all.len() == 2 && cleared.len() == 1 {
                break cleared;
            }
            assert!(Instant::now() < end, "{all:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(kill_all(id, &mut Vec::new(), Duration::from_secs(5)).is_empty());
        assert!(!cleared[0].alive());
        child.wait().unwrap();
    }
}
