//! The cgroups that the jailer makes for a machine: which it can make, what they are told, and their removal.
//!
//! A machine is limited by its own size already. The groups are the second line, around Firecracker itself: CPU time for
//! its virtual CPUs and its own threads together, and memory a little above that of the machine.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Period in which CPU time is counted, microseconds.
const CPU_PERIOD: u64 = 100_000;
/// What Firecracker itself and its page tables may take beyond the machine's memory, MiB.
const OVERHEAD_MB: u64 = 128;
const STEP: Duration = Duration::from_millis(2);

/// The hierarchies of this host as the jailer finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One hierarchy per controller.
    V1 {
        cpu: Option<PathBuf>,
        memory: Option<PathBuf>,
    },
    /// One for all.
    V2(PathBuf),
    /// Neither can limit anything.
    None,
}

impl Cgroups {
    pub(crate) fn discover() -> Self {
        Self::from_mounts(&std::fs::read_to_string("/proc/mounts").unwrap_or_default())
    }

    fn from_mounts(mounts: &str) -> Self {
        let controller = |name: &str| {
            mounts.lines().find_map(|line| {
                let mut fields = line.split(' ');
                let (point, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
                (kind == "cgroup" && options.split(',').any(|o| o == name)).then(|| PathBuf::from(point))
            })
        };
        let (cpu, memory) = (controller("cpu"), controller("memory"));
        if cpu.is_some() || memory.is_some() {
            return Self::V1 { cpu, memory };
        }
        let unified = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (point, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        });
        match unified {
            Some(point) => {
                let there = std::fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
                let has = |name: &str| there.split_ascii_whitespace().any(|c| c == name);
                if has("cpu") && has("memory") {
                    Self::V2(point)
                } else {
                    Self::None
                }
            }
            None => Self::None,
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::V1 { cpu, memory } => format!(
                "version 1: CPU time {}, memory {}",
                if cpu.is_some() { "limited" } else { "not limited" },
                if memory.is_some() {
                    "limited"
                } else {
                    "not limited"
                }
            ),
            Self::V2(point) => format!("version 2 at {}", point.display()),
            Self::None => "no cgroups with the controllers cpu and memory".to_owned(),
        }
    }

    /// What the jailer is told; nothing where nothing can be limited.
    pub(crate) fn arguments(&self, parent: &str, cpus: u32, memory_mb: u64) -> Vec<String> {
        let quota = u64::from(cpus) * CPU_PERIOD;
        let memory_bytes = (memory_mb + OVERHEAD_MB) << 20;
        let (version, settings) = match self {
            Self::V1 { cpu, memory } => {
                let cpu = cpu.iter().flat_map(|_| {
                    [
                        format!("cpu.cfs_period_us={CPU_PERIOD}"),
                        format!("cpu.cfs_quota_us={quota}"),
                    ]
                });
                let memory = memory
                    .iter()
                    .map(|_| format!("memory.limit_in_bytes={memory_bytes}"));
                ("1", cpu.chain(memory).collect::<Vec<_>>())
            }
            Self::V2(_) => (
                "2",
                vec![
                    format!("cpu.max={quota} {CPU_PERIOD}"),
                    format!("memory.max={memory_bytes}"),
                ],
            ),
            Self::None => return Vec::new(),
        };
        let mut arguments: Vec<String> = ["--cgroup-version", version, "--parent-cgroup", parent]
            .map(str::to_owned)
            .to_vec();
        for setting in settings {
            arguments.extend(["--cgroup".to_owned(), setting]);
        }
        arguments
    }

    /// The directories that the jailer then makes.
    pub(crate) fn dirs(&self, parent: &str, name: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = match self {
            Self::V1 { cpu, memory } => [cpu, memory].into_iter().flatten().cloned().collect(),
            Self::V2(point) => vec![point.clone()],
            Self::None => Vec::new(),
        }
        .into_iter()
        .map(|base| base.join(parent).join(name))
        .collect();
        // Both controllers may be in one hierarchy.
        dirs.dedup();
        dirs
    }
}

/// Whether the kernel ended a process in one of the groups because memory ran out.
pub(crate) fn out_of_memory(dirs: &[PathBuf]) -> bool {
    dirs.iter().any(|dir| {
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|file| std::fs::read_to_string(dir.join(file)).ok())
            .any(|text| {
                text.lines()
                    .filter_map(|l| l.strip_prefix("oom_kill "))
                    .any(|count| count.trim() != "0")
            })
    })
}

/// Kills whatever is in the groups and removes them, at most until `limit` is over. Blocks.
pub(crate) fn remove(dirs: &[PathBuf], limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit;
    for dir in dirs {
        loop {
            match std::fs::remove_dir(dir) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                // The kernel lets go of the dead a moment after their end.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                    for pid in processes(dir) {
                        let _gone_is_fine = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    std::thread::sleep(STEP);
                }
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display()))),
            }
        }
    }
    Ok(())
}

/// Removes the groups' parents if these were the last in them. Not while a jailer may be making another one.
pub(crate) fn remove_parents(dirs: &[PathBuf]) {
    for parent in dirs.iter().filter_map(|d| d.parent()) {
        let _others_live = std::fs::remove_dir(parent);
    }
}

fn processes(dir: &Path) -> Vec<i32> {
    std::fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_is_told_in_its_own_words() {
        let groups = Cgroups::from_mounts(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        assert_eq!(
            groups.arguments("p", 2, 256),
            [
                "--cgroup-version",
                "1",
                "--parent-cgroup",
                "p",
                "--cgroup",
                "cpu.cfs_period_us=100000",
                "--cgroup",
                "cpu.cfs_quota_us=200000",
                "--cgroup",
                "memory.limit_in_bytes=402653184",
            ]
        );
        assert_eq!(
            groups.dirs("p", "a"),
            [
                PathBuf::from("/sys/fs/cgroup/cpu/p/a"),
                PathBuf::from("/sys/fs/cgroup/memory/p/a"),
            ]
        );
    }

    #[test]
    fn the_second_version_needs_both_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = format!("cgroup2 {} cgroup2 rw,nosuid 0 0\n", dir.path().display());
        let controllers = dir.path().join("cgroup.controllers");
        std::fs::write(&controllers, "cpuset pids\n").unwrap();
        assert_eq!(Cgroups::from_mounts(&mounts), Cgroups::None);
        assert!(Cgroups::None.arguments("p", 1, 64).is_empty());
        std::fs::write(&controllers, "cpuset cpu memory\n").unwrap();
        let groups = Cgroups::from_mounts(&mounts);
        let told = groups.arguments("p", 1, 64);
        assert_eq!(told[..2], ["--cgroup-version", "2"]);
        assert!(told.contains(&"cpu.max=100000 100000".to_owned()), "{told:?}");
        assert!(told.contains(&"memory.max=201326592".to_owned()), "{told:?}");
        assert_eq!(groups.dirs("p", "a"), [dir.path().join("p/a")]);
    }
}
