//! The end of a sandbox: every step is tried, whatever became of those before it.

use crate::layout::SandboxDir;
use nix::sys::signal::Signal;
use ostler_domain::SandboxId;
use ostler_host_network::HostNetwork;
use ostler_sandbox::cgroup::Host;
use std::time::Duration;

/// How long the kernel gets to end killed processes.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
/// How long a frozen sandbox gets to thaw.
const THAW_LIMIT: Duration = Duration::from_secs(1);

/// Ends and removes everything. Returns what could not be done.
pub(crate) async fn teardown(
    host: &Host,
    network: Option<&HostNetwork>,
    dir: &SandboxDir,
    id: SandboxId,
    grace: Duration,
) -> Vec<String> {
    let mut failures = Vec::new();
    let record = dir.record();
    let noted = record.iter().flat_map(|r| r.groups.clone());
    let group = host.group_and(&id.to_string(), noted);
    let started = dir.started(id);
    let in_namespace = record.is_some_and(|r| r.namespaces) && started.is_some();
    // The end of the guest cuts the descent of its orphans, so they are looked for before.
    let mut strays = if in_namespace {
        Vec::new()
    } else {
        crate::plain::processes(id)
    };

    if let Some(started) = started.as_ref().filter(|s| s.guest.alive() && !grace.is_zero()) {
        // A frozen process could not obey. Without a freezer nothing is frozen.
        let _unfrozen = group.freeze(false, THAW_LIMIT);
        match started.guest.signal(Signal::SIGTERM) {
            Ok(true) => {
                started.guest.ended_within(grace).await;
            }
            Ok(false) => {}
            Err(e) => failures.push(format!("asking the guest to end: {e}")),
        }
    }

    let known: Vec<_> = started.iter().flat_map(|s| [s.guest, s.monitor]).collect();
    let work = tokio::task::spawn_blocking(move || {
        let mut failures = Vec::new();
        let mut note = |what: &str, result: std::io::Result<()>| {
            if let Err(e) = result {
                failures.push(format!("{what}: {e}"));
            }
        };
        note("killing its cgroup", group.kill(DEATH_LIMIT));
        for process in known {
            // The death of the first process of a PID namespace is the death of all in it.
            note(
                "killing its first process",
                process.signal(Signal::SIGKILL).map(|_| ()),
            );
        }
        let end = std::time::Instant::now() + DEATH_LIMIT;
        while started
            .as_ref()
            .is_some_and(|s| s.guest.alive() || s.monitor.alive())
        {
            if std::time::Instant::now() > end {
                note("waiting for its death", Err(std::io::ErrorKind::TimedOut.into()));
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !in_namespace {
            let left = crate::plain::kill_all(id, &mut strays, DEATH_LIMIT);
            if !left.is_empty() {
                note(
                    "killing",
                    Err(std::io::Error::other(format!("processes {left:?} do not die"))),
                );
            }
        }
        note("removing its cgroup", group.remove(DEATH_LIMIT));
        failures
    });
    match work.await {
        Ok(more) => failures.extend(more),
        Err(e) => failures.push(e.to_string()),
    }
    if let Some(network) = network
        && let Err(e) = network.release(id).await
    {
        failures.push(format!("removing its network: {e}"));
        // The directory is what a later server finds the rest by.
        return failures;
    }
    let dir = dir.clone();
    let files = tokio::task::spawn_blocking(move || {
        crate::disk::unmount(&dir)?;
        ostler_sandbox::remove_tree(dir.path())
    });
    let files = files.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    if let Err(e) = files {
        failures.push(format!("removing its files: {e}"));
    }
    failures
}
