//! Sandboxes with a filtered network: with an interface behind the packet filter where the server is root, and with the
//! loopback alone elsewhere. The host of these tests, its uplink and its outside are namespaces of the test.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use async_trait::async_trait;
use common::Process;
use common::host::{OUTSIDE, own_host, sh};
use ostler_domain::{NetworkPolicy, SandboxId, SandboxTemplate};
use ostler_driver_process::Mode;
use ostler_host_network::{Denied, HostNetwork, NetworkOptions, Redirected, Traffic};
use ostler_sandbox::conformance::{Guest, Subject};
use ostler_sandbox::{Driver, SandboxSpec};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Server {
    queries: AtomicU32,
}

#[async_trait]
impl Traffic for Server {
    async fn connection(&self, mut connection: Redirected) {
        let text = format!("proxy to {}\n", connection.destination);
        let _gone = connection.stream.write_all(text.as_bytes()).await;
    }

    async fn query(&self, _sandbox: SandboxId, _query: Vec<u8>, _tcp: bool) -> Option<Vec<u8>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn denied(&self, _denied: Denied) {}
}

fn filtered(subject: &Process) -> SandboxTemplate {
    let mut template = subject.template();
    template.network = NetworkPolicy::Filtered;
    template.egress.addresses = vec![format!("{OUTSIDE}:5432")];
    template
}

/// What a TCP connection brings, in the words of the shell otherwise.
async fn tcp(guest: &mut Guest, target: &str) -> String {
    let (address, port) = target.split_once(':').unwrap();
    let script = format!("exec 3<>/dev/tcp/{address}/{port} && timeout 2 head -n 1 <&3");
    let done = guest.run(&["bash", "-c", &script]).await;
    format!(
        "{}{}",
        done.stdout.trim(),
        if done.exited.code == 0 { "" } else { "failed" }
    )
}

async fn network(state: &Path, spare: usize) -> Arc<HostNetwork> {
    let mut options = NetworkOptions::new("test", state);
    options.spare = spare;
    Arc::new(HostNetwork::open(options).await.unwrap())
}

fn serve(network: &Arc<HostNetwork>) -> (Arc<Server>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (server, stop) = (Arc::new(Server::default()), CancellationToken::new());
    let (network, traffic, token) = (network.clone(), server.clone(), stop.clone());
    let task = tokio::spawn(async move { network.listen(traffic, token).await.unwrap() });
    (server, stop, task)
}

#[test]
fn a_filtered_sandbox_has_an_interface_across_restarts_and_nothing_is_left() {
    ostler_test_kit::require!(HostNetwork, Bubblewrap);
    own_host();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let state = tempfile::tempdir().unwrap();
        let mut subject = Process::new(Mode::Namespaces);
        let host = network(state.path(), 1).await;
        let (server, stop, task) = serve(&host);
        subject.network = Some(host.clone());
        let driver = subject.open().await;
        let (id, other) = (SandboxId::new(), SandboxId::new());
        driver
            .start(&SandboxSpec::new(id, filtered(&subject)))
            .await
            .unwrap();
        driver
            .start(&SandboxSpec::new(other, subject.template()))
            .await
            .unwrap();
        let slot = host.slot(id).unwrap();
        assert_eq!(host.slot(other), None, "a sandbox without a network");

        let mut guest = Guest::ready(driver.as_ref(), id).await;
        let names = guest.shell("cat /etc/resolv.conf").await;
        assert_eq!(names, format!("nameserver {}\n", slot.gateway));
        assert_eq!(tcp(&mut guest, &format!("{OUTSIDE}:5432")).await, "outside");
        assert_eq!(
            tcp(&mut guest, &format!("{OUTSIDE}:443")).await,
            format!("proxy to {OUTSIDE}:443")
        );
        guest
            .run(&["timeout", "1", "getent", "hosts", "example.test"])
            .await;
        assert!(
            server.queries.load(Ordering::Relaxed) > 0,
            "the name server was not asked"
        );
        let changed = guest.run(&["ip", "link", "set", "eth0", "down"]).await;
        assert_ne!(changed.exited.code, 0, "{changed:?}");
        let usage = driver.usage(id).await.unwrap();
        assert!(
            usage.sent_bytes.unwrap() > 200 && usage.received_bytes.unwrap() > 200,
            "{usage:?}"
        );

        // Another server finds it as it was.
        stop.cancel();
        task.await.unwrap();
        subject.network = None;
        drop((driver, host, guest));
        let host = again(state.path()).await;
        let (_server, stop, task) = serve(&host);
        subject.network = Some(host.clone());
        let driver = subject.open().await;
        assert_eq!(host.holders(), [id]);
        let mut guest = Guest::ready(driver.as_ref(), id).await;
        assert_eq!(tcp(&mut guest, &format!("{OUTSIDE}:5432")).await, "outside");
        assert_eq!(
            tcp(&mut guest, &format!("{OUTSIDE}:443")).await,
            format!("proxy to {OUTSIDE}:443")
        );

        for id in [id, other] {
            driver.remove(id, Duration::ZERO).await.unwrap();
            driver.remove(id, Duration::ZERO).await.unwrap();
        }
        assert!(host.holders().is_empty() && !slot.namespace.exists());

        // A start that fails gives its network back.
        let mut failing = filtered(&subject);
        failing.mounts = vec![ostler_domain::Mount {
            source: "/absent".into(),
            target: "/opt/absent".into(),
            writable: false,
        }];
        let id = SandboxId::new();
        driver.start(&SandboxSpec::new(id, failing)).await.unwrap_err();
        assert!(host.holders().is_empty());

        let mut wrong = filtered(&subject);
        wrong.egress.addresses.push("nowhere".into());
        assert!(driver.check(&wrong).unwrap_err().to_string().contains("nowhere"));

        stop.cancel();
        task.await.unwrap();
        subject.network = None;
        drop(driver);
        Arc::into_inner(host).unwrap().close().await.unwrap();
        assert!(!sh("ip -o link show; nft list ruleset; ip netns list").contains("ostler"));
    });
}

/// What a restarted server does; the lock waits for the end of the one before.
async fn again(state: &Path) -> Arc<HostNetwork> {
    network(state, 0).await
}

#[tokio::test]
async fn without_a_host_network_a_filtered_sandbox_has_its_loopback_alone() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    let driver: Arc<dyn Driver> = subject.open().await;
    let id = SandboxId::new();
    driver
        .start(&SandboxSpec::new(id, filtered(&subject)))
        .await
        .unwrap();
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    let devices = guest
        .shell("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'")
        .await;
    assert!(devices.contains("lo") && !devices.contains("eth"), "{devices}");
    let routes = guest.shell("tail -n +2 /proc/net/route").await;
    assert_eq!(routes, "");
    driver.remove(id, Duration::ZERO).await.unwrap();
}
