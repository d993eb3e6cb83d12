//! The end of a sandbox: every step is tried, whatever became of those before it.

use crate::api::Api;
use crate::cgroups;
use crate::layout::{API_SOCKET, SandboxDir, processes_of};
use nix::sys::signal::Signal;
use ostler_domain::SandboxId;
use ostler_sandbox::remove_busy_tree;
use std::time::{Duration, Instant};

/// How long the kernel gets to end killed processes.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
/// How often the killed processes are looked at.
const STEP: Duration = Duration::from_millis(2);

/// Ends and removes everything but the parent of its cgroups; returns what could not be done.
pub(crate) async fn teardown(
    dir: &SandboxDir,
    id: SandboxId,
    grace: Duration,
    answer: Duration,
) -> Vec<String> {
    let record = dir.record();
    let known = dir.started(id);
    if let (Some(record), Some(process)) = (&record, known.filter(|p| p.alive() && !grace.is_zero())) {
        let api = Api::new(&record.root.join(API_SOCKET), answer.min(grace));
        // The kernel of the machine is asked as by three keys. A paused one could not obey, and other architectures have
        // no keyboard.
        let runs = api.instance().await.is_ok_and(|i| i.state == "Running");
        if runs && api.action("SendCtrlAltDel").await.is_ok() {
            process.ended_within(grace).await;
        }
    }
    let dir = dir.clone();
    let work = move || {
        let mut failures = Vec::new();
        let mut note = |what: &str, result: std::io::Result<()>| {
            if let Err(e) = result {
                failures.push(format!("{what}: {e}"));
            }
        };
        let end = Instant::now() + DEATH_LIMIT;
        let mut left: Vec<_> = known.into_iter().collect();
        loop {
            left.extend(processes_of(id));
            left.retain(|p| p.alive());
            if left.is_empty() {
                break;
            }
            for process in &left {
                note("killing its process", process.signal(Signal::SIGKILL).map(|_| ()));
            }
            if Instant::now() > end {
                let pids: Vec<i32> = left.iter().map(|p| p.pid).collect();
                note(
                    "killing its process",
                    Err(std::io::Error::other(format!("processes {pids:?} do not die"))),
                );
                break;
            }
            std::thread::sleep(STEP);
        }
        if let Some(record) = &record {
            note(
                "removing its cgroups",
                cgroups::remove(&record.groups, DEATH_LIMIT),
            );
        }
        for part in ["jail", "root"] {
            note("removing its files", remove_busy_tree(&dir.join(part)));
        }
        // What is left of it is found again by its notes, so those go last.
        if failures.is_empty()
            && let Err(e) = remove_busy_tree(dir.path())
        {
            failures.push(format!("removing its notes: {e}"));
        }
        failures
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| vec![e.to_string()])
}
