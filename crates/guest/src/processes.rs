//! The processes of the sandbox, as `/proc` shows them.

use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How often the end of processes is looked for.
const POLL: Duration = Duration::from_millis(5);
/// What does not end by then hangs in the kernel, and goes with the sandbox.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Rounds in which a tree that goes on growing is stopped, before it is killed as far as it is known.
const ROUNDS: usize = 100;

/// One process that is not dead.
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: i32,
    parent: i32,
    user_ticks: u64,
    system_ticks: u64,
    rss_pages: u64,
}

impl Process {
    /// Reads a `/proc/PID/stat`, see proc_pid_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        // The name, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let dead = matches!(*fields.first()?, "Z" | "X" | "x");
        (!dead).then_some(())?;
        Some(Self {
            pid,
            parent: number(4)? as i32,
            user_ticks: number(14)? + number(16)?,
            system_ticks: number(15)? + number(17)?,
            rss_pages: number(24)?,
        })
    }
}

fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            Process::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect()
}

/// All below a process, without itself.
fn below(root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            open.push(child.pid);
            found.push(child);
        }
    }
    found
}

fn pids_below(root: i32) -> HashSet<i32> {
    below(root).into_iter().map(|process| process.pid).collect()
}

fn signal_all(pids: &HashSet<i32>, signal: Signal) {
    for &pid in pids {
        // One that has gone meanwhile needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends everything below a process: TERM, and after the grace period KILL. False when there was nothing.
pub(crate) async fn end_below(root: i32, grace: Duration) -> bool {
    let first = pids_below(root);
    if first.is_empty() {
        return false;
    }
    signal_all(&first, Signal::SIGTERM);
    if !gone_by(root, Instant::now() + grace).await {
        kill_below(root);
        let end = Instant::now() + KILL_LIMIT;
        while !gone_by(root, Instant::now() + POLL * 10).await && Instant::now() < end {
            kill_below(root);
        }
    }
    true
}

/// Waits until nothing is below a process, to `end` at most. Whether that is so.
pub(crate) async fn gone_by(root: i32, end: Instant) -> bool {
    loop {
        if pids_below(root).is_empty() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Kills a tree. All are stopped first: else one that forks as fast as it is killed would get away.
fn kill_below(root: i32) {
    let mut known = HashSet::new();
    for _ in 0..ROUNDS {
        let found = pids_below(root);
        if found.is_subset(&known) {
            break;
        }
        signal_all(&found, Signal::SIGSTOP);
        known.extend(found);
    }
    signal_all(&known, Signal::SIGKILL);
}

/// Kills what fell to this process because its supervisor was killed: `supervisors` are those that live.
pub(crate) fn kill_strays(supervisors: &HashSet<i32>) {
    let own = std::process::id() as i32;
    let strays: Vec<i32> = all()
        .into_iter()
        .filter(|process| process.parent == own && !supervisors.contains(&process.pid))
        .map(|process| process.pid)
        .collect();
    for stray in strays {
        kill_below(stray);
        let _ = kill(Pid::from_raw(stray), Signal::SIGKILL);
    }
}

/// What the processes of the sandbox use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    /// Resident memory; pages that processes share count for each of them.
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u32,
    /// From and to storage.
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// Of this process and all below it, together with those below it that have ended.
pub(crate) fn usage() -> Usage {
    let own = std::process::id() as i32;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as u64;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    let this = std::fs::read_to_string(format!("/proc/{own}/stat"));
    let this = this.ok().and_then(|stat| Process::parse(&stat));
    let mut usage = Usage::default();
    for process in below(own).into_iter().chain(this) {
        usage.user_us += process.user_ticks * 1_000_000 / per_second;
        usage.system_us += process.system_ticks * 1_000_000 / per_second;
        usage.memory_bytes += process.rss_pages * page;
        usage.processes += 1;
        // Of another user's process only root may know it.
        let io = std::fs::read_to_string(format!("/proc/{}/io", process.pid)).unwrap_or_default();
        usage.read_bytes += field(&io, "read_bytes");
        usage.written_bytes += field(&io, "write_bytes");
    }
    usage
}

/// A line `name: number` of a file of /proc.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or_default()
}

/// Bytes used and free on the file system of a directory; zeros if it cannot be asked.
pub(crate) fn disk(dir: &Path) -> (u64, u64) {
    statvfs(dir).map_or((0, 0), |stat| {
        let unit = stat.fragment_size();
        let used = stat.blocks().saturating_sub(stat.blocks_free());
        (used * unit, stat.blocks_available() * unit)
    })
}

/// Bytes received and sent over the network interfaces, without loopback.
pub(crate) fn network() -> (u64, u64) {
    traffic(&std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

fn traffic(dev: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (name, counts) in dev.lines().filter_map(|line| line.split_once(':')) {
        let counts: Vec<u64> = counts
            .split_whitespace()
            .filter_map(|count| count.parse().ok())
            .collect();
        if let (true, [received, .., sent, _, _, _, _, _, _, _]) = (name.trim() != "lo", &counts[..]) {
            sum.0 += received;
            sum.1 += sent;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_trap() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 5 1000 250 0";
        let process = Process::parse(stat).unwrap();
        assert_eq!((process.pid, process.parent), (42, 7));
        assert_eq!((process.user_ticks, process.system_ticks), (44, 66));
        assert_eq!(process.rss_pages, 250);
        assert!(Process::parse(&stat.replace(" S ", " Z ")).is_none());
        assert!(Process::parse("").is_none());
    }

    #[test]
    fn traffic_is_that_of_all_interfaces_but_loopback() {
        let dev = "Inter-|   Receive                   |  Transmit\n \
            face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n\
            lo: 1000 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n  eth0:20 1 0 0 0 0 0 0 3 1 0 0 0 0 0 0\n tap0: 4 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(dev), (24, 8));
        assert_eq!(traffic("eth0: 1 2"), (0, 0));
        assert_eq!(field("rchar: 1\nread_bytes: 4096\n", "read_bytes"), 4096);
        assert_eq!(field("", "read_bytes"), 0);
    }

    #[test]
    fn a_disk_has_a_size() {
        let (used, free) = disk(Path::new("/"));
        assert!(used + free > 0);
        assert_eq!(disk(Path::new("/not/there")), (0, 0));
    }

    #[test]
    fn the_own_process_uses_something() {
        let usage = usage();
        assert!(usage.processes >= 1 && usage.memory_bytes > 0, "{usage:?}");
    }
}
