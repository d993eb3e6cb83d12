//! Ending programs with all that they started.

use crate::world::{World, eventually, odd_seconds, sh, sleepers};
use ostler_guest_protocol::v1::{KillRequest, MetricsRequest, ShutdownRequest};
use std::time::{Duration, Instant};

/// Leaves its session, loses its parent, does not listen.
fn escapees(seconds: &str) -> String {
    format!(
        "trap '' TERM; (setsid env -i sleep {seconds} </dev/null >/dev/null 2>&1 &); \
         (setsid sh -c 'setsid sh -c \"trap : TERM; sleep {seconds}; sleep {seconds}\" & sleep {seconds}' &); \
         sleep {seconds}"
    )
}

#[tokio::test]
async fn a_kill_reaches_what_left_the_session() {
    let mut world = World::new().await;
    let seconds = odd_seconds();
    world.start("1", &escapees(&seconds)).await;
    assert!(eventually(|| sleepers(&seconds) == 4).await);
    assert!(world.kill("1", Duration::from_millis(200)).await);
    assert_eq!(sleepers(&seconds), 0);
    assert_eq!(world.end_of("1").await.exited.signal, 9);
    assert!(
        !world.kill("1", Duration::ZERO).await,
        "there is nothing left to signal"
    );
}

#[tokio::test]
async fn one_that_ends_when_it_is_asked_is_not_killed() {
    let mut world = World::new().await;
    world
        .start(
            "1",
            "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = Instant::now();
    assert!(world.kill("1", Duration::from_secs(20)).await);
    assert!(asked.elapsed() < Duration::from_secs(10));
    let outcome = world.end_of("1").await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exited.code),
        ("ready\nbye\n", 7)
    );
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_its_pipeline() {
    let mut world = World::new().await;
    world.start("1", "sleep 100 | sleep 100").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let interrupt = KillRequest {
        exec_id: "1".into(),
        signal: 2,
        grace_ms: 0,
    };
    assert!(
        world
            .client
            .kill(interrupt.clone())
            .await
            .unwrap()
            .into_inner()
            .signalled
    );
    assert_eq!(world.end_of("1").await.exited.signal, 2);
    assert!(!world.client.kill(interrupt).await.unwrap().into_inner().signalled);
    let nonsense = KillRequest {
        exec_id: "1".into(),
        signal: 999,
        grace_ms: 0,
    };
    assert_eq!(
        world.client.kill(nonsense).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}

#[tokio::test]
async fn heirs_of_the_output_do_not_hold_the_end_back() {
    let mut world = World::new().await;
    let seconds = odd_seconds();
    let begun = Instant::now();
    let outcome = world
        .run(
            "1",
            &format!("(while :; do echo more; sleep 0.02; done) & sleep {seconds} & echo over"),
        )
        .await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(outcome.stdout.contains("over\n"));
    // They may go on, as servers in the background do, and are ended with the program that started them.
    assert_eq!(sleepers(&seconds), 1);
    assert!(world.kill("1", Duration::from_millis(100)).await);
    assert_eq!(sleepers(&seconds), 0);
}

#[tokio::test]
async fn a_program_that_kills_its_supervisor_gains_nothing() {
    let mut world = World::new().await;
    let seconds = odd_seconds();
    let script = format!("(setsid sleep {seconds} &); sleep {seconds} & kill -KILL $PPID; sleep {seconds}");
    let outcome = world.run("1", &script).await;
    assert_eq!(outcome.exited.signal, 9);
    assert!(eventually(|| sleepers(&seconds) == 0).await);
    // Its TERM to everybody it may signal is not heard.
    assert_eq!(world.run("2", "kill -TERM $PPID; echo on").await.stdout, "on\n");
}

#[tokio::test]
async fn one_that_forks_as_fast_as_it_is_killed_ends() {
    let mut world = World::new().await;
    let seconds = odd_seconds();
    let respawn =
        format!("trap '' TERM; n=0; while [ $n -lt 3000 ]; do n=$((n+1)); sleep {seconds} & wait $!; done");
    world
        .start(
            "1",
            &format!("for i in 1 2 3 4 5; do sh -c '{respawn}' & done; wait"),
        )
        .await;
    assert!(eventually(|| sleepers(&seconds) == 5).await);
    world.kill("1", Duration::from_millis(50)).await;
    assert_eq!(sleepers(&seconds), 0);
}

#[tokio::test]
async fn the_end_of_the_guest_is_the_end_of_all() {
    for graceful in [true, false] {
        let mut world = World::new().await;
        let seconds = odd_seconds();
        world.start("1", &escapees(&seconds)).await;
        world.start("2", &format!("(sleep {seconds} &) ; exit 0")).await;
        world.end_of("2").await;
        let release = ostler_guest_protocol::v1::ReleaseRequest { exec_id: "2".into() };
        world.client.release(release).await.unwrap();
        assert!(eventually(|| sleepers(&seconds) == 5).await);
        let usage = world
            .client
            .metrics(MetricsRequest {})
            .await
            .unwrap()
            .into_inner();
        assert!(usage.processes > 5, "{usage:?}");
        if graceful {
            world
                .client
                .shutdown(ShutdownRequest { grace_ms: 100 })
                .await
                .unwrap();
        } else {
            let guest = nix::unistd::Pid::from_raw(world.guest.id() as i32);
            nix::sys::signal::kill(guest, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let ended = world.guest.wait().unwrap();
        assert!(ended.success(), "{ended:?}");
        assert_eq!(sleepers(&seconds), 0);
    }
}

#[tokio::test]
async fn nothing_is_left_as_a_zombie() {
    let mut world = World::new().await;
    for n in 0..20 {
        world
            .run(&n.to_string(), "(setsid sh -c 'sleep 0.01' &) ; exit 0")
            .await;
    }
    world.client.start(sh("after", "true")).await.unwrap();
    world.end_of("after").await;
    let guest = world.guest.id().to_string();
    let zombies = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok())
            .filter(|stat| {
                let rest: Vec<&str> = stat
                    .rsplit(')')
                    .next()
                    .unwrap_or_default()
                    .split_whitespace()
                    .collect();
                rest.first() == Some(&"Z") && rest.get(1) == Some(&guest.as_str())
            })
            .count()
    };
    assert!(eventually(|| zombies() == 0).await);
}
