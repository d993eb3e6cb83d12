//! Programs that tests need beside them, such as a database server: started when they are first needed, ended when the
//! last test that uses them has ended, however it ended.
//!
//! Users hold a shared lock on the file `lease` in the service's directory. A keeper process outside the test runs the
//! program and ends it when it can have the lock for itself. So a service is shared by all test processes of a run
//! without any of them being its owner, and a killed test leaves nothing.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const KEEPER: &str = include_str!("keeper.py");

/// Longest wait for a service to answer. Several test processes may be starting theirs on few cores.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How a service is run.
pub(crate) struct Plan {
    /// Program and arguments. One of them must contain the service's directory, by which a leftover is recognised.
    pub(crate) command: Vec<String>,
    /// How long a shared service waits for a next user.
    pub(crate) linger: Duration,
    /// The signal that asks it to end.
    pub(crate) signal: i32,
    /// What is removed when it has ended.
    pub(crate) remove: Option<PathBuf>,
    /// Whether it is the first process of a process namespace, so that nothing it started outlives it. Needs root.
    pub(crate) alone: bool,
}

/// The right to use a service. Dropping it gives that up; the service ends when nobody else has it.
pub(crate) struct Service {
    dir: PathBuf,
    lease: Option<File>,
    /// For a service of this test alone, which is waited for.
    keeper: Option<Child>,
}

/// The directory of services shared by the test processes of this user; made if missing.
pub(crate) fn shared_dir(name: &str) -> PathBuf {
    let user = nix::unistd::geteuid();
    let root = std::env::temp_dir().join(format!("ostler-test-{user}"));
    let dir = root.join(name);
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
    let owner = fs::metadata(&root).map_or(u32::MAX, |meta| meta.uid());
    assert_eq!(
        owner,
        user.as_raw(),
        "{} belongs to somebody else",
        root.display()
    );
    dir
}

impl Service {
    /// Starts a service of this test alone in a directory of its own.
    pub(crate) fn private(dir: &Path, plan: &Plan, answers: impl Fn() -> bool) -> Self {
        let mut service = Self {
            dir: dir.to_owned(),
            lease: None,
            keeper: None,
        };
        service.up(plan, answers);
        service
    }

    /// Starts it (again).
    pub(crate) fn up(&mut self, plan: &Plan, answers: impl Fn() -> bool) {
        let _ = fs::remove_file(self.dir.join("again"));
        self.lease = Some(lease(&self.dir));
        let mut keeper = keep(&self.dir, plan);
        wait(&self.dir, &mut keeper, answers).unwrap_or_else(|error| panic!("{error}"));
        self.keeper = Some(keeper);
    }

    /// Ends it for [`Self::up`]: its files stay.
    pub(crate) fn down(&mut self) {
        fs::write(self.dir.join("again"), "").unwrap_or_else(|error| panic!("cannot write a file: {error}"));
        self.end();
    }

    /// The service in this directory, started by whoever comes first. `plan` prepares its files; it is told how often
    /// that has failed before. `first` is done once it answers, before anybody uses it.
    pub(crate) fn shared(
        dir: &Path,
        plan: impl Fn(u32) -> Plan,
        answers: impl Fn() -> bool,
        first: impl FnOnce(),
    ) -> Self {
        let lease = lease(dir);
        let service = Self {
            dir: dir.to_owned(),
            lease: Some(lease),
            keeper: None,
        };
        let starting = open(&dir.join("starting"));
        starting
            .lock()
            .unwrap_or_else(|error| panic!("cannot lock a file: {error}"));
        if answers() {
            return service;
        }
        for failures in 0.. {
            end_leftover(dir, &dir.join("pid"));
            let mut keeper = keep(dir, &plan(failures));
            match wait(dir, &mut keeper, &answers) {
                Ok(()) => break,
                Err(error) if failures > 0 => panic!("{error}"),
                Err(_) => {
                    let _ = keeper.kill();
                    let _ = keeper.wait();
                }
            }
        }
        first();
        service
    }

    fn end(&mut self) {
        self.lease = None;
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.wait();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends a process whose keeper was killed: the one named in a file of process ids, if its command line still names `dir`.
fn end_leftover(dir: &Path, pid_file: &Path) {
    let Some(pid) = fs::read_to_string(pid_file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    else {
        return;
    };
    let pid = nix::unistd::Pid::from_raw(pid);
    let needle = dir.to_string_lossy().into_owned();
    let is_ours = || {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
    };
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGKILL,
    ] {
        let end = Instant::now() + Duration::from_secs(20);
        while is_ours() && Instant::now() < end {
            // It may have ended in between, which is what is wanted.
            let _ = nix::sys::signal::kill(pid, signal);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let _ = fs::remove_file(pid_file);
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

fn lease(dir: &Path) -> File {
    let lease = open(&dir.join("lease"));
    lease
        .lock_shared()
        .unwrap_or_else(|error| panic!("cannot lock a file: {error}"));
    lease
}

fn keep(dir: &Path, plan: &Plan) -> Child {
    Command::new("python3")
        .args(["-c", KEEPER])
        .arg(dir)
        .arg(plan.linger.as_secs_f64().to_string())
        .arg(plan.signal.to_string())
        .arg(plan.remove.as_deref().unwrap_or(Path::new("")))
        .arg(if plan.alone { "alone" } else { "" })
        .args(&plan.command)
        .stdin(Stdio::null())
        // A test runner waits for whoever holds its pipes.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A runner that ends the test's process group must not end the keeper.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start python3, which keeps services: {error}"))
}

fn wait(dir: &Path, keeper: &mut Child, answers: impl Fn() -> bool) -> io::Result<()> {
    let end = Instant::now() + START_LIMIT;
    loop {
        if answers() {
            return Ok(());
        }
        let ended = keeper.try_wait()?.is_some();
        if ended || Instant::now() > end {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(io::Error::other(format!(
                "the service in {} does not start. Its log:\n{}",
                dir.display(),
                tail.join("\n")
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
