//! One attempt at a run, in its sandbox: its steps, each a program that the guest runs, and their output.
//!
//! Steps have numbers, from which the guest's names of their programs are made: the same after a restart of the server.
//! A step that the guest already knows is not started again but followed from where the log ends, so that taking up an
//! attempt means to go through its steps once more.

use super::services::{MAX_CALLS, Services};
use super::test::{Measured, isolation};
use super::{Executor, exec_id};
use crate::guest::{Guest, GuestError};
use crate::sandboxes::Loss;
use crate::{LogStream, LogWriter};
use ostler_agents::OutputParser;
use ostler_domain::{
    CommandSpec, FailureClass, Kernel, Run, RunKind, RunOutcome, RunStatus, Sandbox, TestSpec, Timestamp,
};
use ostler_guest_protocol::v1::{ConfigureReply, Exited, Isolation, Network, StartRequest, exec_event};
use ostler_reports::Parsed;
use ostler_store::Change;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// Silence after which the guest is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// Time that an agent has to exit by itself after its last word.
const LINGER: Duration = Duration::from_secs(10);
/// The signal that ends a program at once, and the time that a guest then has to tell of its end.
const KILLED: i32 = 9;
const LAST_WORD: Duration = Duration::from_secs(5);
/// Failures of the connection in a row before a sandbox counts as lost.
const FAILURES: u32 = 5;
/// The end of a program's output that is kept for messages, in bytes.
const TAIL: usize = 16 << 10;
/// Bits of a log's `exec_seq` that hold the guest's number; those above hold the step's.
const SEQ_BITS: u32 = 40;
/// The step that collects the work; above those of any list of commands that a request can hold.
const COLLECT: u32 = 1 << 20;

/// How an attempt came out.
pub(super) enum End {
    /// Its programs ended: the run has an outcome.
    Finished(Box<Finished>),
    /// It came to nothing through no fault of its programs. Whether they had started.
    Lost {
        /// Why.
        reason: String,
        /// Whether they had started.
        started: bool,
    },
}

/// An attempt that came to its end.
pub(super) struct Finished {
    pub(super) status: RunStatus,
    pub(super) outcome: RunOutcome,
    /// What is written together with it.
    pub(super) then: Vec<Change>,
    /// Of a sandbox that is as it was before.
    pub(super) unspoilt: Option<Unspoilt>,
}

/// What the next test in a sandbox need not ask for again.
pub(super) struct Unspoilt {
    guest: Guest,
    /// What the guest tells of the sandbox.
    place: ConfigureReply,
    /// Programs that the guest still knows, and may forget once their end is written.
    programs: Vec<String>,
}

impl Unspoilt {
    /// What the guest does not forget goes with the sandbox.
    async fn forget_programs(&self) {
        let released = self.programs.iter().map(|program| self.guest.release(program));
        futures::future::join_all(released).await;
    }
}

/// Why the steps do not go on.
pub(super) enum Interrupt {
    /// The run has failed, and why.
    Failed(String),
    /// The sandbox or the server goes away.
    Lost {
        /// Why.
        reason: String,
        /// Whether the attempt counts.
        started: bool,
    },
}

impl From<GuestError> for Interrupt {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Unreachable(_) => Self::Lost {
                reason: error.to_string(),
                started: true,
            },
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// How a program of a step ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) exited: Exited,
    /// What ended it, if it did not end by itself.
    pub(super) by: Option<RunStatus>,
    /// It was killed because it stayed after its last word.
    pub(super) lingered: bool,
    tail: Vec<u8>,
}

impl Ended {
    /// What is wrong with its end.
    pub(super) fn fault(&self) -> Option<String> {
        if let Some(by) = self.by {
            return Some(
                match by {
                    RunStatus::Cancelled => "it was cancelled",
                    _ => "it was ended by its time-out",
                }
                .to_owned(),
            );
        }
        match (
            self.exited.start_error.as_str(),
            self.exited.code,
            self.exited.signal,
        ) {
            ("", 0, 0) => None,
            ("", code, 0) => Some(format!("the program exited with code {code}")),
            ("", _, signal) => Some(format!("the program was ended by signal {signal}")),
            (error, ..) => Some(format!("the program could not be started: {error}")),
        }
    }

    /// The end of its output.
    pub(super) fn tail(&self) -> String {
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }

    fn add(&mut self, bytes: &[u8]) {
        self.tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        // Cut now and then, not at each piece.
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }
}

pub(super) struct Attempt<'a> {
    pub(super) executor: &'a Executor,
    pub(super) run: &'a Run,
    pub(super) sandbox: &'a Sandbox,
    /// What its programs have to know to get out.
    way_out: BTreeMap<String, String>,
    pub(super) guest: Guest,
    pub(super) place: ConfigureReply,
    pub(super) cancel: &'a CancellationToken,
    log: LogWriter,
    deadline: Option<Timestamp>,
    /// By how much that is later, since processors are emulated.
    slowdown: u32,
    /// The programs that the guest knew at the beginning: those of an attempt that is taken up.
    pub(super) known: BTreeMap<String, u64>,
    /// How programs that are started now are kept apart from the rest of the sandbox.
    pub(super) isolation: Option<Isolation>,
    /// What its programs used.
    pub(super) measured: Measured,
    /// What is written together with its end.
    pub(super) with_end: Vec<Change>,
    /// Its reports, as far as they were read, with the name of each.
    pub(super) parsed: Vec<(String, Parsed)>,
    /// Whether a program of it could not even be killed.
    pub(super) stuck: bool,
    /// Paths of the files that are kept of it.
    pub(super) left: BTreeSet<String>,
    /// Whether the sandbox is as it was before.
    pub(super) unspoilt: bool,
    /// Whether the sandbox was given by a test before this one, which left it as this one finds it in a new one.
    served: bool,
    /// What its programs are called at the guest.
    programs: Vec<String>,
}

impl<'a> Attempt<'a> {
    /// Carries an attempt out in its sandbox. `losses` are told to the attempt that can look into its own: that of a test
    /// of a kernel. `served` is what is known of the sandbox from the test before this one.
    pub(super) async fn carry_out(
        executor: &'a Executor,
        run: &'a Run,
        sandbox: &'a Sandbox,
        cancel: &'a CancellationToken,
        losses: Option<broadcast::Receiver<Loss>>,
        served: Option<Unspoilt>,
    ) -> End {
        let lost = |error: &dyn std::fmt::Display| End::Lost {
            reason: error.to_string(),
            started: false,
        };
        let control = &executor.control;
        let guest = match &served {
            Some(served) => served.guest.clone(),
            None => match control.guest(sandbox) {
                Ok(guest) => guest,
                Err(error) => return lost(&error),
            },
        };
        let log = match control.parts.logs.writer(run.submitted.id) {
            Ok(log) => log,
            Err(error) => return lost(&format!("the run's log cannot be opened: {error}")),
        };
        // A machine that was started for the test may not answer yet, and who was asked before has nothing new to say.
        let known = if losses.is_some() || served.is_some() {
            BTreeMap::new()
        } else {
            match guest.programs().await {
                Ok(known) => known,
                Err(error) => return lost(&error),
            }
        };
        let started = run.started_at.unwrap_or_else(|| control.now());
        let slowdown = match (tested_kernel(run), control.driver_of(sandbox)) {
            (Some(_), Ok(driver)) => driver.slowdown(),
            _ => 1,
        };
        let limit = run
            .submitted
            .spec
            .timeout
            .map(|limit| limit.saturating_mul(slowdown));
        let mut attempt = Attempt {
            executor,
            run,
            sandbox,
            way_out: BTreeMap::new(),
            guest,
            served: served.is_some(),
            place: served
                .as_ref()
                .map(|served| served.place.clone())
                .unwrap_or_default(),
            cancel,
            log,
            deadline: limit.map(|limit| started.plus(limit)),
            slowdown,
            known,
            isolation: None,
            measured: Measured::default(),
            with_end: Vec::new(),
            parsed: Vec::new(),
            stuck: false,
            left: BTreeSet::new(),
            unspoilt: false,
            programs: Vec::new(),
        };
        let steps = match (tested_kernel(run), losses, served) {
            (Some((test, kernel)), Some(losses), _) => attempt.on_machine(test, kernel, losses).await,
            (.., Some(served)) => tokio::join!(attempt.steps(), served.forget_programs()).0,
            _ => attempt.steps().await,
        };
        let finished = match steps {
            Ok((status, outcome)) => Ok((status, outcome)),
            Err(Interrupt::Lost { reason, started }) => Err(End::Lost { reason, started }),
            Err(Interrupt::Failed(error)) => {
                attempt.say(&error);
                let mut outcome = attempt.outcome(&Ended::default(), Some(error));
                if run.submitted.spec.test.is_some() {
                    // Not even its preparation came about: a branch or a program is missing, a disk is full.
                    outcome.test.get_or_insert_default().failure = Some(FailureClass::Job);
                }
                Ok((RunStatus::Failed, outcome))
            }
        };
        let end = match finished {
            Err(lost) => {
                control.drop_contents(run.submitted.id, &attempt.with_end).await;
                lost
            }
            Ok((status, outcome)) => End::Finished(Box::new(Finished {
                status,
                outcome,
                then: std::mem::take(&mut attempt.with_end),
                unspoilt: attempt.unspoilt.then(|| Unspoilt {
                    guest: attempt.guest.clone(),
                    place: std::mem::take(&mut attempt.place),
                    programs: std::mem::take(&mut attempt.programs),
                }),
            })),
        };
        if let Err(error) = attempt.log.sync() {
            tracing::warn!(%error, run.id = %run.submitted.id, "a run's log is not durable");
        }
        end
    }

    pub(super) async fn steps(&mut self) -> Result<(RunStatus, RunOutcome), Interrupt> {
        let spec = &self.run.submitted.spec;
        let plain = spec.agent.is_none() && spec.workspace.is_none() && spec.test.is_none();
        if !plain && !self.served {
            self.place = self.guest.configure().await?;
        }
        let _outside = if self.is_apart() {
            None
        } else {
            Some(self.open_outside().await?)
        };
        if plain {
            return self.commands(0).await;
        }
        // Taken up where another had brought it in, it is there as well.
        let there = self.served || !self.is_known(0) && self.is_known(1);
        if let Some(workspace) = spec.workspace.as_ref().filter(|_| !there) {
            self.bring_in(workspace, 0).await?;
        }
        let (mut status, mut outcome) = match (&spec.agent, &spec.test) {
            (Some(agent), _) => self.agent(agent, 1).await?,
            (None, Some(test)) => self.test(test, 1).await?,
            (None, None) => self.commands(1).await?,
        };
        if let Some(workspace) = spec.workspace.as_ref().filter(|workspace| workspace.write_back) {
            // What was done before a time-out is kept, too, but must not wait for that time-out again.
            let limit = Duration::from_secs(600);
            self.deadline = Some(self.executor.control.now().plus(limit));
            match self.bring_out(workspace, COLLECT).await {
                Ok(head) => outcome.head = head,
                Err(Interrupt::Failed(error)) if status == RunStatus::Succeeded => {
                    self.say(&error);
                    status = RunStatus::Failed;
                    outcome.error = Some(error);
                }
                Err(Interrupt::Failed(error)) => self.say(&error),
                Err(lost) => return Err(lost),
            }
            outcome.log_seq = self.log.last_seq();
        }
        Ok((status, outcome))
    }

    /// Whether its programs have a network of their own, from which nobody can be called.
    fn is_apart(&self) -> bool {
        let test = self.run.submitted.spec.test.as_deref();
        let own = test
            .and_then(isolation)
            .is_some_and(|isolation| isolation.network() == Network::Own);
        own && self.place.can_isolate
    }

    /// Serves what its programs call, as long as both are kept.
    async fn open_outside(&mut self) -> Result<(AbortOnDropHandle<()>, Option<DropGuard>), Interrupt> {
        let control = &self.executor.control;
        let (session, ended) = control.way_out(self.sandbox).unzip();
        let services = self.serve(session);
        self.way_out = control.way_out_env(self.sandbox, &self.guest).await?;
        Ok((services, ended))
    }

    /// Runs the commands one after the other; ends with the first that fails.
    pub(super) async fn commands(&mut self, first: u32) -> Result<(RunStatus, RunOutcome), Interrupt> {
        let mut last = Ended::default();
        for (index, command) in (first..).zip(&self.run.submitted.spec.commands) {
            last = self.program(index, command, None).await?;
            if let Some(fault) = last.fault() {
                // Whoever has to mend a check needs to read what it said.
                let error = match self.run.submitted.kind {
                    RunKind::Check => format!("{}: {fault}\n{}", shown(command), last.tail()),
                    _ => fault,
                };
                let status = last.by.unwrap_or(RunStatus::Failed);
                return Ok((status, self.outcome(&last, Some(error))));
            }
        }
        Ok((RunStatus::Succeeded, self.outcome(&last, None)))
    }

    fn serve(&self, way_out: Option<ostler_egress::Session>) -> AbortOnDropHandle<()> {
        let control = &self.executor.control;
        let agent = self.run.submitted.spec.agent.as_ref();
        let services = Services {
            control: control.clone(),
            guest: self.guest.clone(),
            run: self.run.clone(),
            agents: self.executor.agents.clone(),
            way_out,
            tools: Semaphore::new(MAX_CALLS),
            api: agent.and_then(|agent| control.parts.kinds.get(&agent.kind).ok()?.model_api()),
        };
        AbortOnDropHandle::new(tokio::spawn(services.serve()))
    }

    /// Whether the guest knew the program of this step at the beginning.
    pub(super) fn is_known(&self, index: u32) -> bool {
        self.known.contains_key(&exec_id(self.run, index))
    }

    /// The number of the last record of the log.
    pub(super) fn log_seq(&self) -> u64 {
        self.log.last_seq()
    }

    /// A sentence of Ostler's own in the run's log.
    pub(super) fn say(&mut self, text: &str) {
        let now = self.executor.control.now();
        self.log.say(self.run.attempt, now, text);
    }

    /// Runs the program of a step to its end, which is forced when the run is cancelled or over its time.
    pub(super) async fn program(
        &mut self,
        index: u32,
        command: &CommandSpec,
        parser: Option<&mut (dyn OutputParser + 'static)>,
    ) -> Result<Ended, Interrupt> {
        let exec = exec_id(self.run, index);
        self.programs.push(exec.clone());
        if !self.known.contains_key(&exec) {
            let mut request = start_request(&exec, command);
            request.isolation.clone_from(&self.isolation);
            for (name, value) in &self.way_out {
                request.env.entry(name.clone()).or_insert_with(|| value.clone());
            }
            match self.guest.start(request).await {
                Ok(()) => {}
                Err(error @ GuestError::Unreachable(_)) => {
                    return Err(Interrupt::Lost {
                        reason: error.to_string(),
                        started: index > 0,
                    });
                }
                Err(error) => {
                    return Err(Interrupt::Failed(format!(
                        "the program could not be started: {error}"
                    )));
                }
            }
        }
        let mut ended = Ended::default();
        let mut output = Output { parser, index };
        self.replay(&mut output, &mut ended);
        let executor = self.executor;
        let (cancel, deadline) = (self.cancel, self.deadline);
        let by = tokio::select! {
            done = self.follow(&exec, &mut output, &mut ended) => {
                done?;
                self.measured.add(&ended.exited);
                return Ok(ended);
            }
            () = cancel.cancelled() => Some(RunStatus::Cancelled),
            () = until(executor, deadline) => Some(RunStatus::TimedOut),
            () = executor.abandon.cancelled() => None,
        };
        let Some(by) = by else {
            let stopped = || Interrupt::Lost {
                reason: "the server was stopped".into(),
                started: false,
            };
            if self.run.submitted.spec.agent.is_some() {
                return Err(stopped());
            }
            // What has come to its end is not executed again, and what has not cannot come to it from here on.
            let _gone = self.guest.signal(&exec, KILLED).await;
            let rest = self.follow(&exec, &mut output, &mut ended);
            let told = tokio::time::timeout(LAST_WORD, rest).await;
            if !matches!(told, Ok(Ok(()))) || ended.exited.signal == KILLED {
                return Err(stopped());
            }
            self.measured.add(&ended.exited);
            return Ok(ended);
        };
        self.say(&match self.slowdown {
            factor @ 2.. if by == RunStatus::TimedOut => format!(
                "the run is {by}, {factor} times as late as asked for, since its processors are emulated: its programs are ended"
            ),
            _ => format!("the run is {by}: its programs are ended"),
        });
        ended.by = Some(by);
        let grace = Duration::from_secs(executor.settings.kill_grace_seconds);
        self.guest.kill(&exec, grace).await?;
        let rest = self.follow(&exec, &mut output, &mut ended);
        if let Ok(done) = tokio::time::timeout(grace + Duration::from_secs(10), rest).await {
            done?;
        } else {
            // The sandbox is removed next, which ends whatever would not go.
            ended.exited.signal = 9;
            self.stuck = true;
        }
        self.measured.add(&ended.exited);
        Ok(ended)
    }

    /// Gives the parser what the log already has of this step, after the attempt was taken up again.
    fn replay(&self, output: &mut Output<'_>, ended: &mut Ended) {
        if self.known.is_empty() {
            return;
        }
        let logs = &self.executor.control.parts.logs;
        let Ok(Some(mut reader)) = logs.reader(self.run.submitted.id) else {
            return;
        };
        while let Ok(batch) = reader.next_batch() {
            if batch.is_empty() {
                return;
            }
            for record in batch {
                let mine = record.attempt == self.run.attempt
                    && record.exec_seq >> SEQ_BITS == u64::from(output.index);
                if mine && record.stream != LogStream::Ostler {
                    output.take(record.stream, &record.bytes, ended);
                }
            }
        }
    }

    /// Copies output into the log until the program has ended. A broken connection is taken up again after the last piece;
    /// a guest that does not come back within a few tries is lost.
    async fn follow(
        &mut self,
        exec: &str,
        output: &mut Output<'_>,
        ended: &mut Ended,
    ) -> Result<(), Interrupt> {
        let base = u64::from(output.index) << SEQ_BITS;
        let mut failures = 0;
        let mut linger = None;
        loop {
            let logged = self.log.last_exec_seq(self.run.attempt);
            let next = match (logged >> SEQ_BITS).cmp(&u64::from(output.index)) {
                Ordering::Less => 1,
                Ordering::Equal => logged - base + 1,
                // All of it is in the log: only its end is asked for.
                Ordering::Greater => self.known.get(exec).copied().unwrap_or(1).max(1),
            };
            let mut events = match self.guest.attach(exec, next).await {
                Ok(events) => events,
                Err(error @ GuestError::Unreachable(_)) if failures >= FAILURES => return Err(error.into()),
                Err(GuestError::Unreachable(_)) => {
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(100 << failures)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            loop {
                if linger.is_none() && output.is_over() {
                    linger = Some(Instant::now() + LINGER);
                }
                let silence = Instant::now() + SILENCE;
                let wake = linger.map_or(silence, |linger| silence.min(linger));
                let event = match tokio::time::timeout_at(wake, events.message()).await {
                    Err(_) if linger.is_some_and(|linger| linger <= Instant::now()) && !ended.lingered => {
                        ended.lingered = true;
                        self.say("the agent said its last word and did not exit: it is ended");
                        let grace = Duration::from_secs(self.executor.settings.kill_grace_seconds);
                        self.guest.kill(exec, grace).await?;
                        linger = None;
                        continue;
                    }
                    // Silence is normal; a guest that does not answer is not.
                    Err(_) if self.guest.healthy().await => continue,
                    Err(_) | Ok(Err(_) | Ok(None)) => break,
                    Ok(Ok(Some(event))) => event,
                };
                failures = 0;
                let at = Timestamp(event.time_us);
                let (stream, data) = match event.event {
                    Some(exec_event::Event::Stdout(data)) => (LogStream::Stdout, data),
                    Some(exec_event::Event::Stderr(data)) => (LogStream::Stderr, data),
                    Some(exec_event::Event::Dropped(up_to)) => {
                        self.say(&format!("output up to piece {up_to} was not kept by the sandbox"));
                        self.log.skip(self.run.attempt, base | up_to);
                        continue;
                    }
                    Some(exec_event::Event::Exited(exited)) => {
                        ended.exited = exited;
                        return Ok(());
                    }
                    None => continue,
                };
                self.log
                    .append(self.run.attempt, base | event.seq, at, stream, &data);
                output.take(stream, &data, ended);
            }
            failures += 1;
            if failures > FAILURES {
                return Err(Interrupt::Lost {
                    reason: "the connection to the sandbox broke again and again".into(),
                    started: true,
                });
            }
            tokio::time::sleep(Duration::from_millis(50 << failures)).await;
        }
    }

    /// Waits until the run is over its time; for ever if it has as much as it takes.
    pub(super) async fn until_deadline(&self) {
        until(self.executor, self.deadline).await;
    }

    pub(super) fn is_over_time(&self) -> bool {
        let now = self.executor.control.now();
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    pub(super) fn outcome(&self, ended: &Ended, error: Option<String>) -> RunOutcome {
        let signalled = ended.exited.signal != 0;
        let error = ended.by.and(ended.fault()).or(error);
        RunOutcome {
            exit_code: (!signalled).then_some(ended.exited.code),
            signal: signalled.then_some(ended.exited.signal),
            // Also of a success: whoever reads the log must know that there was more.
            error: match (error, self.log.incomplete()) {
                (Some(error), Some(cut)) => Some(format!("{error}; {cut}")),
                (error, cut) => error.or_else(|| cut.map(str::to_owned)),
            },
            log_seq: self.log.last_seq(),
            ..RunOutcome::default()
        }
    }
}

/// Where the output of a step goes besides the log.
struct Output<'a> {
    parser: Option<&'a mut (dyn OutputParser + 'static)>,
    index: u32,
}

impl Output<'_> {
    fn take(&mut self, stream: LogStream, bytes: &[u8], ended: &mut Ended) {
        ended.add(bytes);
        if let (LogStream::Stdout, Some(parser)) = (stream, self.parser.as_deref_mut()) {
            // The events are made again from the log by whoever looks at the run.
            parser.push(bytes);
        }
    }

    /// Whether the program said its last word.
    fn is_over(&self) -> bool {
        self.parser.as_deref().is_some_and(OutputParser::ended)
    }
}

/// The test that a run is, if it is one of a kernel, and the kernel.
pub(super) fn tested_kernel(run: &Run) -> Option<(&TestSpec, &Kernel)> {
    let test = run.submitted.spec.test.as_deref()?;
    Some((test, test.kernel.as_ref()?))
}

async fn until(executor: &Executor, deadline: Option<Timestamp>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.since(executor.control.now())).await,
        None => std::future::pending().await,
    }
}

fn start_request(exec_id: &str, command: &CommandSpec) -> StartRequest {
    StartRequest {
        exec_id: exec_id.to_owned(),
        argv: command.argv.clone(),
        env: command.env.clone().into_iter().collect(),
        cwd: command.cwd.clone().unwrap_or_default(),
        stdin: command.stdin.clone().unwrap_or_default().into_bytes().into(),
        ..StartRequest::default()
    }
}

/// A check as a person wrote it, without what Ostler put around it.
fn shown(command: &CommandSpec) -> String {
    match command.argv.iter().rposition(|word| word == "-c") {
        Some(at) => command.argv[at + 1..].join(" "),
        None => command.argv.join(" "),
    }
}
