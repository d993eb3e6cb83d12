//! The driver conformance suite on containers.

#![allow(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::{KillContainerOptionsBuilder, ListContainersOptionsBuilder};
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_docker::{DockerDriver, DockerOptions};
use ostler_sandbox::Driver;
use ostler_sandbox::conformance::Subject;
use ostler_test_kit::DockerEngine;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Containers {
    state: TempDir,
    instance: String,
    image: String,
    engine: DockerEngine,
}

impl Containers {
    fn new() -> Self {
        let state = tempfile::Builder::new()
            .prefix("ostler-docker-")
            .tempdir()
            .unwrap();
        let engine = DockerEngine::start();
        let instance = state.path().file_name().unwrap().to_string_lossy().to_lowercase();
        Self {
            instance: instance.trim_start_matches("ostler-").to_owned(),
            state,
            image: engine.base_image(),
            engine,
        }
    }

    fn options(&self) -> DockerOptions {
        let guest = ostler_guest_binary::install(&self.state.path().join("guest")).unwrap();
        DockerOptions {
            engine: self.engine.url(),
            ..DockerOptions::new(&self.instance, self.state.path(), guest)
        }
    }

    fn api(&self) -> Docker {
        Docker::connect_with_socket(&self.engine.url(), 30, bollard::API_DEFAULT_VERSION).unwrap()
    }
}

#[async_trait]
impl Subject for Containers {
    async fn open(&self) -> Arc<dyn Driver> {
        Arc::new(DockerDriver::open(self.options()).await.unwrap())
    }

    fn template(&self) -> SandboxTemplate {
        let mut template = SandboxTemplate::new(DriverKind::Docker);
        template.image = Some(self.image.clone());
        template.memory_mb = 256;
        template
    }

    async fn kill_first_process(&self, id: SandboxId) {
        let api = self.api().negotiate_version().await.unwrap();
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        let name = format!("ostler-{}-{id}", self.instance);
        api.kill_container(&name, Some(options)).await.unwrap();
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        let mut template = self.template();
        template.image = Some("ostler-test:absent".into());
        (self.open().await, template)
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        let api = self.api().negotiate_version().await.unwrap();
        let label = format!("ostler.sandbox={id}");
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label", vec![label.as_str()])]))
            .build();
        let mut left: Vec<String> = api
            .list_containers(Some(options))
            .await
            .unwrap()
            .into_iter()
            .map(|c| format!("container {c:?}"))
            .collect();
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

ostler_sandbox::driver_conformance!(Containers::new());
