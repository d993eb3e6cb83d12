//! The end of a machine: every step is tried, whatever became of those before it.

use crate::launch::{PORT, QMP};
use crate::layout::{self, MachineDir};
use crate::mux;
use crate::qmp::Qmp;
use ostler_domain::SandboxId;
use ostler_sandbox::cgroup::Host;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long the kernel gets to end killed processes.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
/// How long QEMU gets to let a paused machine go on, of its grace.
const RESUME_LIMIT: Duration = Duration::from_millis(500);

/// Ends and removes everything. Returns what could not be done.
pub(crate) async fn teardown(host: &Host, dir: &MachineDir, id: SandboxId, grace: Duration) -> Vec<String> {
    let noted = dir.record().into_iter().flat_map(|r| r.groups);
    let group = host.group_and(&id.to_string(), noted);
    let qemu = dir.qemu(id);
    if let Some(qemu) = qemu.filter(|q| q.alive() && !grace.is_zero()) {
        let end = Instant::now() + grace;
        // A paused machine could not obey.
        if let Ok(mut qmp) = Qmp::connect(&dir.vm(QMP), grace.min(RESUME_LIMIT)).await {
            let _ended_is_fine = qmp.execute("cont", json!({})).await;
        }
        let left = end.saturating_duration_since(Instant::now());
        // Whoever does not answer is killed; the connection is kept until then.
        if let Ok(_asked) = mux::end(&dir.vm(PORT), left).await {
            qemu.ended_within(end.saturating_duration_since(Instant::now()))
                .await;
        }
    }

    let path = dir.path().to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut failures = Vec::new();
        let mut note = |what: &str, result: std::io::Result<()>| {
            if let Err(e) = result {
                failures.push(format!("{what}: {e}"));
            }
        };
        note("killing its cgroup", group.kill(DEATH_LIMIT));
        if let Some(qemu) = qemu {
            note("killing QEMU", layout::kill(qemu));
            let end = Instant::now() + DEATH_LIMIT;
            while qemu.alive() {
                if Instant::now() > end {
                    note("waiting for its death", Err(std::io::ErrorKind::TimedOut.into()));
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        note("removing its cgroup", group.remove(DEATH_LIMIT));
        note("removing its files", ostler_sandbox::remove_busy_tree(&path));
        failures
    });
    work.await.unwrap_or_else(|e| vec![e.to_string()])
}
