//! A server that is killed at any instant of a start or a removal leaves nothing that the next one cannot remove.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use ostler_domain::SandboxId;
use ostler_driver_process::Mode;
use ostler_sandbox::SandboxSpec;
use ostler_sandbox::conformance::{Subject, eventually, leftovers_on_host};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the part that is killed finds the state it is to work on.
const VICTIM: &str = "OSTLER_TEST_VICTIM";

/// Not a test of its own: the part that is killed, started by the test below.
#[tokio::test]
async fn victim() {
    let Some(state) = std::env::var_os(VICTIM) else {
        return;
    };
    let subject = Process::at(state.into(), Mode::Auto);
    let driver = subject.open().await;
    loop {
        let id = SandboxId::new();
        let template = subject.template();
        driver.start(&SandboxSpec::new(id, template)).await.unwrap();
        driver.remove(id, Duration::from_millis(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_server_leaves_nothing_that_the_next_cannot_remove() {
    let subject = Process::new(Mode::Auto);
    let mut found = 0;
    for round in 0..30u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact"])
            .env(VICTIM, subject.state())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the start of the driver and several sandboxes.
        tokio::time::sleep(Duration::from_micros(20_000 + round * 7_300)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();

        let driver = subject.open().await;
        for id in driver.list().await.unwrap() {
            found += 1;
            driver.remove(id, Duration::ZERO).await.unwrap();
            let clean = eventually(async || {
                leftovers_on_host(id).is_empty() && subject.leftovers(id).await.is_empty()
            });
            assert!(clean.await, "round {round}: {:?}", leftovers_on_host(id));
        }
        assert!(driver.list().await.unwrap().is_empty());
    }
    assert!(
        found > 5,
        "only {found} sandboxes were cut off: the test looks at nothing"
    );
    let left = eventually(async || subject.processes().is_empty()).await;
    assert!(left, "{:?}", subject.processes());
}
