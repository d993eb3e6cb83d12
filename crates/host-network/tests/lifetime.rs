//! The pool, restarts and killed servers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{DATABASE, Server, UPLINK, World, on_own_host, sh, tcp, udp};
use ostler_domain::SandboxId;
use ostler_egress::AddressRule;
use ostler_host_network::{HostNetwork, NetworkError, NetworkOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the part that is killed finds its state, and what it is to do.
const VICTIM: &str = "OSTLER_TEST_VICTIM";

fn database() -> AddressRule {
    AddressRule {
        network: DATABASE.parse().unwrap(),
        port: 5432,
    }
}

fn ours() -> Vec<String> {
    let links = sh("ip -o link show | cut -d: -f2 | cut -d@ -f1");
    let spaces = sh("ip netns list | cut -d' ' -f1");
    links
        .lines()
        .chain(spaces.lines())
        .map(|l| l.trim().to_owned())
        .filter(|l| l.starts_with("ostler-") || (l.starts_with('o') && l.contains('-')))
        .collect()
}

async fn filled(network: &HostNetwork, spare: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while network.spare() < spare {
        assert!(Instant::now() < end, "the pool does not fill");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn rules() -> usize {
    sh("nft -a list ruleset")
        .lines()
        .filter(|l| l.contains("# handle"))
        .count()
}

#[test]
fn a_slot_from_the_pool_is_quick_and_rules_stay_as_many() {
    on_own_host(|world| async move {
        let mut options = world.options();
        options.spare = 10;
        let network = Arc::new(HostNetwork::open(options).await.unwrap());
        let (_server, _stop) = Server::start(&network);
        filled(&network, 10).await;
        let before = rules();
        let (mut pooled, mut plain) = (Vec::new(), Vec::new());
        let mut ids = Vec::new();
        for n in 0..10 {
            let id = SandboxId::new();
            let list = [database()];
            let start = Instant::now();
            network
                .acquire(id, if n % 2 == 0 { &[] } else { &list })
                .await
                .unwrap();
            if n % 2 == 0 { &mut plain } else { &mut pooled }.push(start.elapsed());
            ids.push(id);
        }
        plain.sort();
        pooled.sort();
        println!("from the pool: {:?}, with an address {:?}", plain[2], pooled[2]);
        let start = Instant::now();
        // A burst far larger than the pool.
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..90 {
            let network = network.clone();
            burst.spawn(async move {
                let id = SandboxId::new();
                (id, network.acquire(id, &[database()]).await.unwrap())
            });
        }
        let mut slots = Vec::new();
        while let Some(done) = burst.join_next().await {
            let (id, slot) = done.unwrap();
            ids.push(id);
            slots.push(slot);
        }
        println!("a burst of 90: {:?}", start.elapsed());
        assert_eq!(rules(), before, "rules with 100 sandboxes and with none");
        slots.sort_by_key(|s| s.address);
        slots.dedup_by_key(|s| s.address);
        assert_eq!(slots.len(), 90);
        for slot in slots.iter().step_by(30) {
            assert!(tcp(slot, &format!("{DATABASE}:5432")).unwrap().contains(UPLINK));
        }
        let start = Instant::now();
        let mut releases = tokio::task::JoinSet::new();
        for id in ids {
            let network = network.clone();
            releases.spawn(async move { network.release(id).await.unwrap() });
        }
        releases.join_all().await;
        println!("releasing 100: {:?}", start.elapsed());
        assert!(network.holders().is_empty());
    });
}

#[test]
fn closing_leaves_nothing() {
    on_own_host(|world| async move {
        let network = world.open().await;
        let id = SandboxId::new();
        network.acquire(id, &[database()]).await.unwrap();
        filled(&network, 2).await;
        assert!(!ours().is_empty());
        network.release(id).await.unwrap();
        network.close().await.unwrap();
        assert_eq!(ours(), Vec::<String>::new());
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn a_range_in_use_and_a_second_server_are_refused() {
    on_own_host(|world| async move {
        let mut options = world.options();
        options.range = "198.51.0.0/16".parse().unwrap();
        let error = HostNetwork::open(options).await.unwrap_err();
        assert!(
            matches!(&error, NetworkError::Cannot(why) if why.contains("up0")),
            "{error}"
        );

        let mut options = world.options();
        options.range = "10.7.0.0/28".parse().unwrap();
        options.spare = 0;
        let network = HostNetwork::open(options).await.unwrap();
        for _ in 0..4 {
            network.acquire(SandboxId::new(), &[]).await.unwrap();
        }
        let error = network.acquire(SandboxId::new(), &[]).await.unwrap_err();
        assert!(matches!(error, NetworkError::Exhausted(4)), "{error}");
        let id = network.holders()[0];
        network.release(id).await.unwrap();
        network.acquire(SandboxId::new(), &[]).await.unwrap();

        // Another instance on the same host takes other networks of the same range.
        let other_state = tempfile::tempdir().unwrap();
        let other = HostNetwork::open(NetworkOptions::new("other", other_state.path()))
            .await
            .unwrap();
        let slot = other.acquire(SandboxId::new(), &[]).await.unwrap();
        assert!(
            !network
                .holders()
                .iter()
                .any(|id| network.slot(*id).unwrap().address == slot.address)
        );

        let error = HostNetwork::open(world.options()).await.unwrap_err();
        assert!(error.to_string().contains("another server has"), "{error}");
    });
}

/// Not a test of its own: the part that is killed, started by those below on their host.
#[test]
fn victim() {
    let Some(state) = std::env::var_os(VICTIM) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let state = PathBuf::from(state);
        let mut options = NetworkOptions::new("test", &state);
        options.spare = 2;
        let network = Arc::new(HostNetwork::open(options).await.unwrap());
        let (_server, _stop) = Server::start(&network);
        if state.join("hold").exists() {
            let id: SandboxId = std::fs::read_to_string(state.join("hold"))
                .unwrap()
                .parse()
                .unwrap();
            network.acquire(id, &[database()]).await.unwrap();
            std::fs::write(state.join("held"), "").unwrap();
            std::future::pending::<()>().await;
        }
        loop {
            let id = SandboxId::new();
            network.acquire(id, &[database()]).await.unwrap();
            network.release(id).await.unwrap();
        }
    });
}

fn start_victim(state: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact"])
        .env(VICTIM, state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn with_the_server_killed_only_allowed_addresses_are_reached_until_the_next_takes_over() {
    on_own_host(|world| async move {
        let id = SandboxId::new();
        std::fs::write(world.state.path().join("hold"), id.to_string()).unwrap();
        let mut victim = start_victim(world.state.path());
        let end = Instant::now() + Duration::from_secs(20);
        while !world.state.path().join("held").exists() {
            assert!(Instant::now() < end, "the victim does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        let slot = slot_of(&world, id).await;

        assert!(tcp(&slot, &format!("{DATABASE}:5432")).unwrap().contains(UPLINK));
        world.forget();
        for target in [
            format!("{DATABASE}:443"),
            format!("{}:443", common::WEB),
            format!("{}:8080", slot.gateway),
        ] {
            assert!(tcp(&slot, &target).is_err(), "{target}");
            assert!(udp(&slot, &target, 20).is_err(), "{target}");
        }
        assert!(udp(&slot, &format!("{}:53", common::WEB), 20).is_err());
        assert_eq!(world.arrived(), Vec::<String>::new());

        let network = Arc::new(world.open().await);
        assert_eq!(network.holders(), [id]);
        assert_eq!(network.slot(id), Some(slot.clone()));
        let (_server, _stop) = Server::start(&network);
        assert!(tcp(&slot, &format!("{DATABASE}:5432")).unwrap().contains(UPLINK));
        let got = tcp(&slot, &format!("{DATABASE}:443")).unwrap();
        assert!(got.starts_with(&format!("proxy for {id}")), "{got}");
        network.release(id).await.unwrap();
        assert!(!sh("nft list ruleset").contains(DATABASE));
    });
}

/// The slot without disturbing it: opened and dropped, as a restart would.
async fn slot_of(world: &World, id: SandboxId) -> ostler_host_network::Slot {
    let network = world.open().await;
    let slot = network.slot(id).unwrap();
    drop(network);
    slot
}

#[test]
fn a_server_killed_at_any_instant_leaves_nothing_to_the_next() {
    on_own_host(|world| async move {
        let mut found = 0;
        for round in 0..20u64 {
            let mut victim = start_victim(world.state.path());
            tokio::time::sleep(Duration::from_micros(15_000 + round * 6_700)).await;
            victim.kill().unwrap();
            victim.wait().unwrap();
            found += ours().len();
            let mut options = world.options();
            options.spare = 0;
            let network = HostNetwork::open(options).await.unwrap();
            for id in network.holders() {
                network.release(id).await.unwrap();
            }
            assert_eq!(ours(), Vec::<String>::new(), "round {round}");
            assert!(!sh("nft list ruleset").contains(DATABASE), "round {round}");
            network.close().await.unwrap();
            assert_eq!(sh("nft list ruleset"), "", "round {round}");
        }
        assert!(
            found > 10,
            "only {found} things were left: the test looks at nothing"
        );
    });
}
