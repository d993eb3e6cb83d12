//! Programs within one container kept apart from each other, where the settings allow it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use async_trait::async_trait;
use common::Containers;
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_driver_docker::{DockerDriver, DockerOptions};
use ostler_sandbox::conformance::{
    Guest, Subject, isolated_programs_cannot_reach_each_other, programs_can_be_isolated,
};
use ostler_sandbox::{Driver, SandboxSpec};
use std::sync::Arc;
use std::time::Duration;

/// The same with [`DockerOptions::nested`].
struct Nested(Containers);

#[async_trait]
impl Subject for Nested {
    async fn open(&self) -> Arc<dyn Driver> {
        let options = DockerOptions {
            nested: true,
            ..self.0.options()
        };
        Arc::new(DockerDriver::open(options).await.unwrap())
    }

    fn template(&self) -> SandboxTemplate {
        self.0.template()
    }

    async fn kill_first_process(&self, id: SandboxId) {
        self.0.kill_first_process(id).await;
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        self.0.failing().await
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        self.0.leftovers(id).await
    }
}

/// What the programs of a sandbox may do, as the kernel tells it.
async fn rights(subject: &dyn Subject) -> (String, String) {
    let driver = subject.open().await;
    let id = SandboxId::new();
    driver
        .start(&SandboxSpec::new(id, subject.template()))
        .await
        .unwrap();
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    let told = guest.configure().await;
    let rights = guest.shell("grep ^Cap /proc/self/status").await;
    driver.remove(id, Duration::ZERO).await.unwrap();
    (told.cannot_isolate, rights)
}

#[tokio::test]
async fn programs_of_a_container_can_be_isolated_where_that_is_allowed() {
    ostler_test_kit::require!(Docker);
    let nested = Nested(Containers::local());
    programs_can_be_isolated(&nested, nested.template()).await;
    // Whoever is not isolated can do no more than where nobody can be.
    let (why, usual) = rights(&nested.0).await;
    assert!(why.len() > 10, "{why}");
    assert_eq!(rights(&nested).await, (String::new(), usual));
}

#[tokio::test]
async fn isolated_programs_of_a_container_reach_nobody() {
    ostler_test_kit::require!(BaseImage);
    let nested = Nested(Containers::local());
    isolated_programs_cannot_reach_each_other(&nested, nested.template()).await;
}
