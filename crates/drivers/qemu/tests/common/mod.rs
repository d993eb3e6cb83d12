//! The QEMU driver as a subject of the conformance suite.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "each test uses a part")]

use async_trait::async_trait;
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_qemu::{QemuDriver, QemuOptions};
use ostler_sandbox::Driver;
use ostler_sandbox::conformance::Subject;
use ostler_test_kit::MachineParts;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Qemu {
    state: PathBuf,
    /// Removes the state at the end; `None` where another process owns it.
    owned: Option<TempDir>,
    instance: String,
    parts: MachineParts,
}

impl Qemu {
    pub(crate) fn new() -> Self {
        let owned = tempfile::Builder::new().prefix("ostler-qemu-").tempdir().unwrap();
        let mut new = Self::at(owned.path().to_owned());
        new.owned = Some(owned);
        new
    }

    /// On a state that another process owns.
    pub(crate) fn at(state: PathBuf) -> Self {
        // The directory's random part keeps the cgroups of tests that run at the same time apart.
        let name = state
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        Self {
            state,
            owned: None,
            instance: name.trim_start_matches("ostler-").replace('.', "-"),
            parts: MachineParts::find().unwrap(),
        }
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn dir(&self, id: SandboxId) -> PathBuf {
        self.state.join(id.to_string())
    }

    pub(crate) fn options(&self) -> QemuOptions {
        let guest = ostler_guest_binary::install(&self.state.join("guest")).unwrap();
        let mut options = QemuOptions::new(&self.instance, &self.state, guest);
        options.kernel = Some(self.parts.kernel.clone());
        options.modules.clone_from(&self.parts.modules);
        self.parts
            .kernel
            .parent()
            .unwrap()
            .clone_into(&mut options.kernel_dir);
        options
    }

    /// A module of the usual kernel.
    pub(crate) fn module(&self, name: &str) -> PathBuf {
        let image = self
            .parts
            .kernel
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let version = image.trim_start_matches("vmlinuz-");
        self.parts.modules.join(version).join(name)
    }

    pub(crate) async fn with(&self, options: QemuOptions) -> Arc<dyn Driver> {
        Arc::new(QemuDriver::open(options).await.unwrap())
    }

    /// Process id of QEMU.
    pub(crate) fn pid(&self, id: SandboxId) -> i32 {
        let note = std::fs::read(self.dir(id).join("process.json")).unwrap();
        let note: serde_json::Value = serde_json::from_slice(&note).unwrap();
        note["qemu"]["pid"].as_i64().unwrap() as i32
    }
}

#[async_trait]
impl Subject for Qemu {
    async fn open(&self) -> Arc<dyn Driver> {
        // What a trial would find out on each test's own state.
        let known = ostler_test_kit::cache_dir().join("accelerator.json");
        let here = self.state.join("accelerator.json");
        if !here.exists() {
            let _first_time = std::fs::copy(&known, &here);
        }
        self.with(self.options()).await
    }

    fn template(&self) -> SandboxTemplate {
        let mut template = SandboxTemplate::new(DriverKind::Qemu);
        template.root_drive = Some(self.parts.root_drive.display().to_string());
        template.memory_mb = 256;
        template
    }

    fn small_memory_mb(&self) -> u64 {
        192
    }

    fn many(&self) -> usize {
        4
    }

    async fn kill_first_process(&self, id: SandboxId) {
        let pid = nix::unistd::Pid::from_raw(self.pid(id));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        let mut options = self.options();
        options.qemu_img = "/bin/false".into();
        (self.with(options).await, self.template())
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        let dir = self.dir(id);
        dir.exists()
            .then(|| dir.display().to_string())
            .into_iter()
            .collect()
    }
}

/// A test that failed must not leave its machines.
impl Drop for Qemu {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        let options = self.options();
        let known = ostler_test_kit::cache_dir().join("accelerator.json");
        let _none_was_needed = std::fs::copy(self.state.join("accelerator.json"), known);
        let clean = async {
            let driver = QemuDriver::open(options).await.unwrap();
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
