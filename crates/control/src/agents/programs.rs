//! The programs that holders of agents started: who reads them, how long they go on, and what is kept of them.
//!
//! Each program that runs has a keeper, a task of this server that ends it when its time is over or when nobody has read
//! its output for its grace period. What a keeper needs to know is part of the program's name at the guest, so that the
//! keepers of the next server go on with it. A program that has ended stays at the guest, with its output, until enough
//! others have ended after it.

use super::exec::exec_end;
use crate::guest::{Guest, GuestError};
use crate::{Control, ControlError, Result};
use ostler_contracts::ExecView;
use ostler_domain::{Sandbox, SandboxId, SandboxStatus, Timestamp};
use ostler_guest_protocol::v1::ExecInfo;
use ostler_store::{Filter, Op, StoreExt};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What the names of these programs begin with; runs use their own ids.
const PREFIX: &str = "agent";
/// Programs of one agent that run at once, and those among them with a terminal.
const MOST: usize = 200;
const MOST_TERMINALS: usize = 16;
/// Programs of one agent whose output is kept after their end.
const KEPT: usize = 16;
/// Time that a program has to end by itself when it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// Time for readers to come back after a start of the server.
const RESTART: Duration = Duration::from_secs(60);
/// Pause after the guest did not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// For the end of a program to be known after it was killed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the name of a program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Time until it is ended by force; `None` for no such time.
    pub(super) limit: Option<Duration>,
    /// Time for which it goes on when nobody reads its output.
    pub(super) grace: Duration,
}

impl Terms {
    /// A name of its own for a program.
    pub(super) fn name(self) -> String {
        let (limit, grace) = (
            self.limit.map_or(0, |limit| limit.as_secs()),
            self.grace.as_secs(),
        );
        format!("{PREFIX}.{limit}.{grace}.{:032x}", rand::random::<u128>())
    }

    /// What a name says; `None` for that of another's program.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let (PREFIX, limit, grace, Some(_), None) = (
            parts.next()?,
            parts.next()?.parse().ok()?,
            parts.next()?.parse().ok()?,
            parts.next(),
            parts.next(),
        ) else {
            return None;
        };
        Some(Self {
            limit: (limit > 0).then(|| Duration::from_secs(limit)),
            grace: Duration::from_secs(grace),
        })
    }
}

/// A program that runs, or is still read.
pub(super) struct Program {
    readers: watch::Sender<usize>,
    timed_out: AtomicBool,
    terminal: bool,
}

impl Program {
    /// Whether its time-out ended it.
    pub(super) fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }
}

/// Somebody who reads a program.
pub(super) struct Reading(pub(super) Arc<Program>);

impl Reading {
    fn new(program: &Arc<Program>) -> Self {
        program.readers.send_modify(|readers| *readers += 1);
        Self(Arc::clone(program))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers -= 1);
    }
}

type Key = (SandboxId, String);

/// The programs with a keeper on this server.
#[derive(Default)]
pub(crate) struct Programs(Mutex<HashMap<Key, Arc<Program>>>);

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

impl Programs {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Program>>> {
        // Each statement leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a program that is about to be started, with its first reader.
    fn enter(&self, key: Key, terminal: bool) -> Result<Reading> {
        let all = self.all();
        let others = || all.iter().filter(|((sandbox, _), _)| *sandbox == key.0);
        if others().count() >= MOST {
            return Err(ControlError::Conflict(format!(
                "{MOST} programs run in the agent; end some of them first"
            )));
        }
        if terminal && others().filter(|(_, program)| program.terminal).count() >= MOST_TERMINALS {
            return Err(ControlError::Conflict(format!(
                "the agent has {MOST_TERMINALS} terminals; end some of them first"
            )));
        }
        drop(all);
        Ok(self.enter_running(key, terminal).0)
    }

    /// A reader of a program that was started, and whether nobody knew of it yet.
    fn enter_running(&self, key: Key, terminal: bool) -> (Reading, bool) {
        let mut all = self.all();
        let new = !all.contains_key(&key);
        let program = all.entry(key).or_insert_with(|| {
            Arc::new(Program {
                readers: watch::Sender::new(0),
                timed_out: AtomicBool::new(false),
                terminal,
            })
        });
        (Reading::new(program), new)
    }

    /// A reader more of a program that runs.
    pub(super) fn read(&self, sandbox: SandboxId, name: &str) -> Option<Reading> {
        self.all().get(&(sandbox, name.to_owned())).map(Reading::new)
    }

    fn leave(&self, key: &Key) {
        self.all().remove(key);
    }
}

impl Control {
    /// Takes a place for a program of an agent. After the start, [`Self::keep`] must follow; without one, `leave`.
    pub(super) fn enter_program(&self, sandbox: SandboxId, name: &str, terminal: bool) -> Result<Reading> {
        self.programs.enter((sandbox, name.to_owned()), terminal)
    }

    /// Gives back the place of a program that was not started.
    pub(super) fn leave_program(&self, sandbox: SandboxId, name: &str) {
        self.programs.leave(&(sandbox, name.to_owned()));
    }

    /// Looks after a program until it has ended and is not read any more. `left` is how long it may still run.
    pub(super) fn keep(
        &self,
        guest: Guest,
        sandbox: SandboxId,
        name: String,
        left: Option<Duration>,
        grace: Duration,
    ) {
        let Some(program) = self.programs.all().get(&(sandbox, name.clone())).cloned() else {
            return;
        };
        let keeper = Keeper {
            control: self.clone(),
            guest,
            sandbox,
            name,
            program,
        };
        let over = left.map(|left| Instant::now() + left);
        tokio::spawn(keeper.run(over, grace));
    }

    /// Reads a program that the guest knows: one that runs and that an earlier life of this server started gets a keeper.
    /// `None` for one that has ended.
    pub(super) fn read_program(&self, sandbox: &Sandbox, guest: &Guest, known: &ExecInfo) -> Option<Reading> {
        let terms = Terms::parse(&known.exec_id).filter(|_| known.running)?;
        let key = (sandbox.id, known.exec_id.clone());
        let (reading, new) = self.programs.enter_running(key, known.terminal);
        if new {
            let since = self.now().since(Timestamp(known.started_us));
            let left = terms.limit.map(|limit| limit.saturating_sub(since));
            let grace = terms.grace.max(RESTART);
            self.ensure_way_out(sandbox);
            self.keep(guest.clone(), sandbox.id, known.exec_id.clone(), left, grace);
        }
        Some(reading)
    }

    /// Takes up the programs that an earlier life of this server started for holders of agents, as soon as each agent
    /// answers: their readers have a minute to come back. To be called at start.
    pub async fn adopt_agent_programs(&self) -> Result<()> {
        let held = Filter::by("server_id", self.parts.server_id)
            .and("for_run", Op::Eq, false)
            .and("status", Op::Eq, SandboxStatus::Running);
        for sandbox in self.parts.store.list::<Sandbox>(held).await? {
            self.adopt_programs_of(sandbox);
        }
        Ok(())
    }

    /// The same for one agent; of a host that is away, its programs are taken up when that is added.
    pub(crate) fn adopt_programs_of(&self, sandbox: Sandbox) {
        let Ok(guest) = self.guest(&sandbox) else { return };
        let control = self.clone();
        tokio::spawn(async move {
            loop {
                if let Ok(known) = programs(&guest).await {
                    for program in &known {
                        // Its reader is gone; one that comes back is another.
                        drop(control.read_program(&sandbox, &guest, program));
                    }
                    return;
                }
                if control.is_gone(sandbox.id).await {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    async fn is_gone(&self, id: SandboxId) -> bool {
        let sandbox: std::result::Result<Option<Sandbox>, _> = self.parts.store.get(id).await;
        sandbox.is_ok_and(|sandbox| {
            sandbox.is_none_or(|sandbox| {
                matches!(
                    sandbox.status,
                    SandboxStatus::Destroying | SandboxStatus::Destroyed
                )
            })
        })
    }
}

struct Keeper {
    control: Control,
    guest: Guest,
    sandbox: SandboxId,
    name: String,
    program: Arc<Program>,
}

impl Keeper {
    async fn run(self, over: Option<Instant>, grace: Duration) {
        let unread = unread(self.program.readers.subscribe(), grace);
        let time_is_over = async {
            match over {
                Some(over) => tokio::time::sleep_until(over).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.ended() => {}
            () = unread => self.end().await,
            () = time_is_over => {
                self.program.timed_out.store(true, Ordering::Relaxed);
                self.end().await;
            }
        }
        // As long as it is read, its output must stay.
        let mut readers = self.program.readers.subscribe();
        let _ = readers.wait_for(|readers| *readers == 0).await;
        self.control.leave_program(self.sandbox, &self.name);
        self.make_room().await;
    }

    /// Returns when the program has ended or its sandbox is gone.
    async fn ended(&self) {
        loop {
            // From behind the last piece there is: only the end of the stream is waited for.
            match self.guest.attach(&self.name, u64::MAX).await {
                Ok(mut events) => while let Ok(Some(_)) = events.message().await {},
                Err(GuestError::Missing(_)) => return,
                Err(_) => {}
            }
            let known = programs(&self.guest).await;
            let runs = known.is_ok_and(|known| {
                known
                    .iter()
                    .any(|program| program.exec_id == self.name && program.running)
            });
            if !runs && (self.guest.healthy().await || self.gone().await) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the program with all of its children, as soon as the guest answers.
    async fn end(&self) {
        while let Err(error) = end(&self.guest, &self.name).await {
            if matches!(error, GuestError::Missing(_)) || self.gone().await {
                return;
            }
            tracing::debug!(%error, exec = self.name, "a program of an agent is not ended yet");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn gone(&self) -> bool {
        self.control.is_gone(self.sandbox).await
    }

    /// Forgets the programs that ended first. Best effort: the next end tries again.
    async fn make_room(&self) {
        let mut over = programs(&self.guest).await.unwrap_or_default();
        over.retain(|program| {
            !program.running
                && Terms::parse(&program.exec_id).is_some()
                && self
                    .control
                    .programs
                    .read(self.sandbox, &program.exec_id)
                    .is_none()
        });
        over.sort_by_key(|program| std::cmp::Reverse(program.started_us));
        for program in over.iter().skip(KEPT) {
            let _ = self.guest.release(&program.exec_id).await;
        }
    }
}

/// Returns when nobody has read for a while.
async fn unread(mut readers: watch::Receiver<usize>, grace: Duration) {
    loop {
        // The sender is part of the program, which the keeper holds.
        if readers.wait_for(|readers| *readers == 0).await.is_err() {
            return;
        }
        let back = readers.wait_for(|readers| *readers > 0);
        if tokio::time::timeout(grace, back).await.is_err() {
            return;
        }
    }
}

/// Ends a program with all of its children, and waits until its end is known.
pub(super) async fn end(guest: &Guest, name: &str) -> std::result::Result<(), GuestError> {
    guest.kill(name, GRACE).await?;
    let over = Instant::now() + LAST_WORDS;
    while Instant::now() < over {
        let known = programs(guest).await?;
        if !known
            .iter()
            .any(|program| program.exec_id == name && program.running)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The programs of holders that the guest knows.
pub(super) async fn programs(guest: &Guest) -> std::result::Result<Vec<ExecInfo>, GuestError> {
    let mut known = guest.execs().await?;
    known.retain(|program| Terms::parse(&program.exec_id).is_some());
    Ok(known)
}

/// A program as holders see it.
pub(super) fn view(program: ExecInfo) -> ExecView {
    ExecView {
        exec_id: program.exec_id,
        command: program.argv,
        terminal: program.terminal,
        running: program.running,
        last_seq: program.last_seq,
        started_at: Timestamp(program.started_us).into(),
        end: program.exited.map(|exited| exec_end(&exited, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_keeper_must_know() {
        for terms in [
            Terms {
                limit: Some(Duration::from_secs(60)),
                grace: Duration::ZERO,
            },
            Terms {
                limit: None,
                grace: Duration::from_secs(60),
            },
        ] {
            assert_eq!(Terms::parse(&terms.name()), Some(terms));
        }
        assert_ne!(
            Terms::parse("agent.1.2.x").unwrap().name(),
            Terms::parse("agent.1.2.x").unwrap().name()
        );
        for other in [
            "",
            "agent",
            "agent.1.2",
            "agent.x.2.y",
            "run_1.1.0",
            "agent.1.2.3.4",
        ] {
            assert_eq!(Terms::parse(other), None, "{other}");
        }
    }

    #[test]
    fn terminals_are_limited_for_each_agent() {
        let programs = Programs::default();
        let agent = SandboxId::new();
        let open = |sandbox, n: usize| programs.enter((sandbox, format!("{n}")), true);
        let held: Vec<Reading> = (0..MOST_TERMINALS).map(|n| open(agent, n).unwrap()).collect();
        assert!(open(agent, MOST_TERMINALS).is_err());
        assert!(open(SandboxId::new(), 0).is_ok());
        assert!(programs.enter((agent, "no terminal".into()), false).is_ok());
        drop(held);
        programs.leave(&(agent, "0".into()));
        assert!(open(agent, 0).is_ok());
    }

    #[tokio::test]
    async fn who_comes_back_in_time_keeps_a_program() {
        let programs = Programs::default();
        let agent = SandboxId::new();
        let first = programs.enter((agent, "1".into()), false).unwrap();
        let grace = Duration::from_millis(400);
        let watch = tokio::spawn(unread(first.0.readers.subscribe(), grace));
        tokio::time::sleep(grace * 2).await;
        drop(first);
        tokio::time::sleep(grace / 2).await;
        let second = programs.read(agent, "1").unwrap();
        tokio::time::sleep(grace * 2).await;
        assert!(!watch.is_finished());
        drop(second);
        tokio::time::sleep(grace * 2).await;
        assert!(watch.is_finished());
        assert!(programs.read(agent, "2").is_none());
    }
}
