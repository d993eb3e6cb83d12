//! The cgroups of one sandbox. Whether a directory is of version 1 or 2 is seen from the files in it, so that the
//! directories noted by an earlier server can be used without knowing how they were made.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(2);

/// The directories of one sandbox, one per hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// The group of these directories, whether they exist or not.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// Its directories.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Whether any of them is there.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|d| d.is_dir())
    }

    /// Every process in it.
    pub fn processes(&self) -> BTreeSet<i32> {
        self.dirs
            .iter()
            .filter_map(|d| std::fs::read_to_string(d.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
            .collect()
    }

    /// Whether the kernel ended one of its processes because memory ran out.
    pub fn out_of_memory(&self) -> bool {
        self.dirs.iter().any(|d| {
            ["memory.events", "memory.oom_control"]
                .iter()
                .filter_map(|file| std::fs::read_to_string(d.join(file)).ok())
                .any(|text| counter(&text, "oom_kill") > 0)
        })
    }

    /// Freezes or thaws all processes and waits until the kernel says so, at most `limit`.
    pub fn freeze(&self, frozen: bool, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        let mut able = false;
        for dir in &self.dirs {
            if dir.join("cgroup.freeze").exists() {
                std::fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
                wait_until(end, || {
                    read(dir, "cgroup.events").is_ok_and(|t| (counter(&t, "frozen") == 1) == frozen)
                })?;
                able = true;
                break;
            }
            if dir.join("freezer.state").exists() {
                let wanted = if frozen { "FROZEN" } else { "THAWED" };
                // FREEZING is left only by asking again when a process was being made meanwhile.
                wait_until(end, || {
                    std::fs::write(dir.join("freezer.state"), wanted).is_ok()
                        && read(dir, "freezer.state").is_ok_and(|t| t.trim() == wanted)
                })?;
                able = true;
                break;
            }
        }
        if able {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this sandbox has no cgroup that can be frozen",
        ))
    }

    /// Kills every process and waits until none is left, at most `limit`.
    pub fn kill(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        while !self.processes().is_empty() {
            let atomic = self
                .dirs
                .iter()
                .map(|d| d.join("cgroup.kill"))
                .find(|f| f.exists());
            if let Some(file) = atomic {
                std::fs::write(file, "1")?;
            } else {
                // A frozen process cannot fork, so that no child escapes between reading the list and killing.
                let frozen = self.freeze(true, Duration::from_millis(500));
                for pid in self.processes() {
                    let _gone_is_fine = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                if frozen.is_ok() {
                    self.freeze(false, Duration::from_millis(500))?;
                }
            }
            // A process that is frozen in version 1 dies only when thawed, also by the kill of version 2.
            for dir in self.dirs.iter().filter(|d| d.join("freezer.state").exists()) {
                std::fs::write(dir.join("freezer.state"), "THAWED")?;
            }
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes {:?} do not die", self.processes()),
                ));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Removes the directories, which must hold no process.
    pub fn remove(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        for dir in &self.dirs {
            loop {
                match std::fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    // The kernel lets go of the dead a moment after they are gone from the list.
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                        std::thread::sleep(STEP);
                    }
                    Err(e) => {
                        return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())));
                    }
                }
            }
            if let Some(parent) = dir.parent() {
                // Succeeds with the last sandbox of the instance, so that nothing at all is left.
                let _others_live = std::fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

fn read(dir: &Path, file: &str) -> io::Result<String> {
    std::fs::read_to_string(dir.join(file))
}

/// The value of `name` in lines of `name value`.
fn counter(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn wait_until(end: Instant, mut done: impl FnMut() -> bool) -> io::Result<()> {
    while !done() {
        if Instant::now() > end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the freezer does not answer",
            ));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_whole_name() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(counter(text, "oom_kill"), 2);
        assert_eq!(counter(text, "frozen"), 0);
    }

    #[test]
    fn a_directory_without_a_freezer_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new(vec![dir.path().to_owned()]);
        let error = group.freeze(true, Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
