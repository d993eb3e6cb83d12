//! Containers as the conformance suite takes them.

#![allow(dead_code, reason = "not every test file uses all")]

use async_trait::async_trait;
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_docker::{DockerDriver, DockerOptions, TlsFiles};
use ostler_sandbox::Driver;
use ostler_sandbox::conformance::Subject;
use ostler_test_kit::DockerEngine;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Containers {
    state: TempDir,
    instance: String,
    image: String,
    pub(crate) engine: DockerEngine,
    remote: bool,
}

impl Containers {
    pub(crate) fn local() -> Self {
        let engine = DockerEngine::start();
        Self::new(engine.base_image(), engine, false)
    }

    pub(crate) fn remote() -> Self {
        let engine = DockerEngine::remote();
        Self::new(engine.base_image(), engine, true)
    }

    pub(crate) fn private() -> Self {
        let engine = DockerEngine::private();
        Self::new(engine.empty_image(), engine, false)
    }

    fn new(image: String, engine: DockerEngine, remote: bool) -> Self {
        let state = tempfile::Builder::new()
            .prefix("ostler-docker-")
            .tempdir()
            .unwrap();
        let instance = state.path().file_name().unwrap().to_string_lossy().to_lowercase();
        Self {
            instance: instance.trim_start_matches("ostler-").to_owned(),
            state,
            image,
            engine,
            remote,
        }
    }

    pub(crate) fn options(&self) -> DockerOptions {
        let guest = ostler_guest_binary::install(&self.state.path().join("guest")).unwrap();
        options(
            &self.engine,
            self.remote,
            &self.instance,
            self.state.path(),
            &guest,
        )
    }

    pub(crate) async fn driver(&self) -> DockerDriver {
        DockerDriver::open(self.options()).await.unwrap()
    }

    pub(crate) fn container(&self, id: SandboxId) -> String {
        format!("ostler-{}-{id}", self.instance)
    }
}

pub(crate) fn options(
    engine: &DockerEngine,
    remote: bool,
    instance: &str,
    state: &Path,
    guest: &Path,
) -> DockerOptions {
    let options = DockerOptions::new(instance, state, guest);
    if remote {
        return DockerOptions {
            engine: engine.tcp(),
            tls: Some(TlsFiles::in_dir(&engine.certificates())),
            ..options
        };
    }
    DockerOptions {
        engine: engine.url(),
        ..options
    }
}

#[async_trait]
impl Subject for Containers {
    async fn open(&self) -> Arc<dyn Driver> {
        Arc::new(self.driver().await)
    }

    fn template(&self) -> SandboxTemplate {
        let mut template = SandboxTemplate::new(DriverKind::Docker);
        template.image = Some(self.image.clone());
        template.memory_mb = 256;
        template
    }

    async fn kill_first_process(&self, id: SandboxId) {
        self.engine
            .docker(&["kill", "--signal=KILL", &self.container(id)])
            .unwrap();
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        let mut template = self.template();
        template.image = Some("ostler-test:absent".into());
        (self.open().await, template)
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        let filter = format!("label=ostler.sandbox={id}");
        let listed = self.engine.docker(&["ps", "-aq", "--filter", &filter]).unwrap();
        let mut left: Vec<String> = listed.lines().map(|c| format!("container {c}")).collect();
        let dir = self.state.path().join(id.to_string());
        left.extend(dir.exists().then(|| dir.display().to_string()));
        left
    }
}

/// A test that failed must not leave its sandboxes.
impl Drop for Containers {
    fn drop(&mut self) {
        let options = self.options();
        let clean = async {
            let driver = DockerDriver::open(options).await.unwrap();
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
