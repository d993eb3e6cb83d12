//! The first process of an isolated program: it makes its surroundings, gives up all that this took, starts the program
//! and collects what ends. When it ends, the kernel kills everything else there.

use super::networks::{Given, WayBack};
use super::request::Request;
use super::view::{Kept, View};
use crate::filter;
use crate::rights::Capabilities;
use crate::supervisor::{self, Report};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// To be added to the number of a signal that is to be passed on to the program: only real-time signals reach a first
/// process whatever their number, and none of them stops or ends it.
pub(crate) const PASS_ON: i32 = 33;
/// The first and the last of them.
const FIRST_PASSED: i32 = PASS_ON + 1;
const LAST_PASSED: i32 = PASS_ON + 31;

/// What belongs to one program, as descriptors.
pub(super) struct Ends {
    pub(super) stdio: [OwnedFd; 3],
    /// For [`Report`]s.
    pub(super) status: OwnedFd,
    /// For what is kept.
    pub(super) keep: OwnedFd,
}

/// Never returns: as the first process of its namespaces.
pub(super) fn run(view: &View, rights: Rights, request: &Request, ends: Ends, network: Given) -> ! {
    // SAFETY: a call with numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    let Ends { stdio, status, keep } = ends;
    let mut status = File::from(status);
    // A guest that is gone takes its whole sandbox with it; nothing is lost with a report.
    let mut tell = |what: Report| {
        let _ = writeln!(status, "{what}");
    };
    match begin(view, rights, request, &stdio, keep, network) {
        Ok((own, _)) if request.argv.is_empty() => tell(Report::Started(own)),
        Ok((own, way_back)) => {
            drop(stdio);
            program(request, own, &mut tell);
            if let Some(way_back) = way_back {
                way_back.hand_over();
            }
        }
        Err(error) => tell(Report::Failed(
            supervisor::NOT_EXECUTABLE,
            format!("it cannot be isolated: {error}"),
        )),
    }
    // SAFETY: ends this process without the ends of things of its parent, of which it is a copy.
    unsafe { libc::_exit(0) }
}

/// What the program may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    /// Of programs that are not isolated.
    pub(super) usual: Capabilities,
    pub(super) filter: bool,
}

fn begin(
    view: &View,
    rights: Rights,
    request: &Request,
    stdio: &[OwnedFd; 3],
    keep: OwnedFd,
    network: Given,
) -> io::Result<(i32, Option<WayBack>)> {
    block_waited()?;
    for (fd, end) in stdio.iter().enumerate() {
        // SAFETY: both are open, and whoever had the low number before does not need it.
        Errno::result(unsafe { libc::dup2(end.as_raw_fd(), fd as RawFd) })?;
    }
    // As the guest sees it: its /proc is still there.
    let own = std::fs::read_link("/proc/self")?;
    let own = own.to_str().and_then(|pid| pid.parse().ok());
    let own: i32 = own.ok_or_else(|| io::Error::other("/proc is not that of the guest"))?;
    let kept = view.enter(request.scratch_bytes)?;
    if request.keep {
        hand_over(&kept, &keep)?;
    }
    drop((kept, keep));
    let way_back = network.enter()?;
    rights.usual.isolated(request.own_network).keep_only()?;
    if !view.root {
        nix::sys::prctl::set_no_new_privs()?;
    }
    if rights.filter {
        filter::put_on()?;
    }
    Ok((own, way_back))
}

/// Gives the guest the directories, in the order in which they are.
fn hand_over(kept: &[Kept], to: &OwnedFd) -> io::Result<()> {
    let mut names = Vec::new();
    let mut handles = Vec::new();
    for (path, handle) in kept {
        names.extend_from_slice(path.as_os_str().as_encoded_bytes());
        names.push(0);
        handles.push(handle.as_raw_fd());
    }
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(&names)],
        &[ControlMessage::ScmRights(&handles)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

fn program(request: &Request, own: i32, tell: &mut impl FnMut(Report)) {
    let (Some((program, rest)), started) = (request.argv.split_first(), supervisor::monotonic_us()) else {
        return;
    };
    let cwd = Path::new(&request.cwd);
    if let Err(error) = std::fs::create_dir_all(cwd) {
        let why = format!("{} cannot be a directory: {error}", cwd.display());
        return tell(Report::Failed(supervisor::NOT_EXECUTABLE, why));
    }
    let mut command = Command::new(program);
    command.args(rest).current_dir(cwd).env_clear();
    for variable in &request.env {
        let text = variable.as_encoded_bytes();
        let at = text.iter().position(|&byte| byte == b'=').unwrap_or(text.len());
        let (name, value) = text.split_at(at);
        // SAFETY: both are parts of a string of the same encoding, cut at a character of ASCII.
        let (name, value) = unsafe {
            (
                OsStr::from_encoded_bytes_unchecked(name),
                OsStr::from_encoded_bytes_unchecked(value.get(1..).unwrap_or_default()),
            )
        };
        command.env(name, value);
    }
    supervisor::lead(&mut command);
    // SAFETY: between fork and exec, these are system calls without any memory.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
    let main = match command.spawn() {
        Ok(child) => child.id() as i32,
        Err(error) => return tell(supervisor::not_started(program, &error)),
    };
    tell(Report::Started(own));
    supervisor::stand_back();
    let mut end = None;
    loop {
        loop {
            let (pid, code, signal) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 0, signal as i32),
                Ok(WaitStatus::StillAlive) => break,
                Err(Errno::ECHILD) => {
                    if let Some((code, signal, ended)) = end {
                        tell(Report::Ended(supervisor::ended(code, signal, started, ended)));
                    }
                    return;
                }
                Ok(_) | Err(_) => continue,
            };
            if pid == Pid::from_raw(main) {
                end = Some((code, signal, supervisor::monotonic_us()));
                let _nobody_left = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
        }
        match wait_signal() {
            libc::SIGTERM => {
                let _nobody_left = kill(Pid::from_raw(-1), Signal::SIGTERM);
            }
            libc::SIGQUIT => {
                let _nobody_left = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            passed @ FIRST_PASSED..=LAST_PASSED => {
                if let Ok(signal) = Signal::try_from(passed - PASS_ON) {
                    let _nobody_left = killpg(Pid::from_raw(main), signal);
                }
            }
            _ => {}
        }
    }
}

/// The signals that this process waits for: those that it knows by name, and those that are passed on.
fn waited() -> libc::sigset_t {
    // SAFETY: a set is made of numbers, and is made empty before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGQUIT]
            .into_iter()
            .chain(FIRST_PASSED..=LAST_PASSED)
        {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn block_waited() -> io::Result<()> {
    let set = waited();
    // SAFETY: the set is read, and no old one is asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// The next that counts. A signal that is waited for reaches a first process also from its own program, which must not
/// give it orders; the kernel says that one comes from outside by a sender that has no number here, and nobody can say
/// `SI_USER` for himself.
fn wait_signal() -> i32 {
    let set = waited();
    loop {
        // SAFETY: details are numbers, for which there is room.
        let mut from: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is read, and the details are written.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, &raw mut from) };
        // SAFETY: a signal that was sent has a sender.
        let outside = || from.si_code == libc::SI_USER && unsafe { from.si_pid() } == 0;
        if signal < 0 || signal == libc::SIGCHLD || outside() {
            return signal;
        }
    }
}
