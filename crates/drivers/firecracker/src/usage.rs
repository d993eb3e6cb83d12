//! What a machine has used.

use ostler_sandbox::Usage;
use ostler_sandbox::process::Identity;

/// What the kernel counts of a Firecracker process, which is its machine and a little more.
pub(crate) fn of(process: Identity) -> Option<Usage> {
    // SAFETY: reads a constant of the system.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pid = process.pid;
    let resident = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: Option<u64> = resident
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let counted = |name: &str| {
        io.lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse().ok())
    };
    Some(Usage {
        cpu_us: Some(process.cpu_us()?),
        memory_bytes: resident.map(|pages| pages * page),
        read_bytes: counted("read_bytes"),
        written_bytes: counted("write_bytes"),
        ..Usage::default()
    })
}
