//! Looking for what should not be there any more.

use super::LIMIT;
use ostler_domain::SandboxId;
use std::path::Path;
use std::time::{Duration, Instant};

/// Asks until the answer is yes, for at most [`LIMIT`].
pub async fn eventually(mut ask: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    loop {
        if ask().await {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes that name the sandbox in their environment or arguments, mounts and cgroups that name it.
pub fn leftovers_on_host(id: SandboxId) -> Vec<String> {
    let text = id.to_string();
    let mut found: Vec<String> = processes_with(&text);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        mounts
            .lines()
            .filter(|l| l.contains(&text))
            .map(|l| format!("mount {l}")),
    );
    groups_with(Path::new("/sys/fs/cgroup"), &text, 6, &mut found);
    found
}

/// Processes that hold a text in their environment or arguments.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let me = std::process::id().to_string();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != me)
        .filter_map(|pid| {
            let hit = ["cmdline", "environ"].iter().any(|file| {
                std::fs::read(format!("/proc/{pid}/{file}"))
                    .is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
            });
            hit.then(|| format!("process {pid}"))
        })
        .collect()
}

fn groups_with(dir: &Path, text: &str, depth: u32, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if entry.file_name().to_string_lossy().contains(text) {
                found.push(format!("cgroup {}", entry.path().display()));
            }
            if depth > 0 {
                groups_with(&entry.path(), text, depth - 1, found);
            }
        }
    }
}

/// A number of seconds so odd that no other process sleeps that long, to be found again by its argument.
pub(crate) fn odd_seconds() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}", 1_000_000_000 + u64::from(now.subsec_nanos()))
}
