//! The executor: takes runs from the queue, gives each a sandbox, and sees it to its one end.
//!
//! One loop claims as many runs as there are free slots, whenever the store hints at new ones, a slot becomes free, or a
//! delayed run comes due. Each claimed run is a task of its own. What it does is fenced on (run, attempt): if another
//! server took the run over meanwhile, nothing that this one writes has an effect.

mod agent;
mod attempt;
mod console;
mod dispatch;
mod kernel;
mod leases;
mod series;
mod services;
mod test;
mod verdict;
mod workspace;

use crate::sandboxes::{Loss, crash};
use crate::{Control, Result};
use attempt::{Attempt, End, Finished, Unspoilt, tested_kernel};
use dispatch::{Arrival, Place};
use ostler_domain::{Run, RunId, RunOutcome, RunStatus, Sandbox};
use ostler_gateway::Gateway;
use ostler_sandbox::{DriverStatus, ExitInfo};
use ostler_store::{FinishRun, Hint, RequeueRun, StoreError, StoreExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Waits between tries to write the end of a run.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longest time between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Wait before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A change of a sandbox is hinted at several times in the life of every run, and seldom makes room for another one.
const POOLS: Duration = Duration::from_millis(100);

/// When the loop looks at what.
struct Due {
    heartbeat: Instant,
    claim: Instant,
    cancellations: Instant,
}

impl Due {
    fn at_once() -> Self {
        let now = Instant::now();
        Self {
            heartbeat: now,
            claim: now,
            cancellations: now,
        }
    }

    fn first(&self) -> Instant {
        self.heartbeat.min(self.claim).min(self.cancellations)
    }

    fn hinted(&mut self, hint: &std::result::Result<Hint, RecvError>) {
        let now = Instant::now();
        match hint {
            Ok(Hint::RunsQueued) => self.claim = now,
            Ok(Hint::CancelRequested) => self.cancellations = now,
            Ok(Hint::Pools) => self.claim = self.claim.min(now + POOLS),
            Ok(Hint::RunsFinished | Hint::Events) => {}
            Err(_) => (self.claim, self.cancellations) = (now, now),
        }
    }
}

/// How runs are executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutorSettings {
    /// Runs at once.
    pub slots: u32,
    /// Seconds that programs have to end by themselves when they are told to.
    pub kill_grace_seconds: u64,
    /// Seconds that a stopping server waits for its runs before it puts them back on the queue.
    pub shutdown_seconds: u64,
    /// Seconds between two looks at the queue and the pools, in case a hint was lost.
    pub poll_seconds: u64,
    /// Seconds without a sign of life after which the other servers of a database take a server for dead and put its
    /// runs back on the queue.
    pub lease_seconds: u64,
}

impl Default for ExecutorSettings {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            slots: cpus.max(2) as u32,
            kill_grace_seconds: 5,
            shutdown_seconds: 30,
            poll_seconds: 30,
            lease_seconds: 60,
        }
    }
}

/// What runs of agents need besides what all runs need; cheap to clone.
#[derive(Clone)]
pub struct AgentServices {
    /// The way to model APIs, with the real keys.
    pub gateway: Arc<Gateway>,
    /// From which the runs' tokens for the gateway are made: random, secret, the same at every start.
    pub token_key: [u8; 32],
    /// A directory for the conversations that later attempts resume.
    pub sessions: PathBuf,
}

/// The executor of this server; cheap to clone.
#[derive(Clone)]
pub struct Executor {
    control: Control,
    settings: ExecutorSettings,
    agents: Option<AgentServices>,
    /// The classes that this server could execute when it last looked.
    servable: Arc<Mutex<BTreeSet<i64>>>,
    slots: Arc<Semaphore>,
    /// Runs that are about to have a sandbox.
    arrivals: Arc<Mutex<HashMap<RunId, Arrival>>>,
    /// Whether something waits that may not have to when those have arrived.
    crowded: Arc<AtomicBool>,
    /// Attempts at runs that are executed here, with the token that ends each.
    active: Arc<Mutex<HashMap<(RunId, u32), CancellationToken>>>,
    freed: Arc<Notify>,
    tasks: TaskTracker,
    /// Set when the server stops: nothing new is begun.
    stopping: CancellationToken,
    /// Set when the server stops and runs are to be put back.
    abandon: CancellationToken,
}

impl Executor {
    /// An executor; it does nothing before [`Self::run`].
    pub fn new(control: Control, settings: ExecutorSettings) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(settings.slots.max(1) as usize)),
            control,
            settings,
            agents: None,
            servable: Arc::default(),
            arrivals: Arc::default(),
            crowded: Arc::default(),
            active: Arc::default(),
            freed: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandon: CancellationToken::new(),
        }
    }

    /// With the services for agents. Without them agents use a sign-in of their own and resume nothing.
    #[must_use]
    pub fn with_agents(mut self, agents: AgentServices) -> Self {
        self.agents = Some(agents);
        self
    }

    fn servable(&self) -> BTreeSet<i64> {
        self.servable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes up the runs that this server was executing when it was stopped or killed: those whose program is still
    /// there are adopted, the others are put back on the queue. Ends sandboxes that nobody holds.
    pub async fn recover(&self) -> Result<()> {
        let store = self.control.store();
        // Before anything else, so that no other server takes them over meanwhile.
        self.heartbeat().await?;
        let mut keep = BTreeSet::new();
        let mut adopted = Vec::new();
        for run in store.running(self.control.parts.server_id).await? {
            if let Some(sandbox) = self.survivor(&run).await {
                keep.insert(sandbox.id);
                adopted.push((run, sandbox));
            } else {
                let started = run.sandbox_id.is_some();
                self.put_back(
                    &run,
                    "the server was started again and its sandbox is gone".into(),
                    started,
                )
                .await?;
            }
        }
        self.control.reconcile_sandboxes(&keep).await?;
        self.control.adopt_agent_programs().await?;
        for (run, sandbox) in adopted {
            tracing::info!(run.id = %run.submitted.id, "a run that outlived its server goes on");
            let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
                self.put_back(&run, "the server has fewer slots than before".into(), true)
                    .await?;
                self.control.destroy(sandbox.id, "its run was put back").await?;
                continue;
            };
            self.spawn(run, None, Some(sandbox), permit);
        }
        Ok(())
    }

    /// The sandbox of a run whose program is still known there.
    async fn survivor(&self, run: &Run) -> Option<Sandbox> {
        let sandbox: Sandbox = self.control.store().get(run.sandbox_id?).await.ok()??;
        let guest = self.control.guest(&sandbox).ok()?;
        let programs = guest.programs().await.ok()?;
        // The first is the one that brings the files in, if there are any.
        let is_its = |name: &String| name.starts_with(&exec_id_prefix(run));
        programs.keys().any(is_its).then_some(sandbox)
    }

    /// Executes runs until `stop`; then waits for those under way, and puts back what does not end in time.
    pub async fn run(self, stop: CancellationToken) {
        let longest = HEARTBEAT.min(Duration::from_secs(self.settings.poll_seconds.max(1)));
        let mut hints = self.control.store().hints();
        let mut due = Due::at_once();
        let mut beaten = self.control.now();
        while !stop.is_cancelled() {
            let now = Instant::now();
            if due.heartbeat <= now {
                due.heartbeat = now + HEARTBEAT / 2;
                match self.look_after_leases(beaten).await {
                    Ok(at) => beaten = at,
                    Err(error) => {
                        tracing::warn!(%error, "the leases cannot be looked after; it is tried again");
                    }
                }
            }
            if due.claim <= now {
                let wait = match self.claim().await {
                    Ok(wait) => wait.map_or(longest, |wait| wait.min(longest)),
                    Err(error) => {
                        tracing::warn!(%error, "runs cannot be claimed; it is tried again");
                        RETRY
                    }
                };
                due.claim = Instant::now() + wait;
            }
            if due.cancellations <= now {
                due.cancellations = now + longest;
                if let Err(error) = self.obey_cancellations().await {
                    tracing::warn!(%error, "requests to end runs cannot be read; it is tried again");
                    due.cancellations = now + RETRY;
                }
            }
            tokio::select! {
                hint = hints.recv() => due.hinted(&hint),
                () = self.freed.notified() => due.claim = Instant::now(),
                () = tokio::time::sleep_until(due.first().into()) => {}
                () = stop.cancelled() => {}
            }
            // One look answers all that was hinted at so far.
            while !hints.is_empty() {
                due.hinted(&hints.recv().await);
            }
        }
        self.stopping.cancel();
        self.tasks.close();
        let limit = Duration::from_secs(self.settings.shutdown_seconds);
        tokio::select! {
            () = self.finish_all(limit) => {}
            () = self.stay_alive() => {}
        }
    }

    /// Waits for what is under way, and puts back what does not end in time.
    async fn finish_all(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::info!("runs that are still under way are put back on the queue");
            self.abandon.cancel();
            self.tasks.wait().await;
        }
    }

    async fn obey_cancellations(&self) -> Result<()> {
        for id in self
            .control
            .store()
            .cancel_requests(self.control.parts.server_id)
            .await?
        {
            for (_, token) in self.lock().iter().filter(|((run, _), _)| *run == id) {
                token.cancel();
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(RunId, u32), CancellationToken>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, run: Run, place: Option<Place>, sandbox: Option<Sandbox>, permit: OwnedSemaphorePermit) {
        let executor = self.clone();
        self.tasks.spawn(async move {
            executor.series(run, place, sandbox).await;
            drop(permit);
            executor.freed.notify_one();
        });
    }

    /// Carries an attempt out as long as its sandbox is there. A sandbox whose first process ended fails the run, since what
    /// ran in it may well have been the reason; one that merely does not answer any more is taken for a fault of the host.
    async fn carry_out(
        &self,
        run: &Run,
        sandbox: &Sandbox,
        cancel: &CancellationToken,
        mut losses: broadcast::Receiver<Loss>,
        served: Option<Unspoilt>,
    ) -> End {
        if tested_kernel(run).is_some() {
            return Attempt::carry_out(self, run, sandbox, cancel, Some(losses), None).await;
        }
        let lost = async {
            loop {
                match losses.recv().await {
                    Ok(loss) if loss.sandbox() == sandbox.id => return loss,
                    Err(RecvError::Closed) => return std::future::pending().await,
                    // The attempt itself notices, later, what was missed here.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                }
            }
        };
        let loss = tokio::select! {
            end = Attempt::carry_out(self, run, sandbox, cancel, None, served) => {
                return self.crashed(run, sandbox, end).await;
            }
            loss = lost => loss,
        };
        match loss {
            Loss::Unhealthy(_, reason) => End::Lost {
                reason,
                started: true,
            },
            Loss::Crashed(_, exit) => self.crash_of(run, &exit),
        }
    }

    /// The end of an attempt that noticed by itself that its sandbox is gone, before its driver said so.
    async fn crashed(&self, run: &Run, sandbox: &Sandbox, end: End) -> End {
        let End::Lost { started: true, .. } = &end else {
            return end;
        };
        let Ok(driver) = self.control.driver_of(sandbox) else {
            return end;
        };
        match driver.status(sandbox.id).await {
            Ok(DriverStatus::Exited(exit)) => self.crash_of(run, &exit),
            _ => end,
        }
    }

    /// The end of a run whose sandbox ended, said in its log, too.
    fn crash_of(&self, run: &Run, exit: &ExitInfo) -> End {
        let error = crash(exit);
        let mut outcome = RunOutcome {
            exit_code: exit.code,
            signal: exit.signal,
            error: Some(error.clone()),
            ..RunOutcome::default()
        };
        match self.control.parts.logs.writer(run.submitted.id) {
            Ok(mut log) => {
                log.say(run.attempt, self.control.now(), &error);
                outcome.log_seq = log.last_seq();
            }
            Err(error) => {
                tracing::warn!(%error, run.id = %run.submitted.id, "the log of a run does not say that its sandbox ended");
            }
        }
        End::Finished(Box::new(Finished {
            status: RunStatus::Failed,
            outcome,
            then: Vec::new(),
            unspoilt: None,
        }))
    }

    /// Writes the end of a run.
    async fn finish(&self, run: &Run, ended: Finished) -> Result<()> {
        let end = self.end_of(run, ended).await;
        self.write_end(run, end).await
    }

    /// All that is written with the end of a run.
    async fn end_of(&self, run: &Run, ended: Finished) -> FinishRun {
        let mut end = FinishRun {
            id: run.submitted.id,
            attempt: run.attempt,
            status: ended.status,
            outcome: ended.outcome,
            at: self.control.now(),
            then: ended.then,
        };
        self.control.follow_up(run, &mut end).await;
        end
    }

    /// Writes an end; a store that is away for a moment is waited for.
    async fn write_end(&self, run: &Run, end: FinishRun) -> Result<()> {
        let mut wait = FIRST_WAIT;
        let counts = loop {
            match self.control.store().finish(vec![end.clone()]).await {
                Ok(counts) => break counts.first().copied().unwrap_or_default(),
                Err(error) => self.wait_out(error, &mut wait).await?,
            }
        };
        if !counts {
            self.control.drop_contents(run.submitted.id, &end.then).await;
        }
        // Others were answered nothing that is kept.
        if run.submitted.project_id.is_some()
            && let Err(error) = self.control.forget_replies(run.submitted.id).await
        {
            tracing::warn!(%error, run.id = %run.submitted.id, "what the run's commands were answered is still kept");
        }
        self.control.settle_run(run).await;
        Ok(())
    }

    fn requeued(&self, run: &Run, reason: String, counts: bool) -> RequeueRun {
        tracing::warn!(run.id = %run.submitted.id, run.attempt, reason, "a run is put back on the queue");
        let now = self.control.now();
        let wait = self
            .control
            .parts
            .work
            .backoff()
            .delay(run.attempt.min(10), 0.0)
            .min(Duration::from_secs(10));
        let stopping = self.abandon.is_cancelled();
        RequeueRun {
            id: run.submitted.id,
            attempt: run.attempt,
            reason,
            not_before: (!stopping).then(|| now.plus(wait)),
            at: now,
            counts,
        }
    }

    async fn put_back(&self, run: &Run, reason: String, counts: bool) -> Result<()> {
        let requeue = self.requeued(run, reason, counts);
        let mut wait = FIRST_WAIT;
        let state = loop {
            match self.control.store().requeue(vec![requeue.clone()]).await {
                Ok(states) => break states.into_iter().next().flatten(),
                Err(error) => self.wait_out(error, &mut wait).await?,
            }
        };
        if state.is_some_and(RunStatus::is_terminal) {
            self.control.settle_run(run).await;
        }
        Ok(())
    }

    /// Waits, longer each time, when trying again can help; otherwise gives the error back.
    async fn wait_out(&self, error: StoreError, wait: &mut Duration) -> Result<()> {
        let passing = matches!(error, StoreError::Unavailable { .. } | StoreError::Full { .. });
        if !passing || self.abandon.is_cancelled() {
            return Err(error.into());
        }
        tracing::warn!(%error, "the end of a run cannot be written; it is tried again");
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// The guest's name of a program: the same after a restart of the server.
fn exec_id(run: &Run, index: u32) -> String {
    format!("{}{index}", exec_id_prefix(run))
}

fn exec_id_prefix(run: &Run) -> String {
    format!("{}.{}.", run.submitted.id, run.attempt)
}
