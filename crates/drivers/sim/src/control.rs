//! The world of the simulated sandboxes, and the handle by which tests make it fail.

use crate::guest::SimGuest;
use crate::programs::{Program, builtin};
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_sandbox::{DriverEvent, ExitInfo, MachineSize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Events kept for a slow receiver.
const EVENTS: usize = 256;

/// How often an ordered failure happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Often {
    /// Not (any more).
    #[default]
    Never,
    /// That many times.
    Times(u32),
    /// Until something else is ordered.
    Always,
}

impl Often {
    fn take(&mut self) -> bool {
        match self {
            Self::Never | Self::Times(0) => false,
            Self::Times(left) => {
                *left -= 1;
                true
            }
            Self::Always => true,
        }
    }
}

/// A handle of the world of simulated sandboxes. Clones are handles of the same world.
#[derive(Clone)]
pub struct SimControl {
    state: Arc<Mutex<State>>,
    pub(crate) events: broadcast::Sender<DriverEvent>,
}

struct State {
    sandboxes: BTreeMap<SandboxId, Arc<Simulated>>,
    programs: HashMap<String, Program>,
    fail_starts: Often,
    start_delay: Duration,
    crash_after: Option<(Often, Duration)>,
    refuse_connections: bool,
    unhealthy: bool,
    starts: u64,
    machine: Option<MachineSize>,
}

/// One simulated sandbox.
pub(crate) struct Simulated {
    pub(crate) guest: SimGuest,
    /// Cancelled when its first process has ended; everything of it stops then.
    pub(crate) end: CancellationToken,
    pub(crate) exit: Mutex<Option<ExitInfo>>,
    pub(crate) paused: watch::Sender<bool>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for SimControl {
    fn default() -> Self {
        Self::new()
    }
}

impl SimControl {
    /// An empty world without failures, with the built-in programs.
    pub fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                sandboxes: BTreeMap::new(),
                programs: builtin(),
                fail_starts: Often::Never,
                start_delay: Duration::ZERO,
                crash_after: None,
                refuse_connections: false,
                unhealthy: false,
                starts: 0,
                machine: None,
            })),
            events: broadcast::channel(EVENTS).0,
        }
    }

    /// Adds a program that all sandboxes have, or replaces one.
    pub fn program(&self, name: impl Into<String>, program: Program) {
        lock(&self.state).programs.insert(name.into(), program);
    }

    /// Starts fail (after the delay, if one is set).
    pub fn fail_starts(&self, often: Often) {
        lock(&self.state).fail_starts = often;
    }

    /// Every start takes this long.
    pub fn delay_starts(&self, delay: Duration) {
        lock(&self.state).start_delay = delay;
    }

    /// Sandboxes started from now on crash with exit code 70 this long after their start; zero is at once.
    pub fn crash_after(&self, often: Often, after: Duration) {
        lock(&self.state).crash_after = Some((often, after));
    }

    /// Guests cannot be connected to.
    pub fn refuse_connections(&self, refuse: bool) {
        lock(&self.state).refuse_connections = refuse;
    }

    /// Guests answer health checks with an error.
    pub fn unhealthy(&self, unhealthy: bool) {
        lock(&self.state).unhealthy = unhealthy;
    }

    /// Ends the first process of a sandbox unasked, which its driver announces. `false` if it is not running.
    pub fn crash(&self, id: SandboxId, exit: ExitInfo) -> bool {
        let Some(sandbox) = self.find(id) else {
            return false;
        };
        {
            let mut ended = lock(&sandbox.exit);
            if ended.is_some() {
                return false;
            }
            *ended = Some(exit.clone());
        }
        sandbox.end.cancel();
        // Nobody listening is fine: health checks ask.
        let _nobody = self.events.send(DriverEvent { id, exit });
        true
    }

    /// How large the machine of the sandboxes is; `None`, as at first, for one that has no end.
    pub fn set_machine(&self, size: Option<MachineSize>) {
        lock(&self.state).machine = size;
    }

    pub(crate) fn machine(&self) -> Option<MachineSize> {
        lock(&self.state).machine
    }

    /// How many starts were asked for, failed ones included.
    pub fn starts(&self) -> u64 {
        lock(&self.state).starts
    }

    /// The sandboxes of this world, running or not.
    pub fn ids(&self) -> Vec<SandboxId> {
        lock(&self.state).sandboxes.keys().copied().collect()
    }

    pub(crate) fn is_unhealthy(&self) -> bool {
        lock(&self.state).unhealthy
    }

    pub(crate) fn refuses_connections(&self) -> bool {
        lock(&self.state).refuse_connections
    }

    pub(crate) fn find_program(&self, name: &str) -> Option<Program> {
        lock(&self.state).programs.get(name).cloned()
    }

    pub(crate) fn find(&self, id: SandboxId) -> Option<Arc<Simulated>> {
        lock(&self.state).sandboxes.get(&id).cloned()
    }

    pub(crate) fn start_delay(&self) -> Duration {
        lock(&self.state).start_delay
    }

    /// Counts a start, and says whether it is to fail.
    pub(crate) fn start_fails(&self) -> bool {
        let mut state = lock(&self.state);
        state.starts += 1;
        state.fail_starts.take()
    }

    /// Adds a sandbox unless it is there already.
    pub(crate) fn add(&self, id: SandboxId, template: SandboxTemplate) -> bool {
        let crash = {
            let mut state = lock(&self.state);
            if state.sandboxes.contains_key(&id) {
                return false;
            }
            let (paused, watched) = watch::channel(false);
            let end = CancellationToken::new();
            let guest = SimGuest::new(id, self.clone(), template.env, watched, end.clone());
            let sandbox = Simulated {
                guest,
                end,
                exit: Mutex::new(None),
                paused,
            };
            state.sandboxes.insert(id, Arc::new(sandbox));
            state
                .crash_after
                .as_mut()
                .and_then(|(often, after)| often.take().then_some(*after))
        };
        if let Some(after) = crash {
            let control = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                control.crash(
                    id,
                    ExitInfo {
                        code: Some(70),
                        ..ExitInfo::default()
                    },
                );
            });
        }
        true
    }

    pub(crate) fn remove(&self, id: SandboxId) {
        let removed = lock(&self.state).sandboxes.remove(&id);
        if let Some(sandbox) = removed {
            sandbox.end.cancel();
        }
    }
}
