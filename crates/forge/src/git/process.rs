//! One child process in a group of its own, which never outlives the call.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long a process group may clean up (git removes its lock files on SIGTERM) before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// Ends the group when dropped while armed, so that a cancelled future leaves no process. It gets the grace period,
/// too: a git that is killed at once leaves lock files that stop every later call.
pub(super) struct Group(Option<Pid>);

impl Group {
    pub(super) fn new(id: Option<u32>) -> Self {
        Self(id.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // The only error is that the group is gone, which is what is wanted.
            let _ = killpg(group, signal);
        }
    }

    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0.filter(|group| killpg(*group, Signal::SIGTERM).is_ok()) else {
            return;
        };
        // A thread, because the runtime may be shutting down. When none can be had, there is no grace.
        let kill = move || {
            let end = Instant::now() + GRACE;
            while killpg(group, None).is_ok() {
                if Instant::now() >= end {
                    let _ = killpg(group, Signal::SIGKILL);
                    break;
                }
                std::thread::sleep(POLL);
            }
        };
        if std::thread::Builder::new()
            .name("git-kill".to_owned())
            .spawn(kill)
            .is_err()
        {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Reads to the end or to `cap` bytes; says whether something was left out.
pub(super) async fn read_head(
    mut from: impl AsyncRead + Unpin,
    cap: usize,
) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    (&mut from).take(limit).read_to_end(&mut bytes).await?;
    let truncated = bytes.len() > cap;
    bytes.truncate(cap);
    Ok((bytes, truncated))
}

/// Reads to the end and keeps the last `keep` bytes.
pub(super) async fn read_tail(mut from: impl AsyncRead + Unpin, keep: usize) -> std::io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            return Ok(tail);
        }
        tail.extend_from_slice(&chunk[..n]);
        if tail.len() > keep {
            tail.drain(..tail.len() - keep);
        }
    }
}
