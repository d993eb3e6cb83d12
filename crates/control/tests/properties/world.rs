//! A world: simulated sandboxes and a database that outlive their servers.

use crate::common::{self, me};
use crate::fuse::Fuse;
use crate::model::{MAX, Op, PLACES, PlanShape, TestShape, program_name};
use crate::programs::{Ledger, What};
use crate::{driver, store};
use ostler_control::{Control, ControlError, Executor, ExecutorSettings, PlanFormat, PoolChange};
use ostler_domain::{DriverKind, PlanId, SandboxTemplate, ServerId, TestPlan, Timestamp};
use ostler_driver_sim::{Often, SimControl};
use ostler_sandbox::{Driver, ExitInfo};
use ostler_store::{Filter, Store, StoreExt};
use ostler_store_postgres::PostgresStore;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Runs at once.
pub(crate) const SLOTS: u32 = 4;

pub(crate) struct World {
    dir: tempfile::TempDir,
    database: Option<String>,
    server_id: ServerId,
    sims: BTreeMap<DriverKind, SimControl>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) waiting: Arc<store::Waiting>,
    pub(crate) slots: u32,
    pub(crate) known: Mutex<Known>,
}

/// What the test asked for.
#[derive(Default)]
pub(crate) struct Known {
    /// Tests by the names that their programs are given.
    pub(crate) tests: HashMap<String, TestShape>,
    /// Names of plans, and whether their submission was confirmed.
    pub(crate) plans: Vec<(String, bool)>,
    pub(crate) shapes: HashMap<String, PlanShape>,
    /// Plans whose end was perhaps requested.
    pub(crate) cancelled: BTreeSet<PlanId>,
    /// Plans that were submitted by executing another again.
    pub(crate) confirmed: Vec<PlanId>,
    /// Times of servers, during which nobody executed anything.
    pub(crate) away: Duration,
    pub(crate) kills: u32,
    /// The largest number of sandboxes that a pool was allowed.
    pub(crate) max: BTreeMap<String, u32>,
}

pub(crate) struct Server {
    pub(crate) control: Control,
    /// Beside the fuse.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fuse: Arc<Fuse>,
    /// All that it does is done in here, and ends with it.
    process: Option<Runtime>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }
}

impl World {
    pub(crate) fn new(database: Option<String>, slots: u32) -> Self {
        let ledger = Arc::new(Ledger::default());
        let sims: BTreeMap<DriverKind, SimControl> = PLACES
            .iter()
            .map(|place| (place.kind, SimControl::new()))
            .collect();
        for (kind, sim) in &sims {
            let program = ledger.program(*kind, sim);
            sim.program(What::Stubborn.program(), program.clone().ignoring_term());
            sim.program(What::Pass.program(), program);
        }
        Self {
            dir: tempfile::tempdir().unwrap(),
            database,
            server_id: ServerId::new(),
            sims,
            ledger,
            waiting: Arc::default(),
            slots,
            known: Mutex::default(),
        }
    }

    pub(crate) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// All simulated sandboxes that there are.
    pub(crate) fn sandboxes(&self) -> BTreeSet<ostler_domain::SandboxId> {
        self.sims.values().flat_map(SimControl::ids).collect()
    }

    /// A server that was not killed before it worked. The first one burns its fuse at the step `at`.
    pub(crate) async fn start(&self, at: Option<u16>) -> Server {
        let mut at = at;
        loop {
            if let Some(mut server) = self.begin(at.take()).await {
                if server.recover(self).await {
                    return server;
                }
                self.kill(server).await;
            }
        }
    }

    async fn begin(&self, at: Option<u16>) -> Option<Server> {
        let process = crate::runtime();
        let fuse = Arc::new(Fuse::new(at));
        let drivers: BTreeMap<DriverKind, Arc<dyn Driver>> = self
            .sims
            .iter()
            .map(|(kind, sim)| {
                // Sandboxes go on when the server ends.
                let driver = driver::Watched::new(*kind, sim.clone(), Arc::clone(&fuse), Handle::current());
                (*kind, Arc::new(driver) as Arc<dyn Driver>)
            })
            .collect();
        let (root, server_id) = (self.dir.path().to_owned(), self.server_id);
        let (database, waiting) = (self.database.clone(), Arc::clone(&self.waiting));
        let (complaints, burns) = (Arc::clone(&self.ledger.complaints), Arc::clone(&fuse));
        let begun = process.spawn(async move {
            let postgres = match database {
                Some(url) => Some(postgres(&url).await),
                None => None,
            };
            let mut inner = None;
            let control = common::server(&root, server_id, |parts| {
                parts.drivers = drivers.into();
                // A server that is killed again and again gives no test up.
                parts.work.run_attempts = 1000;
                parts.sandboxes.quarantine_failures = 1000;
                let store = postgres.unwrap_or_else(|| Arc::clone(&parts.store));
                inner = Some(Arc::clone(&store));
                parts.store = Arc::new(store::Watched {
                    inner: store,
                    fuse: burns,
                    waiting,
                    complaints,
                    claims: tokio::sync::Mutex::default(),
                });
            });
            (control.await, inner.unwrap())
        });
        let Some(begun) = fuse.alive(begun).await else {
            end(process).await;
            return None;
        };
        let (control, store) = begun.unwrap();
        Some(Server {
            control,
            store,
            fuse,
            process: Some(process),
            stop: CancellationToken::new(),
            task: None,
        })
    }

    /// As after a kill: nothing is told, nothing is waited for.
    pub(crate) async fn kill(&self, mut server: Server) {
        server.fuse.burn();
        end(server.process.take().unwrap()).await;
        server.store.close().await;
        self.known().kills += 1;
    }

    /// Another server after one that was killed.
    pub(crate) async fn next(&self, server: Server, at: Option<u16>) -> Server {
        let since = Instant::now();
        self.kill(server).await;
        let next = self.start(at).await;
        self.known().away += since.elapsed();
        next
    }

    /// Does an operation. `None` if the server died over it, so that it is not known whether it was done.
    pub(crate) async fn apply(&self, server: &mut Server, op: &Op, again: &mut Option<u16>) -> Option<()> {
        match op {
            Op::Submit(shape) => return self.submit(server, shape).await,
            Op::Impossible => {
                let text = r#"{ "name": "impossible", "tests": [
                    { "name": "can", "run": "true" },
                    { "name": "cannot", "run": "true", "requires": { "cpus": 64 } }
                ] }"#;
                let refused = server
                    .asked(async move |control| {
                        control
                            .submit_plan(&me(), text.to_owned(), PlanFormat::Json)
                            .await
                    })
                    .await?;
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("can never be executed"), "{refused}");
            }
            Op::Cancel(which) => {
                let plans = self.plans(server).await;
                if !plans.is_empty() {
                    let id = which.get(&plans).id;
                    self.known().cancelled.insert(id);
                    let cancelled = server.asked(async move |control| control.cancel_plan(&me(), id).await);
                    cancelled.await?.unwrap();
                }
            }
            Op::Rerun(which, failed) => {
                let plans = self.plans(server).await;
                if !plans.is_empty() {
                    let (id, failed) = (which.get(&plans).id, *failed);
                    let again =
                        server.asked(async move |control| control.rerun_plan(&me(), id, failed).await);
                    match again.await? {
                        Ok(plan) => self.known().confirmed.push(plan.id),
                        // It has not ended, or all of it has passed.
                        Err(ControlError::Conflict(_) | ControlError::Unprocessable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Op::Pool(which, max, target) => {
                let pool = which.get(&PLACES).pool;
                {
                    let mut known = self.known();
                    let most = known.max.entry(pool.to_owned()).or_insert(MAX);
                    *most = (*most).max(*max);
                }
                server.set_pool(pool, *max, *target).await?;
            }
            Op::Fill => {
                server.fill_pools().await?;
            }
            Op::CrashSandbox(which) => {
                self.ledger.open(false);
                let running = self.ledger.running();
                if !running.is_empty() {
                    let one = which.get(&running);
                    self.sims[&one.kind].crash(one.sandbox, ExitInfo::default());
                }
                self.ledger.open(true);
            }
            Op::FailStarts(times) => {
                for sim in self.sims.values() {
                    sim.fail_starts(Often::Times(*times));
                }
            }
            Op::Kill => {
                server.fuse.burn();
                return None;
            }
            Op::KillAt(steps, next) => {
                server.fuse.arm(*steps);
                *again = *next;
            }
            Op::Restart => return self.restart(server).await,
            Op::Wait(ms) => {
                let wait = tokio::time::sleep(Duration::from_millis(*ms));
                server.fuse.alive(wait).await?;
            }
        }
        Some(())
    }

    /// Submits a plan.
    pub(crate) async fn submit(&self, server: &Server, shape: &PlanShape) -> Option<()> {
        let name = {
            let mut known = self.known();
            let name = format!("p{}", known.plans.len());
            for (at, test) in shape.tests.iter().enumerate() {
                known.tests.insert(program_name(&name, at), test.clone());
            }
            known.plans.push((name.clone(), false));
            known.shapes.insert(name.clone(), shape.clone());
            name
        };
        let text = shape.text(&name);
        let submitted =
            server.asked(async move |control| control.submit_plan(&me(), text, PlanFormat::Json).await);
        let plan = submitted.await?;
        let plan = plan.unwrap_or_else(|error| panic!("{error}: {:?}", error.details()));
        assert_eq!(plan.tests as usize, shape.tests.len());
        self.known().plans.last_mut().unwrap().1 = true;
        Some(())
    }

    /// Stops a server as its operator would, and starts another.
    async fn restart(&self, server: &mut Server) -> Option<()> {
        let since = Instant::now();
        server.stop.cancel();
        let task = server.task.take().unwrap();
        server.fuse.alive(task).await?.unwrap();
        crate::invariants::nothing_runs_after_a_stop(self, server).await;
        server.store.close().await;
        let next = self.start(None).await;
        self.kill(std::mem::replace(server, next)).await;
        self.known().away += since.elapsed();
        Some(())
    }

    /// The plans that are kept, oldest first; read beside the fuse.
    pub(crate) async fn plans(&self, server: &Server) -> Vec<TestPlan> {
        let all = Filter::<TestPlan>::all().order_by("id");
        server.store.list(all).await.unwrap()
    }

    /// Waits until all plans have ended, without a word to the server. `None` if it dies meanwhile.
    pub(crate) async fn all_ended(&self, server: &Server) -> Option<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let open = Filter::<TestPlan>::all().and("finished_at", ostler_store::Op::Eq, None::<Timestamp>);
            let open = server.store.list(open).await.unwrap();
            if open.is_empty() {
                return Some(());
            }
            if Instant::now() > end {
                let runs = crate::invariants::runs(&*server.store).await;
                let live: Vec<_> = runs.iter().filter(|run| !run.status.is_terminal()).collect();
                panic!("plans that were submitted are not processed: {open:?}\n{live:#?}");
            }
            let wait = tokio::time::sleep(Duration::from_millis(5));
            server.fuse.alive(wait).await?;
        }
    }
}

/// Ends everything in it, wherever it is.
async fn end(process: Runtime) {
    let ended = tokio::task::spawn_blocking(move || process.shutdown_timeout(LIMIT));
    ended.await.unwrap();
}

async fn postgres(url: &str) -> Arc<dyn Store> {
    let store = PostgresStore::connect(url, ostler_store_postgres::Options::default())
        .await
        .unwrap();
    store.migrate_up(None).await.unwrap();
    Arc::new(store)
}

impl Server {
    /// What it answers to a question; `None` if it ends before.
    async fn asked<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        question: impl FnOnce(Control) -> F,
    ) -> Option<T> {
        let answer = self
            .process
            .as_ref()
            .unwrap()
            .spawn(question(self.control.clone()));
        self.fuse.alive(answer).await.map(Result::unwrap)
    }

    pub(crate) async fn fill_pools(&self) -> Option<()> {
        let filled = self.asked(async |control| control.fill_pools().await);
        filled.await?.unwrap();
        Some(())
    }

    pub(crate) async fn set_pool(&self, pool: &'static str, max: u32, target: u32) -> Option<()> {
        let change = PoolChange {
            target: Some(target.min(max)),
            max: Some(max),
            ..PoolChange::default()
        };
        let set = self.asked(async move |control| control.set_pool(&me(), pool, change).await);
        set.await?.unwrap();
        Some(())
    }

    /// What a server does at its start. False if it died meanwhile.
    async fn recover(&mut self, world: &World) -> bool {
        let settings = ExecutorSettings {
            slots: world.slots,
            kill_grace_seconds: 1,
            shutdown_seconds: 0,
            ..ExecutorSettings::default()
        };
        let started = self.asked(async move |control| {
            let pools = control.pools(&me()).await.unwrap();
            for place in &PLACES {
                if pools.iter().any(|(pool, _)| pool.name == place.pool) {
                    continue;
                }
                let mut template = SandboxTemplate::new(place.kind);
                template.cpus = place.cpus;
                template.memory_mb = place.memory_mb;
                template.labels.insert("size".into(), place.label.into());
                let change = PoolChange {
                    template: Some(template),
                    target: Some(0),
                    max: Some(MAX),
                    ..PoolChange::default()
                };
                control.set_pool(&me(), place.pool, change).await.unwrap();
            }
            let executor = Executor::new(control.clone(), settings);
            executor.recover().await.unwrap();
            control.settle_plans().await.unwrap();
            executor
        });
        let executor = started.await;
        let process = self.process.as_ref().unwrap();
        self.task = executor.map(|executor| process.spawn(executor.run(self.stop.clone())));
        self.task.is_some()
    }
}
