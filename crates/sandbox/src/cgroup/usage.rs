//! What the processes of a group have used, as the kernel counts it.

use super::Group;
use crate::Usage;
use std::path::Path;

impl Group {
    /// What all of it has used so far; what this host does not count is absent. Network traffic is not counted here.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for dir in self.dirs() {
            add(dir, &mut usage);
        }
        usage
    }
}

/// Adds what is to be seen in one hierarchy; the files tell its version.
fn add(dir: &Path, usage: &mut Usage) {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let cpu = read("cpu.stat").and_then(|t| named(&t, "usage_usec"));
    usage.cpu_us = usage
        .cpu_us
        .or(cpu)
        .or_else(|| Some(number("cpuacct.usage")? / 1000));
    // Pages of files that nobody uses are given back before memory runs out.
    let idle = |name| read("memory.stat").and_then(|t| named(&t, name)).unwrap_or(0);
    usage.memory_bytes = usage
        .memory_bytes
        .or_else(|| Some(number("memory.current")?.saturating_sub(idle("inactive_file"))))
        .or_else(|| Some(number("memory.usage_in_bytes")?.saturating_sub(idle("total_inactive_file"))));
    if let Some(text) = read("io.stat") {
        usage.read_bytes = usage.read_bytes.or(Some(keyed(&text, "rbytes=")));
        usage.written_bytes = usage.written_bytes.or(Some(keyed(&text, "wbytes=")));
    }
    if let Some(text) = read("blkio.throttle.io_service_bytes") {
        usage.read_bytes = usage.read_bytes.or(Some(labelled(&text, "Read")));
        usage.written_bytes = usage.written_bytes.or(Some(labelled(&text, "Write")));
    }
    let processes = number("pids.current").and_then(|n| u32::try_from(n).ok());
    usage.processes = usage.processes.or(processes);
}

/// The value in a line of `name value`.
fn named(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

/// The sum of `key=value` over all devices.
fn keyed(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
        .sum()
}

/// The sum over all devices of lines like `8:0 Read 4096`.
fn labelled(text: &str, label: &str) -> u64 {
    text.lines()
        .filter_map(|l| {
            let mut words = l.split_ascii_whitespace().skip(1);
            (words.next()? == label).then(|| words.next()?.parse::<u64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn both_versions_are_read_and_what_is_absent_stays_so() {
        let second = group(&[
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.current", "5000\n"),
            ("memory.stat", "anon 1\ninactive_file 1000\n"),
            (
                "io.stat",
                "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
            ),
            ("pids.current", "3\n"),
        ]);
        let cpu = group(&[("cpuacct.usage", "2000000\n"), ("cpu.stat", "nr_periods 4\n")]);
        let rest = group(&[
            ("memory.usage_in_bytes", "7000\n"),
            ("memory.stat", "inactive_file 5\ntotal_inactive_file 500\n"),
            (
                "blkio.throttle.io_service_bytes",
                "8:0 Read 7\n8:0 Write 9\n8:16 Read 1\nTotal 17\n",
            ),
        ]);
        let of = |dirs: &[&tempfile::TempDir]| {
            Group::new(dirs.iter().map(|d| d.path().to_owned()).collect()).usage()
        };
        let found = of(&[&second]);
        assert_eq!((found.cpu_us, found.memory_bytes), (Some(1500), Some(4000)));
        assert_eq!((found.read_bytes, found.written_bytes), (Some(11), Some(22)));
        assert_eq!(found.processes, Some(3));
        let found = of(&[&cpu, &rest]);
        assert_eq!((found.cpu_us, found.memory_bytes), (Some(2000), Some(6500)));
        assert_eq!(
            (found.read_bytes, found.written_bytes, found.processes),
            (Some(8), Some(9), None)
        );
        assert_eq!(of(&[]), Usage::default());
    }
}
