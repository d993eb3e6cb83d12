//! Which cgroup hierarchies of this host can be used, and the making of a sandbox's cgroups in them.

use super::Group;
use std::io;
use std::path::{Path, PathBuf};

/// Length of the period in which CPU time is counted, µs.
const CPU_PERIOD: u64 = 100_000;

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPUs' worth of time.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
}

/// The hierarchies in which this process may make groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Directory in which the instance's directory is made.
    base: PathBuf,
    /// The instance's directory, which holds the sandboxes' directories.
    parent: PathBuf,
    unified: bool,
    cpu: bool,
    memory: bool,
    pids: bool,
    freezer: bool,
}

impl Host {
    /// Looks at this host's mounts. A hierarchy is usable when a directory can be made in it.
    pub fn discover(instance: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::from_mounts(instance, &mounts, &own)
    }

    fn from_mounts(instance: &str, mounts: &str, own: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for (point, kind, options) in mounts.lines().filter_map(parse_mount) {
            let found = match kind {
                "cgroup" => first_version(instance, point, options),
                "cgroup2" => second_version(instance, point, own),
                _ => None,
            };
            // The same hierarchy may be mounted twice.
            if let Some(found) = found
                && !hierarchies.iter().any(|h| h.parent == found.parent)
            {
                hierarchies.push(found);
            }
        }
        // Version 2 first: its freezing and killing are the better ones.
        hierarchies.sort_by_key(|h| !h.unified);
        Self { hierarchies }
    }

    /// Whether CPU time can be limited.
    pub fn limits_cpu(&self) -> bool {
        self.hierarchies.iter().any(|h| h.cpu)
    }

    /// Whether memory can be limited.
    pub fn limits_memory(&self) -> bool {
        self.hierarchies.iter().any(|h| h.memory)
    }

    /// Whether the number of processes can be limited.
    pub fn limits_processes(&self) -> bool {
        self.hierarchies.iter().any(|h| h.pids)
    }

    /// Whether groups can be frozen.
    pub fn freezes(&self) -> bool {
        self.hierarchies.iter().any(|h| h.freezer)
    }

    /// Where the groups are, for people.
    pub fn describe(&self) -> String {
        let describe = |h: &Hierarchy| {
            let controllers = [
                (h.cpu, "cpu"),
                (h.memory, "memory"),
                (h.pids, "pids"),
                (h.freezer, "freezer"),
            ];
            let controllers: Vec<&str> = controllers
                .into_iter()
                .filter_map(|(has, name)| has.then_some(name))
                .collect();
            let version = if h.unified { 2 } else { 1 };
            format!(
                "{} (version {version}) at {}",
                controllers.join(", "),
                h.base.display()
            )
        };
        self.hierarchies
            .iter()
            .map(describe)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// The group of the sandbox with this name, whether it exists or not.
    pub fn group(&self, name: &str) -> Group {
        Group::new(self.hierarchies.iter().map(|h| h.parent.join(name)).collect())
    }

    /// The same, with what was noted of it by an earlier server, which may have found other hierarchies.
    pub fn group_and(&self, name: &str, noted: impl IntoIterator<Item = PathBuf>) -> Group {
        let mut dirs = self.group(name).dirs().to_vec();
        for dir in noted {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        Group::new(dirs)
    }

    /// The names of all groups of this instance.
    pub fn names(&self) -> Vec<String> {
        self.hierarchies
            .iter()
            .filter_map(|h| std::fs::read_dir(&h.parent).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    }

    /// Makes the group and sets its limits, as far as the host can.
    pub fn create(&self, name: &str, limits: Limits) -> io::Result<Group> {
        for hierarchy in &self.hierarchies {
            hierarchy
                .create(name, limits)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", hierarchy.parent.display())))?;
        }
        Ok(self.group(name))
    }
}

impl Hierarchy {
    fn create(&self, name: &str, limits: Limits) -> io::Result<()> {
        let dir = self.parent.join(name);
        // The removal of the last other sandbox removes the parent, maybe between the two steps.
        let mut tries = 0;
        loop {
            make_dir(&self.parent)?;
            if self.unified {
                self.enable()?;
            }
            match make_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
                other => break other?,
            }
        }
        let set = |file: &str, value: String| {
            std::fs::write(dir.join(file), &value)
                .map_err(|e| io::Error::new(e.kind(), format!("{file} = {value}: {e}")))
        };
        let quota = u64::from(limits.cpus) * CPU_PERIOD;
        if self.cpu && self.unified {
            set("cpu.max", format!("{quota} {CPU_PERIOD}"))?;
        } else if self.cpu {
            set("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
            set("cpu.cfs_quota_us", quota.to_string())?;
        }
        if self.memory && self.unified {
            set("memory.max", limits.memory_bytes.to_string())?;
            if dir.join("memory.swap.max").exists() {
                set("memory.swap.max", "0".into())?;
            }
        } else if self.memory {
            set("memory.limit_in_bytes", limits.memory_bytes.to_string())?;
            if dir.join("memory.memsw.limit_in_bytes").exists() {
                set("memory.memsw.limit_in_bytes", limits.memory_bytes.to_string())?;
            }
        }
        if self.pids {
            set("pids.max", limits.processes.to_string())?;
        }
        Ok(())
    }

    /// Passes the controllers on to the instance's directory and to the sandboxes in it (version 2).
    fn enable(&self) -> io::Result<()> {
        for (wanted, name) in [(self.cpu, "cpu"), (self.memory, "memory"), (self.pids, "pids")] {
            if wanted {
                enable_controller(&self.base, name)?;
                enable_controller(&self.parent, name)?;
            }
        }
        Ok(())
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn enable_controller(dir: &Path, name: &str) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    if words(&file).iter().any(|w| w == name) {
        return Ok(());
    }
    std::fs::write(file, format!("+{name}"))
}

fn words(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file)
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Mount point, file system and its options, of one line of `mountinfo`.
fn parse_mount(line: &str) -> Option<(&Path, &str, &str)> {
    let (mount, system) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    let mut system = system.split(' ');
    let kind = system.next()?;
    Some((Path::new(point), kind, system.nth(1).unwrap_or("")))
}

/// Makes the instance's directory to see whether that works; it is removed again if it holds nothing.
fn probe<T>(parent: &Path, look: impl FnOnce() -> Option<T>) -> Option<T> {
    make_dir(parent).ok()?;
    let found = look();
    let _others_live = std::fs::remove_dir(parent);
    found
}

fn first_version(instance: &str, base: &Path, options: &str) -> Option<Hierarchy> {
    let has = |name: &str| options.split(',').any(|o| o == name);
    let hierarchy = Hierarchy {
        base: base.to_owned(),
        parent: base.join(format!("ostler-{instance}")),
        unified: false,
        cpu: has("cpu"),
        memory: has("memory"),
        pids: has("pids"),
        freezer: has("freezer"),
    };
    // Where CPU time and disk use are only counted, they are worth a group too.
    let counts = has("cpuacct") || has("blkio");
    if !(hierarchy.cpu || hierarchy.memory || hierarchy.pids || hierarchy.freezer || counts) {
        return None;
    }
    let parent = hierarchy.parent.clone();
    probe(&parent, || Some(hierarchy))
}

/// At the top where this process may (root of a host), otherwise below its own group (a service with delegation).
fn second_version(instance: &str, mount: &Path, own: &str) -> Option<Hierarchy> {
    let path = own.lines().find_map(|l| l.strip_prefix("0::/"));
    let below_own = path.filter(|p| !p.is_empty() && !p.starts_with("..")).map(|p| {
        let group = mount.join(p);
        // A restarted server finds itself in the leaf that it made for itself.
        if group.file_name().is_some_and(|n| n == OWN_LEAF) {
            group.parent().map_or(group.clone(), Path::to_owned)
        } else {
            group
        }
    });
    let found: Vec<Hierarchy> = [Some(mount.to_owned()), below_own]
        .into_iter()
        .flatten()
        .filter_map(|base| unified_at(instance, &base))
        .collect();
    let complete = found.iter().position(|h| h.cpu && h.memory).unwrap_or(0);
    found.into_iter().nth(complete)
}

/// Where this process goes in its own group, because a group of version 2 that passes on controllers may hold none.
const OWN_LEAF: &str = "ostler-server";

fn unified_at(instance: &str, base: &Path) -> Option<Hierarchy> {
    let parent = base.join(format!("ostler-{instance}"));
    probe(&parent, || {
        let available = words(&base.join("cgroup.controllers"));
        let usable = |name: &str| {
            available.iter().any(|c| c == name)
                && (enable_controller(base, name).is_ok()
                    || (step_aside(base).is_ok() && enable_controller(base, name).is_ok()))
                && enable_controller(&parent, name).is_ok()
        };
        Some(Hierarchy {
            cpu: usable("cpu"),
            memory: usable("memory"),
            pids: usable("pids"),
            freezer: parent.join("cgroup.freeze").exists(),
            unified: true,
            base: base.to_owned(),
            parent: parent.clone(),
        })
    })
}

/// Moves this process from `base` into a leaf below it.
fn step_aside(base: &Path) -> io::Result<()> {
    let me = std::process::id().to_string();
    if !words(&base.join("cgroup.procs")).contains(&me) {
        return Err(io::Error::other("this process is not in that group"));
    }
    make_dir(&base.join(OWN_LEAF))?;
    std::fs::write(base.join(OWN_LEAF).join("cgroup.procs"), me)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cpus: 2,
        memory_bytes: 64 << 20,
        processes: 100,
    };

    fn mounts(lines: &[(&Path, &str, &str)]) -> String {
        let line = |(point, kind, options): &(&Path, &str, &str)| {
            format!(
                "30 25 0:26 / {} rw,relatime - {kind} {kind} {options}",
                point.display()
            )
        };
        lines.iter().map(line).collect::<Vec<_>>().join(
            "
",
        )
    }

    #[test]
    fn first_version_hierarchies_are_found_by_their_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let point = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (memory, cpu, devices) = (point("memory"), point("cpu"), point("devices"));
        let text = mounts(&[
            (&memory, "cgroup", "rw,memory"),
            (&cpu, "cgroup", "rw,cpu,cpuacct"),
            (&devices, "cgroup", "rw,devices"),
            (dir.path(), "ext4", "rw"),
        ]);
        let host = Host::from_mounts("a", &text, "0::/\n");
        assert!(host.limits_cpu() && host.limits_memory());
        assert!(!host.limits_processes() && !host.freezes());
        assert!(!memory.join("ostler-a").exists(), "looking leaves nothing behind");

        let group = host.create("one", LIMITS).unwrap();
        assert_eq!(group.dirs().len(), 2);
        let read = |file: PathBuf| std::fs::read_to_string(file).unwrap();
        assert_eq!(
            read(memory.join("ostler-a/one/memory.limit_in_bytes")),
            "67108864"
        );
        assert_eq!(read(cpu.join("ostler-a/one/cpu.cfs_quota_us")), "200000");
        assert_eq!(host.names(), ["one", "one"]);
    }

    #[test]
    fn second_version_takes_the_level_that_passes_on_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("user.slice/ostler.service");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
        std::fs::write(own.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let text = mounts(&[(dir.path(), "cgroup2", "rw")]);
        // The plain directory keeps the files that the kernel would show in a new group, so the probe's removal of
        // it fails as if sandboxes lived.
        let host = Host::from_mounts("b", &text, "0::/user.slice/ostler.service/ostler-server\n");
        assert!(host.limits_cpu() && host.limits_memory() && host.limits_processes());
        let group = host.create("one", LIMITS).unwrap();
        assert_eq!(group.dirs(), [own.join("ostler-b/one")]);
        let read = |file: &str| std::fs::read_to_string(own.join("ostler-b/one").join(file)).unwrap();
        assert_eq!(read("cpu.max"), "200000 100000");
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("pids.max"), "100");
    }

    #[test]
    fn a_host_without_cgroups_limits_nothing() {
        let host = Host::from_mounts("c", "", "");
        assert_eq!(host, Host::default());
        assert!(host.create("one", LIMITS).unwrap().dirs().is_empty());
    }
}
