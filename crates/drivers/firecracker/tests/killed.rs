//! A server that is killed at any instant of a start or a removal leaves machines that the next one has and can remove.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Machines, spec, traces};
use ostler_domain::SandboxId;
use ostler_sandbox::DriverStatus;
use ostler_sandbox::conformance::{Guest, Subject, eventually};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the part that is killed finds the directory it is to work in.
const VICTIM: &str = "OSTLER_TEST_VICTIM";

/// Not a test of its own: the part that is killed, started by the tests below.
#[tokio::test]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let machines = Machines::at(dir.into());
    let driver = machines.open().await;
    loop {
        let id = SandboxId::new();
        driver.start(&spec(id, machines.template())).await.unwrap();
        if std::fs::exists(machines.path("stay")).unwrap() {
            std::future::pending::<()>().await;
        }
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
}

fn victim_in(machines: &Machines) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact"])
        .env(VICTIM, machines.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_server_leaves_nothing_that_the_next_cannot_remove() {
    let machines = Machines::new();
    let mut found = 0;
    for round in 0..20u64 {
        let mut victim = victim_in(&machines);
        // Spread over the start of the driver and several machines.
        tokio::time::sleep(Duration::from_micros(30_000 + round * 17_300)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();

        let driver = machines.open().await;
        for id in driver.list().await.unwrap() {
            found += 1;
            driver.remove(id, Duration::ZERO).await.unwrap();
            let clean = eventually(async || machines.leftovers(id).await.is_empty());
            assert!(clean.await, "round {round}: {:?}", machines.leftovers(id).await);
        }
        assert!(driver.list().await.unwrap().is_empty());
    }
    assert!(
        found > 5,
        "only {found} machines were cut off: the test looks at nothing"
    );
}

#[tokio::test]
async fn machines_outlive_a_killed_server_and_are_adopted() {
    let machines = Machines::new();
    std::fs::write(machines.path("stay"), "").unwrap();
    let mut victim = victim_in(&machines);
    let id = loop {
        let there = std::fs::read_dir(machines.path("state"))
            .into_iter()
            .flatten()
            .flatten();
        let ids: Vec<SandboxId> = there
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .collect();
        if let [id] = ids[..]
            && std::fs::exists(machines.state(id).join("process.json")).unwrap()
            && machines.requests(id).len() == 5
        {
            break id;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // A moment for the answer to the last request.
    tokio::time::sleep(Duration::from_millis(200)).await;
    victim.kill().unwrap();
    victim.wait().unwrap();

    let driver = machines.open().await;
    assert_eq!(driver.list().await.unwrap(), [id]);
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.shell("echo alive").await, "alive\n");
    let mut events = driver.events();
    machines.kill(id);
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    assert_eq!(event.unwrap().unwrap().id, id);
    assert!(matches!(
        driver.status(id).await.unwrap(),
        DriverStatus::Exited(_)
    ));
    driver.remove(id, Duration::ZERO).await.unwrap();
    assert_eq!(traces(id), Vec::<String>::new());
}
