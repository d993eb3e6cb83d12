//! Programs that share nothing with others in the sandbox but what they may only read.
//!
//! A process of its own makes them, started before anything else and with all the rights that the guest was given for
//! that; the guest then gives these up, so that what programs can reach of it is worth no more than they are. What a
//! request says is used only for the program itself, after its rights are gone, so that whoever takes the guest over gets
//! nothing from that process but what programs may do anyway.
//!
//! Where the guest is root of its machine, namespaces are made with the right to do so. Elsewhere one user namespace is
//! made, once, in which the sandbox's only user is still itself; it owns the namespaces of all programs. Making one for
//! each program would cost more and protect nothing: there is one user in either.

mod first;
mod networks;
mod request;
mod view;

pub(crate) use first::PASS_ON;
pub(crate) use request::Request;
pub(crate) use view::{Kept, View};

use crate::rights::{Capabilities, User};
use crate::supervisor::Report;
use first::{Ends, Rights};
use networks::Networks;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, setpgid};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::OnceCell;

/// Of one message: the request, standard input and both outputs, the pipe for reports, the socket for what is kept.
const DESCRIPTORS: usize = 6;
/// Longest trial.
const TRIAL: Duration = Duration::from_secs(10);
/// Bytes of the names of what is kept.
const NAMES: usize = 3 * 4096 + 3;

/// The guest's side of the process that makes isolated programs.
pub(crate) struct Maker {
    pid: i32,
    socket: OwnedFd,
    trial: OnceCell<Result<(), String>>,
}

/// What that process is started with.
pub(crate) struct Setup<'a> {
    pub(crate) view: View,
    /// Whom programs run as, where the guest is still root.
    pub(crate) user: Option<&'a User>,
    /// Of programs that are not isolated.
    pub(crate) usual: Capabilities,
    /// Whether programs get the filter of system calls.
    pub(crate) filter: bool,
}

/// What a program is started with beside the request.
pub(crate) struct Stdio {
    pub(crate) three: [OwnedFd; 3],
    pub(crate) status: OwnedFd,
    pub(crate) keep: OwnedFd,
}

impl Maker {
    /// Starts it. This process must have no other thread and no descriptors that are secret.
    pub(crate) fn start(setup: &Setup<'_>) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: there is one thread, so that the child may do what it likes.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child.as_raw(),
                socket: ours,
                trial: OnceCell::new(),
            }),
            ForkResult::Child => {
                drop(ours);
                if let Err(error) = make(setup, theirs) {
                    eprintln!("ostler-guest: no isolated program can be made: {error}");
                }
                // SAFETY: ends this process without the ends of things of its parent, of which it is a copy.
                unsafe { libc::_exit(0) }
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether an isolated program can be started: one that does nothing has been. The error says why not.
    pub(crate) async fn works(&self) -> Result<(), String> {
        self.trial
            .get_or_init(|| async {
                match tokio::time::timeout(TRIAL, self.try_out()).await {
                    Ok(done) => done,
                    Err(_) => Err(format!("a trial did not end within {TRIAL:?}")),
                }
            })
            .await
            .clone()
    }

    async fn try_out(&self) -> Result<(), String> {
        let explain = |error: io::Error| format!("nothing can be tried: {error}");
        let (told, status) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| explain(e.into()))?;
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
        };
        let end = || -> io::Result<Stdio> {
            Ok(Stdio {
                three: [null()?, null()?, null()?],
                status,
                keep: null()?,
            })
        };
        let request = Request {
            own_network: true,
            cwd: "/".into(),
            ..Request::default()
        };
        self.send(&request, &end().map_err(explain)?).map_err(explain)?;
        let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(told).map_err(explain)?).lines();
        match lines
            .next_line()
            .await
            .ok()
            .flatten()
            .as_deref()
            .map(Report::parse)
        {
            Some(Some(Report::Started(_))) => Ok(()),
            Some(Some(Report::Failed(_, why))) => Err(why),
            _ => Err("what makes isolated programs has ended: the log of the sandbox says why".into()),
        }
    }

    /// Has a program started.
    pub(crate) fn send(&self, request: &Request, ends: &Stdio) -> io::Result<()> {
        let mut file = File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&request.encode()?)?;
        let [input, output, errors] = &ends.three;
        let fds = [
            file.as_raw_fd(),
            input.as_raw_fd(),
            output.as_raw_fd(),
            errors.as_raw_fd(),
            ends.status.as_raw_fd(),
            ends.keep.as_raw_fd(),
        ];
        // A full queue is an error and not a wait: nobody has that many starts on their way.
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(b"r")],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }
}

/// A pair for what is kept: the guest's end, and the program's.
pub(crate) fn keeper() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// What was handed over, once the program has started.
pub(crate) fn kept(from: &OwnedFd) -> io::Result<Vec<Kept>> {
    let (names, fds) = receive(from, NAMES, MsgFlags::MSG_DONTWAIT)?;
    let names = names.split(|&byte| byte == 0);
    Ok(names
        .map(|name| PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())))
        .zip(fds)
        .collect())
}

/// A message and the descriptors that came with it.
fn receive(from: &OwnedFd, most: usize, flags: MsgFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; most];
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let mut fds = Vec::new();
    let length = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(
            from.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            flags | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                // SAFETY: the kernel has just made them for this process.
                fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    bytes.truncate(length);
    Ok((bytes, fds))
}

/// The life of that process: it ends with the guest.
fn make(setup: &Setup<'_>, socket: OwnedFd) -> io::Result<()> {
    // SAFETY: calls with numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"ostler-isolate".as_ptr(), 0, 0, 0);
    }
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    nix::unistd::chdir("/")?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let ended = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // Said of each program that is asked for: the guest goes on without.
    let rights = begin(setup).map_err(|error| error.to_string());
    let mut prepared: Option<Result<(), String>> = None;
    let mut networks = Networks::new(setup.view.root)?;
    loop {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut waits = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(networks.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waits[1].any() == Some(true) {
            while let Ok(Some(_)) = ended.read_signal() {}
            while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
                && status != WaitStatus::StillAlive
            {}
        }
        let (asked, returned) = (waits[0].any() == Some(true), waits[2].any() == Some(true));
        if returned {
            networks.take_back();
        }
        if !asked {
            continue;
        }
        let (message, fds) = receive(&socket, 16, MsgFlags::empty())?;
        if message.is_empty() {
            return Ok(());
        }
        let Ok([request, input, output, errors, status, keep]) = <[OwnedFd; DESCRIPTORS]>::try_from(fds)
        else {
            continue;
        };
        let ends = Ends {
            stdio: [input, output, errors],
            status,
            keep,
        };
        let refuse = |ends: Ends, why: &str| {
            let why = Report::Failed(
                crate::supervisor::NOT_EXECUTABLE,
                format!("it cannot be isolated: {why}"),
            );
            let _gone = writeln!(File::from(ends.status), "{why}");
        };
        let Some(request) = read(request) else {
            refuse(ends, "the request makes no sense");
            continue;
        };
        let view = &setup.view;
        let rights = match (
            &rights,
            &*prepared.get_or_insert_with(|| view.prepare().map_err(|e| e.to_string())),
        ) {
            (Ok(rights), Ok(())) => *rights,
            (Err(why), _) | (_, Err(why)) => {
                refuse(ends, why);
                continue;
            }
        };
        let given = networks.give(request.own_network);
        match clone(given.to_be_made()) {
            Ok(0) => {
                drop((socket, ended, networks));
                first::run(view, rights, &request, ends, given)
            }
            Ok(_) => {}
            Err(error) => refuse(ends, &format!("no process can be made: {error}")),
        }
    }
}

fn read(request: OwnedFd) -> Option<Request> {
    let mut file = File::from(request);
    file.rewind().ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Request::decode(&bytes)
}

/// Makes the namespaces in which those of programs are made.
fn begin(setup: &Setup<'_>) -> io::Result<Rights> {
    let explain = |what: &'static str| move |error: Errno| view::named(what, &error.into());
    let rights = Rights {
        usual: setup.usual,
        filter: setup.filter,
    };
    if setup.view.root {
        unshare(CloneFlags::CLONE_NEWNS).map_err(explain("a mount namespace"))?;
        dumpable(false)?;
        return Ok(rights);
    }
    if let Some(user) = setup.user {
        // Parts of /proc may be covered against root, as bubblewrap does; where one is covered, no user may have another.
        unshare(CloneFlags::CLONE_NEWNS).map_err(explain("a mount namespace"))?;
        let (proc, flags) = (Path::new("/proc"), nix::mount::MsFlags::MS_NOSUID);
        let flags = flags | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        view::attach("none", Path::new("none"), Path::new("/"), private, b"")?;
        view::attach("proc", Path::new("proc"), proc, flags, b"")?;
        user.become_it()?;
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(explain("the kernel makes no user namespace for this sandbox"))?;
    dumpable(true)?;
    let map = |name: &str, text: String| {
        std::fs::write(format!("/proc/self/{name}"), text).map_err(|error| view::named(name, &error))
    };
    map("setgroups", "deny".into())?;
    map("uid_map", format!("{uid} {uid} 1"))?;
    map("gid_map", format!("{gid} {gid} 1"))?;
    // No program of the same user may look into this process, which can do more.
    dumpable(false)?;
    Ok(rights)
}

fn dumpable(yes: bool) -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(yes)?)
}

/// `fork` into namespaces.
fn clone(new_network: bool) -> io::Result<i32> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::SIGCHLD;
    if new_network {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: there is one thread and no stack is given, so that this is a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    Ok(Errno::result(pid)? as i32)
}
