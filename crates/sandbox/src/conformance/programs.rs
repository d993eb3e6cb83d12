//! Programs of one sandbox kept apart from each other. Not part of the suite: only some drivers give a guest what it takes,
//! and those call it.

use super::guest::{Guest, request};
use super::{Subject, eventually};
use crate::SandboxSpec;
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_guest_protocol::v1::{CollectRequest, Isolation, StartRequest};
use std::time::{Duration, Instant};

fn isolated(script: &str) -> StartRequest {
    StartRequest {
        isolation: Some(Isolation {
            keep_until_release: true,
            ..Isolation::default()
        }),
        ..request(&["sh", "-c", script])
    }
}

/// Isolated programs see and leave nothing of each other, and can do no more than others.
pub async fn programs_can_be_isolated(subject: &dyn Subject, template: SandboxTemplate) {
    let driver = subject.open().await;
    let id = SandboxId::new();
    if let Err(error) = driver.start(&SandboxSpec::new(id, template)).await {
        panic!("starting: {error}");
    }
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    let told = guest.configure().await;
    assert!(told.can_isolate, "{}", told.cannot_isolate);
    let usual = guest
        .shell("echo there > /workspace/file; grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status")
        .await;

    let look = "cat /workspace/file; echo changed > /workspace/file; echo x > /tmp/x; echo x > $HOME/x; \
                mkdir /workspace/out; echo kept > /workspace/out/report.xml; echo $$; cut -d: -f1 /proc/net/dev | tail -n +3; \
                (echo x > /usr/x) 2>/dev/null && echo wrote; ls /run/ostler; \
                grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status >&2";
    let exec = guest.start(isolated(look)).await;
    let mut outcome = super::Outcome::default();
    guest.read(&exec, 1, &mut outcome, |_| false).await;
    assert_eq!(outcome.exited.start_error, "", "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(lines, ["there", "2", "lo"], "{outcome:?}");
    no_more_rights(&usual, &outcome.stderr);
    assert!(
        outcome
            .exited
            .usage
            .is_some_and(|usage| usage.wall_us > 0 && usage.peak_memory_bytes > 0)
    );
    assert_eq!(
        guest
            .shell("cat /workspace/file; ls /workspace; ls /tmp/x $HOME/x 2>/dev/null || true")
            .await,
        "there\nfile\n"
    );
    let (archive, summary) = guest
        .collect(CollectRequest {
            exec_id: exec,
            globs: vec!["out/*.xml".into()],
            ..CollectRequest::default()
        })
        .await;
    assert_eq!(
        (summary.files, summary.bytes, summary.problems.len()),
        (1, 5, 0),
        "{summary:?}"
    );
    assert!(archive.windows(5).any(|bytes| bytes == b"kept\n"));

    // What leaves its session and its parent ends with the program, killed or not.
    let leaves = "(setsid sh -c 'trap \"\" TERM; while :; do sleep 3001; done' &); ";
    let exec = guest
        .start(isolated(&format!(
            "{leaves} trap '' TERM; while :; do sleep 3001; done"
        )))
        .await;
    assert!(guest.kill(&exec, Duration::from_millis(100)).await);
    guest.run_with(isolated(&format!("{leaves} echo over"))).await;
    let gone = "for name in /proc/[0-9]*/comm; do cat $name; done 2>/dev/null | grep -c '^sleep$' || true";
    let end = Instant::now() + super::LIMIT;
    while guest.shell(gone).await.trim() != "0" {
        assert!(Instant::now() < end, "something still sleeps");
    }

    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..30 {
        for (isolation, times) in [None, Some(Isolation::default())].into_iter().zip(&mut times) {
            let begun = Instant::now();
            let outcome = guest
                .run_with(StartRequest {
                    isolation,
                    ..request(&["true"])
                })
                .await;
            assert_eq!(outcome.exited.code, 0, "{outcome:?}");
            times.push(begun.elapsed());
        }
    }
    for (times, name) in times.iter_mut().zip(["not isolated", "isolated"]) {
        times.sort();
        println!("`true`, {name}: median {:?}, 90 % {:?}", times[15], times[27]);
    }
    if let Err(error) = driver.remove(id, Duration::ZERO).await {
        panic!("removing: {error}");
    }
    assert!(eventually(async || subject.leftovers(id).await.is_empty()).await);
}

/// Compares what two processes may do, as their `status` tells it.
fn no_more_rights(usual: &str, isolated: &str) {
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = |text| {
            let value = field(text, name);
            u64::from_str_radix(value.first().map_or("", String::as_str), 16)
        };
        match (bits(usual), bits(isolated)) {
            (Ok(usual), Ok(isolated)) => assert_eq!(isolated & !usual, 0, "{name}: {usual:x} {isolated:x}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    for name in ["Seccomp", "NoNewPrivs"] {
        assert!(
            field(isolated, name) >= field(usual, name),
            "{name}: {usual} {isolated}"
        );
    }
    for name in ["Uid", "Gid"] {
        assert_eq!(field(isolated, name), field(usual, name), "{name}");
    }
}
