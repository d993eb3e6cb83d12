//! Children that outlive the server: making them independent of it, users of their own, and finding them again.

use nix::sys::resource::{Resource, setrlimit};
use ostler_domain::SandboxId;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;

/// Name of the variable in the environment that marks the processes of a sandbox; its value is the sandbox's id.
pub const MARKER: &str = "OSTLER_SANDBOX";

/// How many user ids a driver has for its sandboxes.
pub const UIDS: u32 = 0x10_0000;

/// Leaves the session and the keys of this process, and dumps no core. For [`std::os::unix::process::CommandExt::pre_exec`]:
/// neither allocates nor takes locks.
pub fn leave_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // The session keyring may hold the server's secrets and would be inherited; a new, empty one is joined.
    // SAFETY: the arguments are an integer and a null name; kernels without keyrings answer with an error.
    unsafe {
        libc::syscall(libc::SYS_keyctl, 1 /* join session keyring */, 0usize)
    };
    Ok(())
}

/// Lets a child inherit no descriptors but the standard ones and `passed`. For
/// [`std::os::unix::process::CommandExt::pre_exec`]: neither allocates nor takes locks.
pub fn pass_only(passed: &[RawFd]) -> io::Result<()> {
    // Descriptors that this process itself inherited carelessly must not reach the child. Old kernels refuse.
    // SAFETY: marks descriptors of this child for closing at exec, all of which its parent keeps.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for fd in passed {
        // SAFETY: clears a flag of a descriptor that the parent holds open until this call is over.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The ids of all processes of this host.
pub fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether a process was started with the marker of this sandbox.
pub fn is_marked(pid: i32, id: SandboxId) -> bool {
    let wanted = format!("{MARKER}={id}");
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == wanted.as_bytes()))
}

/// A user id of the [`UIDS`] from `first` on that none of `taken` is, and that no process of this host runs as; `None` when
/// all are in use. The first choice comes from the end of the sandbox's id, which is random, so that installations that
/// know nothing of each other differ.
pub fn free_user(id: SandboxId, first: u32, taken: &BTreeSet<u32>) -> Option<u32> {
    let start = number(id);
    let running: BTreeSet<u32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.metadata().ok()?.uid()))
        .collect();
    (0..UIDS)
        .map(|step| first + start.wrapping_add(step) % UIDS)
        .find(|uid| !taken.contains(uid) && !running.contains(uid))
}

/// A number from the end of a sandbox's id, which is random.
pub fn number(id: SandboxId) -> u32 {
    let text = id.to_string();
    let tail = text.bytes().rev().take(8);
    tail.fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = 0x7f00_0000;

    #[test]
    fn a_user_is_of_one_sandbox_only() {
        let id = SandboxId::new();
        let first = free_user(id, FIRST, &BTreeSet::new()).unwrap();
        let second = free_user(id, FIRST, &[first].into()).unwrap();
        assert_ne!(first, second);
        for uid in [first, second] {
            assert!((FIRST..FIRST + UIDS).contains(&uid));
        }
        let all: BTreeSet<u32> = (FIRST..FIRST + UIDS).collect();
        assert_eq!(free_user(id, FIRST, &all), None);
    }

    #[test]
    fn a_marked_process_is_found() {
        let (id, other) = (SandboxId::new(), SandboxId::new());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(MARKER, id.to_string())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        // Right after exec the kernel does not show the environment yet.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_marked(pid, id) && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        let listed = processes().any(|p| p == pid);
        let (own, foreign) = (is_marked(pid, id), is_marked(pid, other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own && !foreign && listed);
    }

    #[test]
    fn a_child_is_in_a_session_of_its_own_with_what_was_passed() {
        use std::os::fd::AsRawFd;
        use std::os::unix::process::CommandExt;
        let (passed, kept) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let fds = [passed.as_raw_fd()];
        let mut command = std::process::Command::new("sh");
        let script = format!(
            "cut -d' ' -f6 /proc/$$/stat; echo $$; for fd in {} {}; do test -e /proc/$$/fd/$fd; echo $?; done",
            passed.as_raw_fd(),
            kept.as_raw_fd()
        );
        command.args(["-c", &script]);
        // SAFETY: both calls neither allocate nor take locks.
        unsafe { command.pre_exec(move || leave_session().and_then(|()| pass_only(&fds))) };
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], lines[1], "the leader of its session");
        assert_eq!(&lines[2..], ["0", "1"]);
    }
}
