//! What a sandbox must not see.

use super::guest::request;
use super::leftovers::{odd_seconds, processes_with};
use super::{Started, Subject, eventually};
use ostler_domain::{Isolation, NetworkPolicy};

fn isolates(subject: &dyn Subject, sandbox: &Started) -> bool {
    subject.real() && sandbox.driver.capabilities().isolation >= Isolation::Namespace
}

/// Neither files nor processes of one are seen in another, nor processes of the host.
pub async fn sandboxes_do_not_see_each_other(subject: &dyn Subject) {
    let mut one = Started::new(subject).await;
    let mut other = Started::on(one.driver.clone(), subject.template()).await;
    if isolates(subject, &one) {
        let seconds = odd_seconds();
        one.guest
            .shell(
                "echo secret > /workspace/mine; echo secret > /tmp/mine; echo secret > /var/tmp/mine || true",
            )
            .await;
        one.guest.start(request(&["sleep", &seconds])).await;
        let machines = one.driver.capabilities().machines;
        let on_host = eventually(async || machines || !processes_with(&seconds).is_empty());
        assert!(on_host.await, "the program does not run");
        let seen = other
            .guest
            .shell("cat /workspace/mine /tmp/mine /var/tmp/mine 2>/dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .await;
        assert!(!seen.contains("secret") && !seen.contains(&seconds), "{seen}");
        let host = std::env::args().next().unwrap_or_default();
        assert!(!seen.contains(&host), "{seen}");
    }
    one.remove(subject).await;
    other.remove(subject).await;
}

/// With the policy `none` there is the loopback, which works, and nothing else.
pub async fn without_a_network_there_is_no_route(subject: &dyn Subject) {
    let mut template = subject.template();
    template.network = NetworkPolicy::None;
    let driver = subject.open().await;
    if !driver.capabilities().networks.contains(&NetworkPolicy::None) {
        assert!(driver.check(&template).is_err(), "claims less than it accepts");
        return;
    }
    let mut sandbox = Started::on(driver, template).await;
    if subject.real() {
        let devices = sandbox.guest.shell("cat /proc/net/dev").await;
        let devices: Vec<&str> = devices
            .lines()
            .filter_map(|l| Some(l.split_once(':')?.0.trim()))
            .filter(|d| *d != "lo")
            .collect();
        // Tunnel devices that the kernel puts in every namespace are down and have no route.
        let routes = sandbox.guest.shell("cat /proc/net/route").await;
        assert_eq!(routes.lines().skip(1).count(), 0, "{devices:?} {routes}");
        let routes = sandbox
            .guest
            .shell("cat /proc/net/ipv6_route 2>/dev/null || true")
            .await;
        assert!(
            routes.lines().all(|l| l.trim_end().ends_with(" lo")),
            "{devices:?} {routes}"
        );
        let lo = sandbox.guest.shell("cat /proc/net/fib_trie").await;
        assert!(lo.contains("127.0.0.1"), "the loopback is down: {lo}");
    }
    sandbox.remove(subject).await;
}

/// Programs run without privileges, see no files of the host's users and cannot change the system.
pub async fn the_root_of_the_host_is_out_of_reach(subject: &dyn Subject) {
    let mut sandbox = Started::new(subject).await;
    if subject.real() && sandbox.driver.capabilities().machines {
        // Who is root there is root of a kernel that nobody else has.
        let inside = sandbox.guest.shell("cat /proc/sys/kernel/random/boot_id").await;
        assert_ne!(
            inside.trim(),
            crate::process::boot_id(),
            "the kernel is the host's"
        );
        let drives = sandbox.guest.shell("cat /proc/partitions").await;
        let host = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
        assert_ne!(drives, host, "the host's drives are seen");
    } else if isolates(subject, &sandbox) {
        let status = sandbox.guest.shell("cat /proc/self/status").await;
        assert!(
            status
                .lines()
                .any(|l| l.split_whitespace().eq(["NoNewPrivs:", "1"])),
            "{status}"
        );
        let written = sandbox
            .guest
            .run(&["sh", "-c", "echo x > /proc/sys/kernel/core_pattern"])
            .await;
        assert_ne!(written.exited.code, 0, "{written:?}");
        let mounted = sandbox.guest.run(&["mount", "-t", "tmpfs", "none", "/tmp"]).await;
        assert_ne!(mounted.exited.code, 0, "{mounted:?}");
        let secrets = sandbox
            .guest
            .run(&[
                "sh",
                "-c",
                "test -n \"$(ls -A /root 2>/dev/null)\" && cat /root/.* /root/*",
            ])
            .await;
        assert_ne!(secrets.exited.code, 0, "{secrets:?}");
    }
    sandbox.remove(subject).await;
}
