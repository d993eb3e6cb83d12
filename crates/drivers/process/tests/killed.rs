//! A server that is killed at any instant of a start or a removal leaves nothing that the next one cannot remove.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use common::host::{OUTSIDE, own_host, sh};
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_driver_process::Mode;
use ostler_host_network::{HostNetwork, NetworkOptions};
use ostler_sandbox::SandboxSpec;
use ostler_sandbox::conformance::{Subject, eventually, leftovers_on_host};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where the part that is killed finds the state it is to work on.
const VICTIM: &str = "OSTLER_TEST_VICTIM";
/// Whether its sandboxes have a filtered network and a disk of their own.
const COMPLETE: &str = "OSTLER_TEST_COMPLETE";

async fn network(state: &Path) -> Arc<HostNetwork> {
    let mut options = NetworkOptions::new("killed", state.join("network"));
    options.spare = 1;
    Arc::new(HostNetwork::open(options).await.unwrap())
}

fn complete(subject: &Process) -> SandboxTemplate {
    let mut template = subject.template();
    template.network = NetworkPolicy::Filtered;
    template.egress.addresses = vec![format!("{OUTSIDE}:5432")];
    template.disk_mb = Some(16);
    template
}

fn start_victim(state: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["victim", "--exact"])
        .env(VICTIM, state)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Not a test of its own: the part that is killed, started by the test below.
#[tokio::test]
async fn victim() {
    let Some(state) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut subject = Process::at(state.into(), Mode::Auto);
    let template = if std::env::var_os(COMPLETE).is_some() {
        subject.network = Some(network(subject.state()).await);
        complete(&subject)
    } else {
        subject.template()
    };
    let driver = subject.open().await;
    loop {
        let id = SandboxId::new();
        let template = template.clone();
        driver.start(&SandboxSpec::new(id, template)).await.unwrap();
        driver.remove(id, Duration::from_millis(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_server_leaves_nothing_that_the_next_cannot_remove() {
    let subject = Process::new(Mode::Auto);
    let mut found = 0;
    for round in 0..30u64 {
        let mut victim = start_victim(subject.state()).spawn().unwrap();
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

/// The same with everything that a sandbox can have, on a host of the test's own.
#[test]
fn a_killed_server_leaves_neither_networks_nor_disks() {
    ostler_test_kit::require!(HostNetwork, Bubblewrap);
    own_host();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut subject = Process::new(Mode::Namespaces);
        let state = subject.state().to_string_lossy().into_owned();
        let (mut slots, mut disks) = (0, 0);
        for round in 0..24u64 {
            let mut victim = start_victim(subject.state()).env(COMPLETE, "1").spawn().unwrap();
            tokio::time::sleep(Duration::from_micros(60_000 + round * 13_700)).await;
            victim.kill().unwrap();
            victim.wait().unwrap();

            let host = network(subject.state()).await;
            subject.network = Some(host.clone());
            let driver = subject.open().await;
            slots += host.holders().len();
            for id in driver.list().await.unwrap() {
                disks += u32::from(subject.state().join(id.to_string()).join("disk.img").exists());
                driver.remove(id, Duration::ZERO).await.unwrap();
                assert!(subject.leftovers(id).await.is_empty(), "round {round}");
                assert!(
                    leftovers_on_host(id).is_empty(),
                    "round {round}: {:?}",
                    leftovers_on_host(id)
                );
            }
            assert_eq!(
                host.holders(),
                [],
                "round {round}: a network whose sandbox nobody knows"
            );
            subject.network = None;
            drop(driver);
            Arc::into_inner(host).unwrap().close().await.unwrap();
            let left = sh("ip -o link show; nft list ruleset; ip netns list; cat /proc/self/mountinfo");
            let loops = eventually(async || !sh("losetup -a").contains(&state)).await;
            assert!(loops, "round {round}: {}", sh("losetup -a"));
            for line in left.lines().filter(|l| !l.contains("outside")) {
                assert!(
                    !line.contains("ostler-") && !line.contains(&state),
                    "round {round}: {line}"
                );
            }
        }
        assert!(
            slots > 2 && disks > 2,
            "only {slots} networks and {disks} disks were cut off"
        );
    });
}
