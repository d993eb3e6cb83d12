//! The process driver as a subject of the conformance suite.

#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod host;

use async_trait::async_trait;
use ostler_domain::{DriverKind, NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_host_network::HostNetwork;
use ostler_sandbox::conformance::Subject;
use ostler_sandbox::{Driver, DriverStatus};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Process {
    state: PathBuf,
    /// Removes the state at the end; `None` where another process owns it.
    owned: Option<TempDir>,
    mode: Mode,
    instance: String,
    pub(crate) network: Option<Arc<HostNetwork>>,
    pub(crate) devices: Vec<&'static str>,
}

fn guest(state: &Path) -> PathBuf {
    ostler_guest_binary::install(&state.join("guest")).unwrap()
}

impl Process {
    pub(crate) fn new(mode: Mode) -> Self {
        let owned = tempfile::Builder::new()
            .prefix("ostler-process-")
            .tempdir()
            .unwrap();
        let mut new = Self::at(owned.path().to_owned(), mode);
        new.owned = Some(owned);
        new
    }

    /// On a state that another process owns.
    pub(crate) fn at(state: PathBuf, mode: Mode) -> Self {
        // The directory's random part keeps the cgroups of tests that run at the same time apart.
        let name = state
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        Self {
            state,
            owned: None,
            mode,
            instance: name.trim_start_matches("ostler-").to_owned(),
            network: None,
            devices: Vec::new(),
        }
    }

    async fn with_guest(&self, guest: PathBuf) -> Arc<dyn Driver> {
        let mut options = ProcessOptions::new(&self.instance, &self.state, guest);
        options.mode = self.mode;
        options.network.clone_from(&self.network);
        options.devices = self.devices.iter().map(|&name| name.to_owned()).collect();
        // Others than root can set limits only in a delegated cgroup.
        options.without_limits = !nix::unistd::geteuid().is_root();
        Arc::new(ProcessDriver::open(options).await.unwrap())
    }
}

#[async_trait]
impl Subject for Process {
    async fn open(&self) -> Arc<dyn Driver> {
        self.with_guest(guest(&self.state)).await
    }

    fn template(&self) -> SandboxTemplate {
        let mut template = SandboxTemplate::new(DriverKind::Process);
        if self.mode == Mode::Plain {
            template.network = NetworkPolicy::Open;
        }
        template.memory_mb = 256;
        template
    }

    async fn kill_first_process(&self, id: SandboxId) {
        let note = self.state.join(id.to_string()).join("process.json");
        let note: serde_json::Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
        let pid = note["guest"]["pid"].as_i64().unwrap();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid as i32),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        (self.with_guest("/bin/false".into()).await, self.template())
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        let dir = self.state.join(id.to_string());
        dir.exists()
            .then(|| dir.display().to_string())
            .into_iter()
            .collect()
    }
}

#[allow(dead_code, reason = "for some tests only")]
impl Process {
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Processes of this host that name the state, as bubblewrap and its mounts do.
    pub(crate) fn processes(&self) -> Vec<String> {
        let state = self.state.to_string_lossy().into_owned();
        let mounts = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|pid| mounts(pid).is_ok_and(|text| text.contains(&state)))
            .collect()
    }
}

/// A test that failed must not leave its sandboxes.
impl Drop for Process {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        let options = ProcessOptions::new(&self.instance, &self.state, guest(&self.state));
        let clean = async {
            let driver = ProcessDriver::open(options).await.unwrap();
            for id in driver.list().await.unwrap() {
                let status = driver.status(id).await.unwrap();
                assert_ne!(status, DriverStatus::Gone);
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
