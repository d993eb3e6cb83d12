//! The process between the guest and one program.
//!
//! It is a subreaper: every descendant of the program whose parent ends becomes its child. So the descendants of the
//! supervisor are exactly what the program started and what is left of it, and when the supervisor has no child any more,
//! nothing is left, and it ends.

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitStatus, wait};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Exit codes of a shell for a program that is not there, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
pub(crate) const NOT_EXECUTABLE: i32 = 126;

/// What the supervisor tells the guest, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The program runs, with this process id.
    Started(i32),
    /// The program could not be started: the code a shell would tell, and why.
    Failed(i32, String),
    /// The program ended.
    Ended(End),
}

/// How a program ended and what it used; times in microseconds, memory in KiB, storage in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) signal: i32,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) max_rss_kib: u64,
    pub(crate) read_blocks: u64,
    pub(crate) written_blocks: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    /// By CLOCK_MONOTONIC.
    pub(crate) started_us: u64,
    pub(crate) ended_us: u64,
}

impl End {
    fn numbers(&self) -> [u64; 9] {
        [
            self.user_us,
            self.system_us,
            self.max_rss_kib,
            self.read_blocks,
            self.written_blocks,
            self.voluntary_switches,
            self.involuntary_switches,
            self.started_us,
            self.ended_us,
        ]
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Started(pid) => write!(f, "started {pid}"),
            Self::Failed(code, why) => write!(f, "failed {code} {}", why.replace('\n', " ")),
            Self::Ended(end) => {
                write!(f, "ended {} {}", end.code, end.signal)?;
                end.numbers()
                    .into_iter()
                    .try_for_each(|number| write!(f, " {number}"))
            }
        }
    }
}

impl Report {
    /// Reads a line; `None` if it is none of these.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        if kind == "failed" {
            let (code, why) = rest.split_once(' ')?;
            return Some(Self::Failed(code.parse().ok()?, why.to_owned()));
        }
        let numbers: Vec<i64> = rest.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        match (kind, numbers[..].as_ref()) {
            ("started", [pid]) => Some(Self::Started(*pid as i32)),
            ("ended", [code, signal, rest @ ..]) => {
                let [
                    user_us,
                    system_us,
                    max_rss_kib,
                    read,
                    written,
                    voluntary,
                    involuntary,
                    started,
                    ended,
                ] = *<&[i64; 9]>::try_from(rest).ok()?;
                Some(Self::Ended(End {
                    code: *code as i32,
                    signal: *signal as i32,
                    user_us: user_us as u64,
                    system_us: system_us as u64,
                    max_rss_kib: max_rss_kib as u64,
                    read_blocks: read as u64,
                    written_blocks: written as u64,
                    voluntary_switches: voluntary as u64,
                    involuntary_switches: involuntary as u64,
                    started_us: started as u64,
                    ended_us: ended as u64,
                }))
            }
            _ => None,
        }
    }
}

/// Starts the program and waits for it and all that it leaves behind. `status` is the number of an inherited descriptor
/// to which [`Report`]s are written.
pub fn supervise(status: &str, argv: &[OsString]) -> ExitCode {
    let (Ok(status), Some((program, rest))) = (status.parse::<i32>(), argv.split_first()) else {
        return ExitCode::from(2);
    };
    if status < 3 || close_on_exec(status).is_err() {
        return ExitCode::from(2);
    }
    // SAFETY: the guest opened this descriptor for this process, which has just started and does not use it elsewhere.
    let mut report = File::from(unsafe { OwnedFd::from_raw_fd(status) });
    // A guest that is gone takes its whole sandbox with it; nothing is lost with a report.
    let mut tell = |what: Report| {
        let _ = writeln!(report, "{what}");
    };
    if let Err(error) = set_child_subreaper(true) {
        tell(Report::Failed(
            NOT_EXECUTABLE,
            format!("it cannot be supervised: {error}"),
        ));
        return ExitCode::FAILURE;
    }
    let mut command = Command::new(program);
    command.args(rest);
    lead(&mut command);
    let started = monotonic_us();
    let main = match command.spawn() {
        Ok(child) => child.id() as i32,
        Err(error) => {
            tell(not_started(program, &error));
            return ExitCode::FAILURE;
        }
    };
    tell(Report::Started(main));
    stand_back();
    loop {
        let (pid, code, signal) = match wait() {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code, 0),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 0, signal as i32),
            Err(Errno::ECHILD) => return ExitCode::SUCCESS,
            Ok(_) | Err(_) => continue,
        };
        if pid == Pid::from_raw(main) {
            tell(Report::Ended(ended(code, signal, started, monotonic_us())));
        }
    }
}

/// What is told of a program that could not be started.
pub(crate) fn not_started(program: &OsStr, error: &io::Error) -> Report {
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    Report::Failed(code, format!("{}: {error}", program.to_string_lossy()))
}

/// The program leads a process group of its own, or the session of the terminal on standard input, which the guest gives
/// for nothing else.
pub(crate) fn lead(command: &mut Command) {
    if io::stdin().is_terminal() {
        take_terminal(command);
    } else {
        command.process_group(0);
    }
}

/// Microseconds by a clock that nobody sets.
pub(crate) fn monotonic_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
    })
}

/// The program leads a session of its own, to which the terminal on standard input belongs.
fn take_terminal(command: &mut Command) {
    // SAFETY: between fork and exec, these are two system calls without any memory.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// The program must not inherit the descriptor.
fn close_on_exec(descriptor: i32) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: borrowed for this call only; a number that is not open is an error of the call.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// After the program has started: whoever reads its output must see the end when it and its heirs are gone, and a
/// program that signals all processes must not end its supervisor.
pub(crate) fn stand_back() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    for deaf_to in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: ignoring a signal runs no code in a handler.
        let _ = unsafe { signal(deaf_to, SigHandler::SigIgn) };
    }
}

/// The end, with what the program and those that were waited for have used.
pub(crate) fn ended(code: i32, signal: i32, started_us: u64, ended_us: u64) -> End {
    let micros = |time: TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) as u64;
    let end = End {
        code,
        signal,
        started_us,
        ended_us,
        ..End::default()
    };
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return end;
    };
    End {
        user_us: micros(usage.user_time()),
        system_us: micros(usage.system_time()),
        max_rss_kib: usage.max_rss() as u64,
        read_blocks: usage.block_reads() as u64,
        written_blocks: usage.block_writes() as u64,
        voluntary_switches: usage.voluntary_context_switches() as u64,
        involuntary_switches: usage.involuntary_context_switches() as u64,
        ..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        let end = End {
            code: 3,
            signal: 0,
            user_us: 5_000_000_000,
            system_us: 7,
            max_rss_kib: 1024,
            read_blocks: 1,
            written_blocks: 2,
            voluntary_switches: 3,
            involuntary_switches: 4,
            started_us: 5,
            ended_us: 6,
        };
        for report in [
            Report::Started(77),
            Report::Failed(127, "no such file: a b".into()),
            Report::Ended(end),
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
        for garbage in ["", "started", "started x", "ended 1 2", "failed x y", "other 1"] {
            assert_eq!(Report::parse(garbage), None, "{garbage}");
        }
        let two_lines = Report::Failed(126, "a\nb".into()).to_string();
        assert_eq!(two_lines.lines().count(), 1);
    }
}
