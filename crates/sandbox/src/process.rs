//! Processes named so that a reused process id is never mistaken for the old process; for drivers whose sandboxes are
//! processes of this host.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process: its id and when it started, which together name one process per boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "the unsafe calls rely on no property of the numbers"
)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
    /// Process id of its parent.
    pub parent: i32,
    /// Clock ticks from boot to its start.
    pub start: u64,
    /// CPU time that it has used, in user and kernel mode, clock ticks.
    pub cpu_ticks: u64,
}

/// Reads `/proc/<pid>/stat`; `None` when there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in parentheses, may itself hold spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let start = fields.nth(6)?.parse().ok()?;
    Some(Stat {
        zombie: matches!(state, "Z" | "X"),
        parent,
        start,
        cpu_ticks: user + system,
    })
}

/// The id of this boot: start times of another boot mean nothing.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Identity {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|s| Self { pid, start: s.start })
    }

    /// Whether the process lives; a zombie does not.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|s| s.start == self.start && !s.zombie)
    }

    /// CPU time that the process has used, microseconds; `None` when it is gone.
    pub fn cpu_us(self) -> Option<u64> {
        // SAFETY: reads a constant of the system.
        let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100);
        Some(stat(self.pid)?.cpu_ticks * 1_000_000 / ticks.max(1))
    }

    /// A handle of the process; `None` when it is gone.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) {
                Ok(None)
            } else {
                Err(error)
            };
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // Only now that the handle pins the process can the comparison not be overtaken by a reuse of the id.
        Ok(self.alive().then_some(fd))
    }

    /// Sends a signal; `false` when the process is gone.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(fd) = self.open()? else {
            return Ok(false);
        };
        // SAFETY: all arguments are integers but the signal information, which may be null.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if done == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            Ok(false)
        } else {
            Err(error)
        }
    }

    /// Waits until the process has ended.
    pub async fn ended(self) -> io::Result<()> {
        let Some(fd) = self.open()? else {
            return Ok(());
        };
        // SAFETY: the descriptor is owned by the value that is registered, so it stays valid as long as that lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        let _ready = fd.readable().await?;
        Ok(())
    }

    /// Waits at most `limit`; whether the process has ended by then.
    pub async fn ended_within(self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.ended()).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) | Err(_) => !self.alive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let text = "42 (a) R (b c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                zombie: false,
                parent: 7,
                start: 987_654,
                cpu_ticks: 11,
            })
        );
    }

    #[tokio::test]
    async fn an_end_is_seen_and_a_reused_id_is_another_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = Identity::of(child.id() as i32).unwrap();
        assert!(me.alive());
        let other = Identity {
            start: me.start + 1,
            ..me
        };
        assert!(!other.alive());
        assert!(
            !other.signal(Signal::SIGKILL).unwrap(),
            "a stranger is not signalled"
        );
        assert!(!me.ended_within(Duration::from_millis(20)).await);
        assert!(me.signal(Signal::SIGKILL).unwrap());
        assert!(me.ended_within(Duration::from_secs(5)).await);
        assert!(!me.alive(), "a zombie does not live");
        child.wait().unwrap();
    }
}
