//! What on this machine has one of a test's words in it.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What names a test.
pub(super) struct Words(BTreeSet<String>);

/// Something that was found.
pub(super) enum Finding {
    /// A process and how it shows itself.
    Process(i32, String),
    /// A directory of a cgroup hierarchy.
    Cgroup(PathBuf),
    /// A mount point; network namespaces that outlive their processes are such.
    Mount(String),
    /// A container's id and its names.
    Container(String, String),
}

impl Words {
    pub(super) fn of(dir: &Path) -> Self {
        // What has the words in it is killed in the end.
        let ours = [
            Ok(std::env::temp_dir()),
            std::env::current_dir(),
            std::env::current_exe(),
        ];
        assert!(
            dir.is_absolute() && !ours.iter().flatten().any(|path| path.starts_with(dir)),
            "{} is no directory of one test alone",
            dir.display()
        );
        let mut words = Self(BTreeSet::new());
        words.add(dir.to_string_lossy().into_owned());
        words
    }

    pub(super) fn add(&mut self, word: String) {
        assert!(word.len() > 5, "`{word}` is no name that only one test has");
        self.0.insert(word);
    }

    /// Adds the ids of servers that have or had their data in this directory or one beneath it.
    pub(super) fn add_servers(&mut self, dir: &Path) {
        let beneath = fs::read_dir(dir).into_iter().flatten().flatten();
        let dirs = beneath
            .map(|entry| entry.path())
            .chain(std::iter::once(dir.to_owned()));
        for dir in dirs {
            let id = fs::read_to_string(dir.join("server-id")).unwrap_or_default();
            // Drivers write what comes before it in ways of their own.
            if let Some((_, random)) = id.trim().split_once('_') {
                self.add(random.to_owned());
            }
        }
    }

    fn are_in(&self, text: &str) -> bool {
        self.0.iter().any(|word| text.contains(word))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid, line) => write!(f, "process {pid}: {line}"),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Mount(point) => write!(f, "mount {point}"),
            Self::Container(id, names) => write!(f, "container {id} {names}"),
        }
    }
}

impl Finding {
    /// Failures are seen by looking again.
    pub(super) fn remove(&self, engine: Option<&str>) {
        match self {
            Self::Process(pid, _) => {
                let pid = nix::unistd::Pid::from_raw(*pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            Self::Cgroup(path) => {
                let _ = fs::remove_dir(path);
            }
            Self::Mount(point) => {
                let _ = nix::mount::umount2(point.as_str(), nix::mount::MntFlags::MNT_DETACH);
            }
            Self::Container(id, _) => {
                let _ = engine.map(|engine| docker(engine, &["rm", "--force", "--volumes", id]));
            }
        }
    }
}

/// Everything there is.
pub(super) fn all(words: &Words, engine: Option<&str>) -> Vec<Finding> {
    let mut found = processes(words);
    cgroups(Path::new("/sys/fs/cgroup"), words, false, 5, &mut found);
    found.extend(mounts(words));
    if let Some(engine) = engine {
        let list = docker(
            engine,
            &["ps", "--all", "--format", "{{.ID}} {{.Names}} {{.Labels}}"],
        );
        found.extend(list.lines().filter(|line| words.are_in(line)).map(|line| {
            let (id, rest) = line.split_once(' ').unwrap_or((line, ""));
            Finding::Container(id.to_owned(), rest.to_owned())
        }));
    }
    found
}

fn processes(words: &Words) -> Vec<Finding> {
    let me = std::process::id().cast_signed();
    let pids = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != me)
        .filter_map(|pid| {
            let dir = PathBuf::from(format!("/proc/{pid}"));
            // A process that has ended in between has none of these.
            let file = |name| {
                let bytes = fs::read(dir.join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let link = |name| {
                fs::read_link(dir.join(name))
                    .map_or(String::new(), |path| path.to_string_lossy().into_owned())
            };
            let line = file("cmdline");
            let is_ours = words.are_in(&line)
                || ["environ", "cgroup"].iter().any(|name| words.are_in(&file(name)))
                || ["cwd", "exe", "root"]
                    .iter()
                    .any(|name| words.are_in(&link(name)));
            is_ours.then(|| Finding::Process(pid, line.trim().to_owned()))
        })
        .collect()
}

/// The innermost come first, so that they can be removed in this order.
fn cgroups(dir: &Path, words: &Words, is_ours: bool, depth: u32, found: &mut Vec<Finding>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let is_ours = is_ours || words.are_in(&entry.file_name().to_string_lossy());
            cgroups(&entry.path(), words, is_ours, depth - 1, found);
            if is_ours {
                found.push(Finding::Cgroup(entry.path()));
            }
        }
    }
}

fn mounts(words: &Words) -> Vec<Finding> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Later ones may lie upon earlier ones.
    let points = all.lines().rev().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| words.are_in(point))
        .map(|point| Finding::Mount(point.replace("\\040", " ")))
        .collect()
}

fn docker(engine: &str, arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(["-H", engine])
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}
