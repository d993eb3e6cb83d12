//! The driver over the strict server, see `examples/strict_firecracker`. Jailed where the tests run as root.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "each test program uses its part")]

use async_trait::async_trait;
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_firecracker::{FirecrackerDriver, FirecrackerOptions};
use ostler_sandbox::Driver;
use ostler_sandbox::conformance::Subject;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Machines {
    dir: PathBuf,
    /// Removes everything at the end; `None` where another process owns it.
    owned: Option<TempDir>,
    instance: String,
}

/// The program that is built with the tests of this crate.
fn strict() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/strict_firecracker");
    assert!(
        path.is_file(),
        "{} is missing: build all targets of this crate",
        path.display()
    );
    path
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

impl Machines {
    pub(crate) fn new() -> Self {
        let owned = tempfile::Builder::new().prefix("ostler-fc-").tempdir().unwrap();
        let mut new = Self::at(owned.path().to_owned());
        for name in ["bin", "guests", "images"] {
            std::fs::create_dir(new.path(name)).unwrap();
        }
        mode(&new.dir, 0o755);
        mode(&new.path("guests"), 0o1777);
        new.whim("firecracker");
        new.whim("jailer");
        std::fs::write(new.path("images/kernel"), "kernel").unwrap();
        // Only its owner may read it, so that the machine's user needs a copy of its own.
        std::fs::write(new.path("images/root"), vec![7; 1 << 20]).unwrap();
        mode(&new.path("images/root"), 0o600);
        new.owned = Some(owned);
        new
    }

    /// In a directory that another process owns.
    pub(crate) fn at(dir: PathBuf) -> Self {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        Self {
            dir,
            owned: None,
            // The directory's random part keeps the cgroups of tests that run at the same time apart.
            instance: name
                .trim_start_matches("ostler-")
                .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn state(&self, id: SandboxId) -> PathBuf {
        self.path("state").join(id.to_string())
    }

    /// The strict server under a name by which it misbehaves.
    pub(crate) fn whim(&self, name: &str) -> PathBuf {
        let path = self.path("bin").join(name);
        if !path.exists() && std::fs::hard_link(strict(), &path).is_err() {
            std::fs::copy(strict(), &path).unwrap();
        }
        path
    }

    pub(crate) fn options(&self, firecracker: &str) -> FirecrackerOptions {
        let guest = ostler_guest_binary::install(&self.path("guest")).unwrap();
        let mut options = FirecrackerOptions::new(&self.instance, self.path("state"), guest);
        options.firecracker = self.whim(firecracker);
        options.jailer = self.path("bin/jailer");
        options
    }

    pub(crate) async fn with(&self, firecracker: &str) -> Arc<FirecrackerDriver> {
        Arc::new(FirecrackerDriver::open(self.options(firecracker)).await.unwrap())
    }

    /// The machine's directory.
    pub(crate) fn root(&self, id: SandboxId) -> PathBuf {
        self.note(id, "sandbox.json")["root"].as_str().unwrap().into()
    }

    pub(crate) fn note(&self, id: SandboxId, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.state(id).join(name)).unwrap()).unwrap()
    }

    /// What Firecracker was asked, line by line, without the questions.
    pub(crate) fn requests(&self, id: SandboxId) -> Vec<String> {
        std::fs::read_to_string(self.root(id).join("requests"))
            .unwrap_or_default()
            .lines()
            .filter(|l| !l.starts_with("GET"))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn pid(&self, id: SandboxId) -> i32 {
        self.note(id, "process.json")["firecracker"]["pid"]
            .as_i64()
            .unwrap() as i32
    }

    pub(crate) fn kill(&self, id: SandboxId) {
        let pid = nix::unistd::Pid::from_raw(self.pid(id));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

pub(crate) fn spec(id: SandboxId, template: SandboxTemplate) -> ostler_sandbox::SandboxSpec {
    ostler_sandbox::SandboxSpec {
        vsock_cid: Some(3),
        ..ostler_sandbox::SandboxSpec::new(id, template)
    }
}

/// Everything of a machine that can be seen by its name at Firecracker.
pub(crate) fn traces(id: SandboxId) -> Vec<String> {
    let name = id.to_string().replace('_', "-");
    let holds = |path: PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(name.len()).any(|w| w == name.as_bytes()))
    };
    let mut found: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| holds(format!("/proc/{pid}/cmdline").into()))
        .map(|pid| format!("process {pid}"))
        .collect();
    let mut dirs = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy() == name {
                found.push(format!("cgroup {}", entry.path().display()));
            } else if depth < 3 {
                dirs.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

#[async_trait]
impl Subject for Machines {
    async fn open(&self) -> Arc<dyn Driver> {
        self.with("firecracker").await
    }

    fn template(&self) -> SandboxTemplate {
        let mut template = SandboxTemplate::new(DriverKind::Firecracker);
        template.root_drive = Some(self.path("images/root").display().to_string());
        template.kernel = Some(self.path("images/kernel").display().to_string());
        template.memory_mb = 256;
        template
    }

    async fn kill_first_process(&self, id: SandboxId) {
        self.kill(id);
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        (self.with("firecracker-refuses-vsock").await, self.template())
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        let mut found = traces(id);
        let state = self.state(id);
        found.extend(state.exists().then(|| state.display().to_string()));
        found
    }
}

/// A test that failed must not leave its machines.
impl Drop for Machines {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        let options = self.options("firecracker");
        let clean = async {
            let driver = FirecrackerDriver::open(options).await.unwrap();
            for id in driver.list().await.unwrap() {
                driver.remove(id, Duration::ZERO).await.unwrap();
            }
        };
        // A thread of its own: a runtime cannot be waited for within a runtime.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(clean);
            });
        });
    }
}
