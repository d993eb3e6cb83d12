//! A pool that starts from a snapshot: its machines are restored, and have nothing in common that they must not.

use crate::support::{Cli, id};
use crate::{machines, server};
use ostler_test_kit::{LeakGuard, MachineParts, require};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A machine may take as long as the host is busy.
const FULL: Duration = Duration::from_secs(120);

fn exec(cli: &Cli, agent: &str, script: &str) -> String {
    cli.ok(&["agent", "exec", agent, "--", "sh", "-c", script])
}

fn phases(provisioned: &Value) -> Vec<(&str, f64)> {
    let all = provisioned["phases"].as_array().unwrap();
    all.iter()
        .map(|phase| (phase["name"].as_str().unwrap(), phase["ms"].as_f64().unwrap()))
        .collect()
}

async fn until_warm(cli: &Cli, pool: &str, count: u64) {
    let is_full = |pools: &Value| {
        let all = pools.as_array().unwrap();
        all.iter().any(|p| p["name"] == pool && p["warm"] == count)
    };
    cli.0.until("/pools", FULL, is_full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_a_pool_are_restored_and_have_their_own_identity() {
    require!(Qemu);
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let parts = MachineParts::find().unwrap();
    let drive = parts.root_drive.display().to_string();
    let mut cli = Cli(server(dir.path())
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await);
    let open = ["--network", "open", "--target", "0", "--max", "8"];
    cli.ok(&machines("first", &drive, &open));
    assert_eq!(
        cli.ok(&["snapshot", "list"]),
        "no snapshots; make one with `ostler agent snapshot AGENT NAME`\n"
    );

    // Prepared once: a file, a process, and a clock that stands still from here on.
    let booted = cli.json(&["agent", "provision", "--pool", "first"]);
    let original = booted["id"].as_str().unwrap().to_owned();
    exec(
        &cli,
        &original,
        "echo prepared > /etc/mark; echo kept > /run/mark; setsid sleep 4321 >/dev/null 2>&1 &",
    );
    cli.ok(&["agent", "snapshot", &original, "ready"]);
    assert_eq!(exec(&cli, &original, "cat /etc/mark"), "prepared\n");
    let again = cli.run(&["agent", "snapshot", &original, "ready"]);
    assert!(again.code == 4 && again.err.contains("ready"), "{again:?}");
    let listed = cli.json(&["snapshot", "list"]);
    assert_eq!(
        listed,
        serde_json::json!([{ "driver": "qemu", "name": "ready", "pools": [] }])
    );

    // A pool of two that is filled from it, and a third that comes cold: it is a restore, too.
    let from = [
        "--network",
        "open",
        "--snapshot",
        "ready",
        "--target",
        "2",
        "--max",
        "8",
    ];
    cli.ok(&machines("second", &drive, &from));
    until_warm(&cli, "second", 2).await;
    let provision = || cli.json(&["agent", "provision", "--pool", "second"]);
    let warm = [provision(), provision()];
    let cold = provision();
    assert!(warm[0]["cold_reason"].is_null(), "{}", warm[0]);
    let (boot, restore) = (phases(&booted), phases(&cold));
    println!("a start: {boot:?}\na restore: {restore:?}");
    let names = |phases: &[(&str, f64)]| {
        phases
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let names = (names(&boot), names(&restore));
    assert!(
        names.0.contains(&"start".to_owned()) && !names.0.contains(&"restore".to_owned()),
        "{names:?}"
    );
    if !cold["cold_reason"].is_null() {
        assert!(
            names.1.contains(&"restore".to_owned()) && names.1.contains(&"renew".to_owned()),
            "{names:?}"
        );
    }

    let mut seen: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 4];
    let copies: Vec<String> = warm
        .iter()
        .chain([&cold])
        .map(|p| p["id"].as_str().unwrap().to_owned())
        .collect();
    for copy in &copies {
        assert_eq!(exec(&cli, copy, "cat /etc/mark /run/mark"), "prepared\nkept\n");
        let running = exec(&cli, copy, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
        assert!(running.contains("sleep 4321"), "{running}");
        let own = copy.replace('_', "-");
        let asked = now();
        let told = exec(
            &cli,
            copy,
            "cat /proc/sys/kernel/hostname /proc/sys/kernel/random/uuid /sys/class/net/eth0/address; \
             head -c 16 /dev/urandom | od -An -tx1; date +%s.%N; cat /proc/sys/kernel/random/boot_id",
        );
        let told: Vec<&str> = told.lines().map(str::trim).collect();
        assert_eq!(told[0], own);
        for (values, told) in seen.iter_mut().zip(&told) {
            values.insert((*told).to_owned());
        }
        let (clock, answered): (f64, f64) = (told[4].parse().unwrap(), now());
        assert!(
            asked - 2.0 < clock && clock < answered + 2.0,
            "its clock says {clock}, from {asked} to {answered}"
        );
        println!("{copy}: MAC {}, boot {}", told[2], told[5]);
    }
    for (values, what) in seen
        .iter()
        .zip(["host name", "UUID", "hardware address", "random bytes"])
    {
        assert_eq!(values.len(), copies.len(), "they share a {what}: {values:?}");
    }
    // What one does the others do not see, and the network of each works with its new address.
    exec(&cli, &copies[0], "echo changed > /etc/mark");
    assert_eq!(exec(&cli, &copies[1], "cat /etc/mark"), "prepared\n");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket; socket.create_connection((\"10.0.2.2\", {port}), 20)");
    cli.ok(&["agent", "exec", &copies[1], "--", "python3", "-c", &connect]);

    // They answer checks of their health, also to a server that was started again.
    cli.0.kill_9();
    cli.0.start_again().await;
    let cli = cli;
    for copy in &copies {
        assert_eq!(exec(&cli, copy, "cat /run/mark"), "kept\n");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sandbox = cli.json(&["sandbox", "show", &copies[0]]);
    assert_eq!(
        (sandbox["status"].as_str(), &sandbox["failures"]),
        (Some("running"), &serde_json::json!(0)),
        "{sandbox}"
    );

    // It stays while a pool starts from it.
    let refused = cli.run(&["snapshot", "rm", "ready"]);
    assert!(refused.code == 4 && refused.err.contains("second"), "{refused:?}");
    cli.ok(&["pool", "set", "second", "--snapshot", "", "--target", "0"]);
    cli.ok(&["snapshot", "rm", "ready"]);
    assert_eq!(cli.json(&["snapshot", "list"]), serde_json::json!([]));
    let absent = cli.run(&["snapshot", "rm", "ready"]);
    assert!(
        absent.code == 3 && absent.err.contains("snapshot list"),
        "{absent:?}"
    );
    // Who was started from it has what it needs.
    assert_eq!(exec(&cli, &copies[2], "cat /etc/mark"), "prepared\n");

    // A pool that starts from what is not there says so.
    cli.ok(&["pool", "set", "second", "--snapshot", "nothing", "--target", "1"]);
    let told = cli.0.until("/pools/second/explain", FULL, |told| {
        told["summary"]
            .as_str()
            .unwrap()
            .contains("no snapshot named nothing")
    });
    println!("{}", told.await["summary"]);
    let Cli(mut server) = cli;
    assert!(server.stop().await.success());
    guard.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_secrets_is_not_kept() {
    require!(Qemu);
    let dir = tempfile::tempdir().unwrap();
    let parts = MachineParts::find().unwrap();
    let drive = parts.root_drive.display().to_string();
    let cli = Cli(server(dir.path())
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await);
    let none = ["--target", "0", "--max", "4"];
    cli.ok(&machines("plain", &drive, &none));
    cli.ok(&machines(
        "told",
        &drive,
        &[&none[..], &["--env", "TOKEN=x"]].concat(),
    ));
    let configured = ["agent", "provision", "--pool", "plain", "--env", "TOKEN=x"];
    let configured = id(&cli.ok(&configured), "sbx_");
    let by_pool = id(&cli.ok(&["agent", "provision", "--pool", "told"]), "sbx_");
    let by_exec = id(&cli.ok(&["agent", "provision", "--pool", "plain"]), "sbx_");
    cli.ok(&["agent", "exec", &by_exec, "-e", "TOKEN=x", "--", "true"]);
    for (agent, why) in [
        (&configured, "configuration"),
        (&by_pool, "pool"),
        (&by_exec, "its programs were given"),
    ] {
        let refused = cli.run(&["agent", "snapshot", agent, "secret"]);
        assert!(refused.code == 4 && refused.err.contains(why), "{refused:?}");
    }
    // One of a run is nobody's to keep.
    let run = id(
        &cli.ok(&["run", "submit", "--pool", "plain", "--", "sleep", "600"]),
        "run_",
    );
    let carried = cli.until(&["run", "show", &run], |run| run["sandbox_id"].is_string());
    let refused = cli.run(&[
        "agent",
        "snapshot",
        carried["sandbox_id"].as_str().unwrap(),
        "secret",
    ]);
    assert!([3, 4].contains(&refused.code), "{refused:?}");
    assert_eq!(cli.json(&["snapshot", "list"]), serde_json::json!([]));
    // Names that lead elsewhere are none.
    let refused = cli.run(&["agent", "snapshot", &by_pool, "../x"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let Cli(mut server) = cli;
    assert!(server.stop().await.success());
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}
