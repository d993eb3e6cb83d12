//! Programs within one sandbox kept apart from each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use ostler_domain::SandboxId;
use ostler_driver_process::Mode;
use ostler_guest_protocol::v1::{Isolation, Network, StartRequest};
use ostler_sandbox::conformance::{
    Guest, Subject, isolated_programs_cannot_reach_each_other, programs_can_be_isolated,
};
use ostler_sandbox::{Driver, SandboxSpec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn programs_of_a_sandbox_can_be_isolated() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    programs_can_be_isolated(&subject, subject.template()).await;
}

#[tokio::test]
async fn isolated_programs_reach_nobody() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    isolated_programs_cannot_reach_each_other(&subject, subject.template()).await;
}

async fn start(subject: &Process) -> (Arc<dyn Driver>, SandboxId, Guest) {
    let driver = subject.open().await;
    let id = SandboxId::new();
    driver
        .start(&SandboxSpec::new(id, subject.template()))
        .await
        .unwrap();
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    assert_eq!(guest.configure().await.cannot_isolate, "");
    (driver, id, guest)
}

fn isolated(script: &str) -> StartRequest {
    StartRequest {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        isolation: Some(Isolation {
            network: Network::Own.into(),
            ..Isolation::default()
        }),
        ..StartRequest::default()
    }
}

/// Prints the kernel's name of the network, which it never gives twice, unlike the number in `/proc/self/ns`; then does
/// something with it, or nothing.
const USES: [&str; 3] = [
    "",
    "a = s.create_server(('127.0.0.1', 7171)); b = s.create_connection(('127.0.0.1', 7171))",
    "s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 7171))",
];

/// A network is used again only by whoever cannot tell.
#[tokio::test]
async fn a_network_that_was_used_is_never_given_again() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let (driver, id, mut guest) = start(&subject).await;
    let (mut seen, mut used) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..30 {
        let use_it = USES[n % USES.len()];
        // What has a name; what starts programs has a pair without one for a moment.
        let look = "tail -n +3 /proc/net/dev | tr -s ' '; grep -c '[@/]' /proc/net/unix; \
                    grep -o 'tw [0-9]*' /proc/net/sockstat";
        let script = format!(
            "{look}; /usr/bin/python3 -c \"import socket as s; print(int.from_bytes(s.socket(s.AF_UNIX)\
             .getsockopt(s.SOL_SOCKET, 71, 8), 'little')); {use_it}\""
        );
        let outcome = guest.run_with(isolated(&script)).await;
        assert_eq!(
            (outcome.exited.code, outcome.stderr.as_str()),
            (0, ""),
            "{outcome:?}"
        );
        let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
        let [interfaces @ .., sockets, waiting, network] = &lines[..] else {
            panic!("{outcome:?}");
        };
        let quiet = |line: &&str| line.split(' ').skip(1).all(|number| number == "0");
        assert!(
            !interfaces.is_empty() && interfaces.iter().all(quiet),
            "{n}: {outcome:?}"
        );
        // Nor does a connection linger.
        assert_eq!((*sockets, *waiting), ("0", "tw 0"), "{n}: {outcome:?}");
        assert!(!used.contains(*network), "{n}: the network was used before");
        seen.insert((*network).to_owned());
        if !use_it.is_empty() {
            used.insert((*network).to_owned());
        }
    }
    assert!(seen.len() < 30, "none was given again");
    driver.remove(id, Duration::ZERO).await.unwrap();
}

/// What isolation costs, shown with `--no-capture`; the limit is far above what is usual, as machines are busy.
#[tokio::test]
async fn it_is_fast() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let (driver, id, mut guest) = start(&subject).await;
    let mut medians = Vec::new();
    for apart in [false, true] {
        let mut times = Vec::new();
        for _ in 0..100 {
            let mut request = isolated("");
            request.argv = vec!["true".to_owned()];
            request.isolation = request.isolation.filter(|_| apart);
            let begun = Instant::now();
            let outcome = guest.run_with(request).await;
            times.push(begun.elapsed());
            assert_eq!(outcome.exited.code, 0, "{outcome:?}");
        }
        times.sort();
        println!("isolated: {apart}, median {:?}, 90 % {:?}", times[50], times[90]);
        medians.push(times[50]);
    }
    assert!(medians[1] < medians[0] + Duration::from_millis(30), "{medians:?}");
    driver.remove(id, Duration::ZERO).await.unwrap();
}
