//! The programs that the guest was asked to execute.

use crate::isolation::{self, Kept, Maker, PASS_ON, Request, Stdio as Ends};
use crate::output::Output;
use crate::supervisor::{End, Report};
use crate::terminal::{Half, Terminal};
use crate::{CONTROL_SOCKET, CONTROL_VARIABLE, lock, processes, terminal};
use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::{ExecInfo, ExecUsage, Exited, Isolation, Network, StartRequest};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

/// Programs that may be known at a time; each holds a little memory until it is released.
const MOST: usize = 1024;
/// Bytes of one piece of output.
const PIECE: usize = 64 * 1024;
/// Pieces of standard input that wait for the program.
const STDIN: usize = 16;
/// After the program has ended, heirs that hold its output are listened to while they write this often,
const QUIET: Duration = Duration::from_millis(100);
/// and no longer than this.
const HEIRS: Duration = Duration::from_secs(1);
/// Part of the grace period, at most, that what runs at a terminal has between its hang-up and TERM.
const HANG_UP: Duration = Duration::from_secs(1);
/// Longest wait for a program to be started.
const START: Duration = Duration::from_secs(10);
const KILLED: i32 = 9;
/// For the first process of an isolated program to tell what was used after all others were killed.
const LAST_REPORT: Duration = Duration::from_secs(1);
/// Bytes of a block of storage, as the kernel counts.
const BLOCK: u64 = 512;
/// Bytes of a command that are remembered for lists.
const ARGV: usize = 4096;

/// One program.
pub(crate) struct Exec {
    /// The process to which all that the program starts belongs; 0 until an isolated program has started.
    supervisor: AtomicI32,
    isolated: bool,
    /// Of an isolated program: what it can write, as long as it is wanted. At first what it comes through.
    keeper: Mutex<Option<OwnedFd>>,
    kept: Mutex<Vec<Kept>>,
    /// Its beginning.
    argv: Vec<String>,
    /// Microseconds since the epoch.
    started_us: i64,
    /// Whether it was given a terminal, and while it runs that.
    has_terminal: bool,
    terminal: Mutex<Option<Arc<Terminal>>>,
    /// Of the program, while it runs; 0 before and after.
    main: AtomicI32,
    /// As told to callers: 0 until it has started.
    pid: watch::Sender<Option<i32>>,
    pub(crate) output: Output,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    /// Whether the supervisor, and with it all that the program started, has ended.
    gone: AtomicBool,
}

/// All programs of the sandbox.
pub(crate) struct Execs {
    run: PathBuf,
    workspace: PathBuf,
    /// For all programs started from now on.
    pub(crate) env: Mutex<BTreeMap<String, String>>,
    known: Mutex<BTreeMap<String, Arc<Exec>>>,
    /// Makes isolated programs; or why there is none.
    maker: Result<Maker, String>,
}

impl Execs {
    pub(crate) fn new(run: PathBuf, workspace: PathBuf, maker: Result<Maker, String>) -> Self {
        Self {
            run,
            workspace,
            maker,
            env: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Collects all child processes that end, also those of others that fell to this one. Runs for ever.
    pub(crate) async fn reap(&self) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        loop {
            children.recv().await;
            loop {
                match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                    Ok(status) => {
                        if let Some(pid) = status.pid() {
                            self.gone(pid.as_raw());
                        }
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Its process id may belong to another from now on.
    fn gone(&self, supervisor: i32) {
        for exec in lock(&self.known).values() {
            if !exec.isolated && exec.supervisor.load(Ordering::Relaxed) == supervisor {
                exec.gone.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Starts a program, unless one is known by this id. Returns its process id and whether it was known.
    pub(crate) async fn start(self: &Arc<Self>, request: StartRequest) -> Result<(i32, bool), Status> {
        if request.exec_id.is_empty() || request.exec_id.len() > 128 {
            return Err(Status::invalid_argument("exec_id must have 1 to 128 characters"));
        }
        if request.argv.first().is_none_or(String::is_empty) {
            return Err(Status::invalid_argument("argv must name a program"));
        }
        let known = lock(&self.known).get(&request.exec_id).cloned();
        if let Some(exec) = known {
            return Ok((exec.pid().await, true));
        }
        if request.isolation.is_some() {
            self.can_isolate().await.map_err(|why| {
                Status::failed_precondition(format!("programs cannot be isolated in this sandbox: {why}"))
            })?;
            // Meanwhile another may have asked for the same.
            let known = lock(&self.known).get(&request.exec_id).cloned();
            if let Some(exec) = known {
                return Ok((exec.pid().await, true));
            }
        }
        let exec = self.spawn(&request)?;
        Ok((exec.pid().await, false))
    }

    /// Whether programs can be isolated; the error says why not.
    pub(crate) async fn can_isolate(&self) -> Result<(), String> {
        match &self.maker {
            Ok(maker) => maker.works().await,
            Err(why) => Err(why.clone()),
        }
    }

    fn spawn(self: &Arc<Self>, request: &StartRequest) -> Result<Arc<Exec>, Status> {
        if lock(&self.known).len() >= MOST {
            return Err(Status::resource_exhausted(format!(
                "{MOST} programs are known; release some that have ended"
            )));
        }
        let cwd = if request.cwd.is_empty() {
            self.workspace.clone()
        } else {
            self.workspace.join(&request.cwd)
        };
        if request.isolation.is_none() {
            std::fs::create_dir_all(&cwd).map_err(|error| {
                Status::invalid_argument(format!("{} cannot be a directory: {error}", cwd.display()))
            })?;
        }
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                Status::invalid_argument(format!("a NUL byte in the program or its environment: {error}"))
            }
            io::ErrorKind::ArgumentListTooLong => {
                Status::invalid_argument("the arguments and the environment are too large together")
            }
            _ => Status::resource_exhausted(format!("no process can be started: {error}")),
        };
        let (status, told) = pipe2(OFlag::O_CLOEXEC).map_err(|error| refused(error.into()))?;
        let mut env = self.environment(&request.env)?;
        let mut ends: [Option<OwnedFd>; 3] = [None, None, None];
        let (terminal, program) = match &request.terminal {
            None => {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for output in [false, true, true] {
                    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| refused(error.into()))?;
                    let (our, their) = if output { (read, write) } else { (write, read) };
                    ours.push(Some(our));
                    theirs.push(their);
                }
                ends = ours.try_into().unwrap_or_default();
                (None, theirs)
            }
            Some(wanted) => {
                let (terminal, other) = terminal::open(wanted)?;
                if !request.env.contains_key("TERM") {
                    env.insert("TERM".into(), terminal::kind(wanted).into());
                }
                let copy = || other.try_clone().map_err(refused);
                (Some(terminal), vec![copy()?, copy()?, other])
            }
        };
        let program: [OwnedFd; 3] = program
            .try_into()
            .map_err(|_| Status::internal("a program has three descriptors"))?;
        let mut keeper = None;
        let supervisor = if let Some(isolation) = &request.isolation {
            let (ours, keep) = isolation::keeper().map_err(refused)?;
            keeper = Some(ours);
            let ends = Ends {
                three: program,
                status: told,
                keep,
            };
            self.isolate(isolation, request, cwd, env, &ends)
                .map_err(refused)?;
            0
        } else {
            supervise(request, &cwd, env, program, told).map_err(refused)?
        };
        let [stdin, stdout, stderr] = ends;
        let (input, pieces) = mpsc::channel(STDIN);
        if !request.stdin.is_empty() {
            // The channel is new and has room.
            let _ = input.try_send(request.stdin.clone());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exec = Arc::new(Exec {
            supervisor: AtomicI32::new(supervisor),
            isolated: request.isolation.is_some(),
            keeper: Mutex::new(keeper),
            kept: Mutex::default(),
            argv: beginning(&request.argv),
            started_us: now.as_micros() as i64,
            has_terminal: terminal.is_some(),
            terminal: Mutex::new(terminal.clone()),
            main: AtomicI32::new(0),
            pid: watch::Sender::new(None),
            output: Output::new(&self.run, request.keep_bytes),
            stdin: Mutex::new(request.stdin_open.then_some(input)),
            gone: AtomicBool::new(false),
        });
        lock(&self.known).insert(request.exec_id.clone(), Arc::clone(&exec));
        let end = |fd: Option<OwnedFd>| pipe::Receiver::from_owned_fd(fd.ok_or(io::ErrorKind::BrokenPipe)?);
        let status = end(Some(status)).map_err(refused)?;
        let follow = if let Some(terminal) = terminal {
            tokio::spawn(type_in(Arc::clone(&terminal), pieces));
            Follow {
                status,
                stdout: Box::new(Half(terminal)),
                stderr: Box::new(tokio::io::empty()),
            }
        } else {
            if let Some(stdin) = stdin {
                let stdin = pipe::Sender::from_owned_fd(stdin).map_err(refused)?;
                tokio::spawn(write(stdin, pieces));
            }
            Follow {
                status,
                stdout: Box::new(end(stdout).map_err(refused)?),
                stderr: Box::new(end(stderr).map_err(refused)?),
            }
        };
        let (this, followed) = (Arc::clone(self), Arc::clone(&exec));
        tokio::spawn(async move { follow.run(&this, &followed).await });
        Ok(exec)
    }

    /// Has an isolated program started; whether it could be is told by its reports.
    fn isolate(
        &self,
        isolation: &Isolation,
        request: &StartRequest,
        cwd: PathBuf,
        env: BTreeMap<OsString, OsString>,
        ends: &Ends,
    ) -> io::Result<()> {
        let Ok(maker) = &self.maker else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let variable = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        let request = Request {
            own_network: isolation.network() == Network::Own,
            keep: isolation.keep_until_release,
            scratch_bytes: isolation.scratch_bytes,
            cwd: cwd.into(),
            argv: request.argv.iter().map(OsString::from).collect(),
            env: env.into_iter().map(variable).collect(),
        };
        maker.send(&request, ends)
    }

    /// What the guest was given, then what was configured, then what this program is given; and the tools.
    fn environment(
        &self,
        own: &std::collections::HashMap<String, String>,
    ) -> Result<BTreeMap<OsString, OsString>, Status> {
        let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let configured = lock(&self.env).clone();
        for (name, value) in configured.iter().chain(own) {
            if name.is_empty() || name.contains('=') {
                return Err(Status::invalid_argument(format!(
                    "`{name}` cannot be the name of a variable"
                )));
            }
            env.insert(name.into(), value.into());
        }
        env.entry("HOME".into()).or_insert_with(|| home().into());
        let mut path = OsString::from(tools(&self.run));
        path.push(":");
        path.push(
            env.get(&OsString::from("PATH"))
                .cloned()
                .unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        );
        env.insert("PATH".into(), path);
        env.insert(CONTROL_VARIABLE.into(), self.run.join(CONTROL_SOCKET).into());
        Ok(env)
    }

    pub(crate) fn get(&self, exec_id: &str) -> Result<Arc<Exec>, Status> {
        lock(&self.known)
            .get(exec_id)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("program by the name {exec_id}")))
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.known).len()
    }

    pub(crate) fn list(&self) -> Vec<ExecInfo> {
        let known = lock(&self.known);
        known
            .iter()
            .map(|(id, exec)| ExecInfo {
                exec_id: id.clone(),
                running: !exec.output.ended(),
                last_seq: exec.output.last_seq(),
                pid: exec.pid.borrow().unwrap_or_default(),
                argv: exec.argv.clone(),
                started_us: exec.started_us,
                terminal: exec.has_terminal,
                exited: exec.output.exited(),
            })
            .collect()
    }

    /// Forgets a program that has ended. What it left running goes on.
    pub(crate) fn release(&self, exec_id: &str) -> Result<(), Status> {
        let mut known = lock(&self.known);
        if known.get(exec_id).is_some_and(|exec| !exec.output.ended()) {
            return Err(Status::failed_precondition(format!(
                "{exec_id} still runs; kill it first"
            )));
        }
        known.remove(exec_id);
        Ok(())
    }

    /// Ends all processes of the sandbox but this one.
    pub(crate) async fn end_all(&self, grace: Duration) {
        let own = std::process::id() as i32;
        let supervisors: Vec<Arc<Exec>> = lock(&self.known).values().cloned().collect();
        let ends = supervisors.iter().map(|exec| exec.kill(grace));
        futures::future::join_all(ends).await;
        // What released programs left.
        processes::end_below(own, Duration::ZERO).await;
    }

    fn supervisors(&self) -> HashSet<i32> {
        let known = lock(&self.known);
        let live = known.values().filter(|exec| !exec.gone.load(Ordering::Relaxed));
        live.map(|exec| exec.supervisor.load(Ordering::Relaxed))
            .chain(self.maker.as_ref().ok().map(Maker::pid))
            .collect()
    }
}

/// Starts the supervisor of a program that is not isolated, in its process id.
fn supervise(
    request: &StartRequest,
    cwd: &Path,
    env: BTreeMap<OsString, OsString>,
    program: [OwnedFd; 3],
    told: OwnedFd,
) -> io::Result<i32> {
    let [stdin, stdout, stderr] = program;
    // Inherited by the supervisor, and by nothing else, as nothing else is started before it is closed here.
    fcntl(&told, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let child = Command::new("/proc/self/exe")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .arg0("ostler-guest")
        .args(["supervise", &told.as_raw_fd().to_string(), "--"])
        .args(&request.argv)
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .process_group(0)
        .spawn();
    drop(told);
    Ok(child?.id() as i32)
}

/// The home directory of programs that are not given another.
pub(crate) fn home() -> String {
    std::env::var("HOME").unwrap_or_else(|_| "/root".into())
}

/// Where `bd` and `orchestrator` are.
pub(crate) fn tools(run: &Path) -> PathBuf {
    run.join("bin")
}

impl Exec {
    /// The program's process id, as soon as it has one; 0 if it could not be started.
    async fn pid(&self) -> i32 {
        let mut pid = self.pid.subscribe();
        let started = tokio::time::timeout(START, pid.wait_for(Option::is_some)).await;
        started
            .ok()
            .and_then(Result::ok)
            .and_then(|pid| *pid)
            .unwrap_or_default()
    }

    /// Gives standard input to the program, and closes it if that was all.
    pub(crate) async fn write(&self, data: Bytes, close: bool) -> Result<(), Status> {
        let input = lock(&self.stdin).clone();
        let Some(input) = input else {
            return Err(Status::failed_precondition("standard input is closed"));
        };
        if !data.is_empty() && input.send(data).await.is_err() {
            return Err(Status::failed_precondition("the program no longer reads"));
        }
        if close {
            lock(&self.stdin).take();
        }
        Ok(())
    }

    /// Changes the size of the program's terminal.
    pub(crate) fn resize(&self, rows: u32, columns: u32) -> Result<(), Status> {
        let terminal = lock(&self.terminal).clone();
        match terminal {
            Some(terminal) => terminal.resize(rows, columns),
            None if self.has_terminal => Err(Status::failed_precondition("the program has ended")),
            None => Err(Status::failed_precondition("the program has no terminal")),
        }
    }

    /// Sends a signal to the program and those of its children that are in its process group; if it has a terminal, to
    /// what runs in the foreground there.
    pub(crate) fn signal(&self, number: i32) -> Result<bool, Status> {
        let signal = Signal::try_from(number)
            .map_err(|_| Status::invalid_argument(format!("{number} is not the number of a signal")))?;
        if self.isolated {
            return Ok(self.pass_on(signal));
        }
        let main = self.main.load(Ordering::Relaxed);
        if let Some(terminal) = lock(&self.terminal).as_ref()
            && terminal.signal(signal)
        {
            return Ok(true);
        }
        Ok(main != 0 && killpg(Pid::from_raw(main), signal).is_ok())
    }

    /// Has the first process of an isolated program signal the program. False if there is none.
    fn pass_on(&self, signal: Signal) -> bool {
        self.tell_supervisor(PASS_ON + signal as i32)
    }

    fn tell_supervisor(&self, number: i32) -> bool {
        let supervisor = self.supervisor.load(Ordering::Relaxed);
        // SAFETY: a call with numbers only.
        supervisor > 0
            && !self.gone.load(Ordering::Relaxed)
            && unsafe { nix::libc::kill(supervisor, number) } == 0
    }

    /// The same as [`kill`](Self::kill), for an isolated program: its first process knows all the others.
    async fn kill_isolated(&self, grace: Duration) -> bool {
        if self.pid().await == 0 || self.gone.load(Ordering::Relaxed) {
            return false;
        }
        let begun = Instant::now();
        if self.has_terminal {
            self.pass_on(Signal::SIGHUP);
            self.pass_on(Signal::SIGCONT);
            self.gone_by(begun + grace.min(HANG_UP)).await;
        }
        self.tell_supervisor(Signal::SIGTERM as i32);
        if !self.gone_by(begun + grace).await {
            // So that it can still tell what they have used; and if it does not, without.
            self.tell_supervisor(Signal::SIGQUIT as i32);
            if !self.gone_by(Instant::now() + LAST_REPORT).await {
                self.tell_supervisor(Signal::SIGKILL as i32);
                self.gone_by(Instant::now() + START).await;
            }
        }
        true
    }

    /// Waits for the end of everything that belongs to an isolated program. Whether it has come.
    async fn gone_by(&self, end: Instant) -> bool {
        loop {
            if self.gone.load(Ordering::Relaxed) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What an isolated program wrote, where that is kept: directories by their names.
    pub(crate) fn kept(&self) -> io::Result<Vec<Kept>> {
        let copy = |(path, handle): &Kept| Ok((path.clone(), handle.try_clone()?));
        lock(&self.kept).iter().map(copy).collect()
    }

    /// It has started.
    fn started(&self, pid: i32) {
        if self.isolated {
            self.supervisor.store(pid, Ordering::Relaxed);
            if let Some(keeper) = lock(&self.keeper).take()
                && let Ok(kept) = isolation::kept(&keeper)
            {
                *lock(&self.kept) = kept;
            }
        }
        self.main.store(pid, Ordering::Relaxed);
        self.pid.send_replace(Some(pid));
    }

    /// Ends all that the program started. False if there was nothing left.
    pub(crate) async fn kill(&self, grace: Duration) -> bool {
        if self.isolated {
            return self.kill_isolated(grace).await;
        }
        let supervisor = self.supervisor.load(Ordering::Relaxed);
        let main = Pid::from_raw(self.main.load(Ordering::Relaxed));
        let mut hung_up = false;
        let mut grace = grace;
        if self.has_terminal && main.as_raw() != 0 {
            // Shells do not listen to TERM, but they do when their terminal is hung up, and pass it on.
            hung_up = killpg(main, Signal::SIGHUP).is_ok();
            let _ = killpg(main, Signal::SIGCONT);
            if hung_up && !self.gone.load(Ordering::Relaxed) {
                // What listens to it may have something to put away, which TERM would cut short.
                let began = Instant::now();
                processes::gone_by(supervisor, began + grace.min(HANG_UP)).await;
                grace = grace.saturating_sub(began.elapsed());
            }
        }
        let ended = !self.gone.load(Ordering::Relaxed) && processes::end_below(supervisor, grace).await;
        ended || hung_up
    }
}

/// As much of a command as lists need.
fn beginning(argv: &[String]) -> Vec<String> {
    let mut left = ARGV;
    let mut words = Vec::new();
    for word in argv {
        let mut word = word.clone();
        word.truncate(word.floor_char_boundary(left));
        left = left.saturating_sub(word.len() + 1);
        words.push(word);
        if left == 0 {
            break;
        }
    }
    words
}

/// What is typed at a terminal, and at last the end of file.
async fn type_in(terminal: Arc<Terminal>, pieces: mpsc::Receiver<Bytes>) {
    let mut keyboard = Half(Arc::clone(&terminal));
    if write(&mut keyboard, pieces).await {
        // A program that has gone needs none.
        let _ = keyboard.write_all(terminal.end_of_file()).await;
    }
}

/// Standard input of a program, until there is no more of it (true) or the program does not want it.
async fn write(mut stdin: impl AsyncWrite + Unpin, mut pieces: mpsc::Receiver<Bytes>) -> bool {
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return false;
        }
    }
    true
}

/// What comes from a program and its supervisor.
struct Follow {
    status: pipe::Receiver,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Box<dyn AsyncRead + Send + Unpin>,
}

impl Follow {
    /// Notes it, to the end of the program; afterwards what heirs write is read, so that they can go on, and dropped.
    async fn run(mut self, execs: &Execs, exec: &Exec) {
        let mut reports = BufReader::new(self.status).lines();
        let mut end: Option<(Exited, Instant)> = None;
        let (mut out_open, mut err_open, mut supervised) = (true, true, true);
        let mut quiet = Instant::now();
        let mut out = BytesMut::with_capacity(PIECE);
        let mut err = BytesMut::with_capacity(PIECE);
        loop {
            if let Some((exited, last)) = &end
                && (!out_open && !err_open || Instant::now() >= quiet.min(*last))
                && !exec.output.ended()
            {
                lock(&exec.stdin).take();
                lock(&exec.terminal).take();
                exec.output.end(exited.clone());
            }
            if end.is_some() && !out_open && !err_open && !supervised {
                return;
            }
            let until = end.as_ref().map(|(_, last)| quiet.min(*last));
            let waiting = end.is_some() && !exec.output.ended();
            tokio::select! {
                biased;
                read = self.stdout.read_buf(&mut out), if out_open => {
                    out_open = matches!(read, Ok(1..));
                    quiet = Instant::now() + QUIET;
                    note(exec, &mut out, Event::Stdout);
                }
                read = self.stderr.read_buf(&mut err), if err_open => {
                    err_open = matches!(read, Ok(1..));
                    quiet = Instant::now() + QUIET;
                    note(exec, &mut err, Event::Stderr);
                }
                line = reports.next_line(), if supervised => {
                    let report = line.ok().flatten();
                    supervised = report.is_some();
                    if !supervised && exec.isolated {
                        // Its first process has gone, and with it all others.
                        exec.gone.store(true, Ordering::Relaxed);
                    }
                    let ended = match report.as_deref().map(Report::parse) {
                        Some(Some(Report::Started(pid))) => {
                            exec.started(pid);
                            None
                        }
                        Some(Some(Report::Failed(code, why))) => Some(Exited {
                            code,
                            start_error: why,
                            ..Exited::default()
                        }),
                        Some(Some(Report::Ended(end))) => Some(exited(end)),
                        None if end.is_none() => {
                            // Somebody killed the supervisor. What it held fell to this process.
                            if !exec.isolated {
                                processes::kill_strays(&execs.supervisors());
                            }
                            Some(Exited { signal: KILLED, ..Exited::default() })
                        }
                        Some(None) | None => None,
                    };
                    if let Some(exited) = ended {
                        exec.main.store(0, Ordering::Relaxed);
                        exec.pid.send_if_modified(|pid| pid.is_none() && pid.replace(0).is_none());
                        quiet = Instant::now() + QUIET;
                        end = Some((exited, Instant::now() + HEIRS));
                    }
                }
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if waiting => {}
            }
        }
    }
}

fn note(exec: &Exec, buffer: &mut BytesMut, kind: fn(Bytes) -> Event) {
    if !buffer.is_empty() && !exec.output.ended() {
        exec.output.push(kind(buffer.split().freeze()));
    }
    buffer.clear();
    buffer.reserve(PIECE);
}

fn exited(end: End) -> Exited {
    Exited {
        code: end.code,
        signal: end.signal,
        user_us: end.user_us,
        system_us: end.system_us,
        max_rss_kib: end.max_rss_kib,
        usage: Some(ExecUsage {
            user_us: end.user_us,
            system_us: end.system_us,
            peak_memory_bytes: end.max_rss_kib * 1024,
            read_bytes: end.read_blocks * BLOCK,
            written_bytes: end.written_blocks * BLOCK,
            voluntary_switches: end.voluntary_switches,
            involuntary_switches: end.involuntary_switches,
            wall_us: end.ended_us.saturating_sub(end.started_us),
            started_us: end.started_us,
            ended_us: end.ended_us,
        }),
        ..Exited::default()
    }
}
