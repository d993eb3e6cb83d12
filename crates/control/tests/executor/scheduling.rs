//! In which order runs are taken up, and that machines are never made fuller than they are.

use super::world::{self, me};
use super::{LIMIT, World};
use ostler_control::{
    Caller, Control, Executor, ExecutorSettings, NewAgent, NewCommand, PoolChange, SchedulerSettings,
};
use ostler_domain::schedule::Overcommit;
use ostler_domain::{
    CommandSpec, DriverKind, Requirements, Run, RunId, RunStatus, SandboxStatus, SandboxTemplate,
};
use ostler_driver_sim::Program;
use ostler_sandbox::MachineSize;
use ostler_store::RunFilter;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A machine of four CPUs, all of which are given away once, and a program that ends when it is let.
struct Machine {
    /// Where everything of it is.
    _world: World,
    control: Control,
    gate: Arc<Semaphore>,
    /// What has begun, in order: the first argument of each.
    begun: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

fn pool(cpus: u32, target: u32, max: u32) -> PoolChange {
    PoolChange {
        template: Some(SandboxTemplate {
            cpus,
            ..SandboxTemplate::new(DriverKind::Sim)
        }),
        target: Some(target),
        max: Some(max),
        ..PoolChange::default()
    }
}

impl Machine {
    async fn new(settings: SchedulerSettings) -> Self {
        let world = World::new();
        world.sim.set_machine(Some(MachineSize {
            here: true,
            cpus: 4,
            memory_mb: u64::MAX,
        }));
        let gate = Arc::new(Semaphore::new(0));
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (ends, starts) = (Arc::clone(&gate), Arc::clone(&begun));
        let program = Program::new(move |invocation| {
            starts.lock().unwrap().push(invocation.argv[1].clone());
            let ends = Arc::clone(&ends);
            async move {
                ends.acquire().await.unwrap().forget();
                0
            }
        });
        world.sim.program("gated", program);
        let control = world::server(world.dir.path(), world.server_id, |parts| {
            parts.drivers = BTreeMap::from([(DriverKind::Sim, Arc::clone(&world.driver))]).into();
        })
        .await
        .with_scheduler(SchedulerSettings {
            overcommit: Overcommit::default(),
            ..settings
        });
        Self {
            _world: world,
            control,
            gate,
            begun,
            stop: CancellationToken::new(),
        }
    }

    fn execute(&self, slots: u32) {
        let settings = ExecutorSettings {
            slots,
            kill_grace_seconds: 1,
            shutdown_seconds: 0,
            ..ExecutorSettings::default()
        };
        tokio::spawn(Executor::new(self.control.clone(), settings).run(self.stop.clone()));
    }

    async fn set_pool(&self, name: &str, change: PoolChange) {
        self.control.set_pool(&me(), name, change).await.unwrap();
    }

    async fn submit(&self, who: &Caller, name: &str, pool: &str, priority: i32) -> RunId {
        let new = NewCommand {
            command: CommandSpec {
                argv: vec!["gated".into(), name.into()],
                ..CommandSpec::default()
            },
            requirements: Requirements {
                pool: Some(pool.into()),
                ..Requirements::default()
            },
            priority,
            ..NewCommand::default()
        };
        self.control.submit_run(who, new).await.unwrap().submitted.id
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !is().await {
            assert!(
                Instant::now() < end,
                "it did not come to this: {what}; begun: {:?}",
                self.begun()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_begun(&self, count: usize) {
        self.until(&format!("{count} have begun"), async || {
            self.begun().len() >= count
        })
        .await;
    }

    async fn why(&self, id: RunId) -> String {
        self.control.explain_run(&me(), id).await.unwrap().summary
    }

    async fn all(&self) -> Vec<Run> {
        let filter = RunFilter {
            limit: 1000,
            ..RunFilter::default()
        };
        self.control.runs(&me(), filter).await.unwrap()
    }

    /// Lets everything end, and says how many CPUs were taken at most meanwhile.
    async fn drain(&self, cpus: &BTreeMap<&str, u32>) -> u32 {
        let mut most = 0;
        self.until("all have ended", async || {
            let sandboxes = self.control.sandboxes(&me()).await.unwrap();
            let live = sandboxes.iter().filter(|s| s.status != SandboxStatus::Destroyed);
            let taken: u32 = live.map(|sandbox| cpus[sandbox.pool.as_str()]).sum();
            most = most.max(taken);
            self.gate.add_permits(1);
            self.all().await.iter().all(|run| run.status.is_terminal())
        })
        .await;
        most
    }

    async fn end(self) {
        self.stop.cancel();
        self.gate.close();
        self.control.end_sandboxes().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_never_given_away_twice() {
    let machine = Machine::new(SchedulerSettings::default()).await;
    machine.set_pool("pair", pool(2, 0, 10)).await;
    machine.set_pool("single", pool(1, 0, 10)).await;
    let mut runs = Vec::new();
    for n in 0..12 {
        let pool = if n % 3 == 0 { "single" } else { "pair" };
        runs.push(machine.submit(&me(), &n.to_string(), pool, 0).await);
    }
    machine.execute(16);
    machine.until_begun(2).await;
    let last = *runs.last().unwrap();
    let why = machine.why(last).await;
    assert!(
        why.contains("CPUs") || why.contains("kept for"),
        "it says what is lacking: {why}"
    );
    let most = machine.drain(&BTreeMap::from([("pair", 2), ("single", 1)])).await;
    assert!((3..=4).contains(&most), "{most} of 4 CPUs were taken at most");
    for run in machine.all().await {
        assert_eq!((run.status, run.attempt), (RunStatus::Succeeded, 1), "{run:?}");
    }
    machine.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_sandboxes_give_way_to_what_is_needed() {
    let machine = Machine::new(SchedulerSettings::default()).await;
    machine.set_pool("idle", pool(1, 4, 4)).await;
    machine.set_pool("wide", pool(3, 0, 4)).await;
    assert_eq!(machine.control.fill_pools().await.unwrap(), 4);
    machine.execute(4);
    let run = machine.submit(&me(), "wide", "wide", 0).await;
    machine.until_begun(1).await;
    let idle = machine.control.sandboxes(&me()).await.unwrap();
    assert_eq!(idle.iter().filter(|s| s.pool == "idle").count(), 1);
    // Where there is no room, nothing is made warm, and that is no failure of the pool.
    assert_eq!(machine.control.fill_pools().await.unwrap(), 0);
    let explained = machine.control.explain_pool(&me(), "idle").await.unwrap();
    let hosts = format!("{:?}", explained.hosts);
    assert!(hosts.contains("0 are free there"), "{hosts}");
    // A claim by a person takes what is there, and is told what is lacking.
    let wide = NewAgent {
        pool: Some("wide".into()),
        ..NewAgent::default()
    };
    let refused = machine.control.provision_agent(&me(), wide).await.unwrap_err();
    assert!(
        refused.to_string().contains("wide: a sandbox takes 3 CPUs"),
        "{refused}"
    );
    machine.gate.add_permits(1);
    machine
        .until("the run has ended", async || {
            machine
                .control
                .run(&me(), run)
                .await
                .unwrap()
                .status
                .is_terminal()
        })
        .await;
    machine.end().await;
}

/// A run that takes the whole machine is not passed for ever by small ones that fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_run_is_not_starved_by_small_ones() {
    let machine = Machine::new(SchedulerSettings::default()).await;
    machine.set_pool("small", pool(1, 0, 10)).await;
    machine.set_pool("whole", pool(4, 0, 10)).await;
    for n in 0..4 {
        machine.submit(&me(), &n.to_string(), "small", 0).await;
    }
    machine.execute(16);
    machine.until_begun(4).await;
    let whole = machine.submit(&me(), "whole", "whole", 0).await;
    for n in 4..40 {
        machine.submit(&me(), &n.to_string(), "small", 0).await;
    }
    machine
        .until("it is known what is kept", async || {
            machine.why(whole).await.contains("is kept for it")
        })
        .await;
    machine.gate.add_permits(4);
    machine.until_begun(5).await;
    assert_eq!(machine.begun()[4], "whole", "{:?}", machine.begun());
    machine.gate.add_permits(37);
    machine.until_begun(41).await;
    machine.end().await;
}

async fn tenant(machine: &Machine, name: &str) -> Caller {
    machine.control.create_tenant(&me(), name).await.unwrap();
    machine.control.enter_tenant(me(), name).await.unwrap()
}

/// One slot: who is taken up next depends on nothing but the rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_served_by_their_weight() {
    let weights = BTreeMap::from([("large".to_owned(), 2)]);
    let machine = Machine::new(SchedulerSettings {
        weights,
        ..SchedulerSettings::default()
    })
    .await;
    machine.set_pool("one", pool(1, 0, 10)).await;
    let (large, small) = (tenant(&machine, "large").await, tenant(&machine, "small").await);
    for n in 0..8 {
        machine.submit(&large, &format!("large-{n}"), "one", 0).await;
    }
    for n in 0..8 {
        machine.submit(&small, &format!("small-{n}"), "one", 0).await;
    }
    machine.execute(3);
    machine.until_begun(3).await;
    let mut begun = machine.begun();
    begun.sort();
    assert_eq!(begun, ["large-0", "large-1", "small-0"]);
    machine.gate.add_permits(16);
    machine.until_begun(16).await;
    let begun = machine.begun();
    for who in ["large", "small"] {
        let own: Vec<&String> = begun.iter().filter(|name| name.starts_with(who)).collect();
        assert_eq!(own.len(), 8);
    }
    let last_small = begun.iter().rposition(|name| name.starts_with("small")).unwrap();
    assert!(
        begun[..8].iter().any(|name| name.starts_with("small")) && last_small > 7,
        "{begun:?}"
    );
    machine.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn higher_priority_goes_first_and_then_who_came_first() {
    let machine = Machine::new(SchedulerSettings::default()).await;
    machine.set_pool("one", pool(1, 0, 10)).await;
    for (n, priority) in [0, 5, 0, 5, -3, 900, 0].into_iter().enumerate() {
        machine.submit(&me(), &n.to_string(), "one", priority).await;
    }
    machine.execute(1);
    machine.gate.add_permits(7);
    machine.until_begun(7).await;
    assert_eq!(machine.begun(), ["5", "1", "3", "0", "2", "6", "4"]);
    machine.end().await;
}

/// What waited long enough goes before what is more important and came later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_lifts_a_run() {
    let machine = Machine::new(SchedulerSettings {
        ageing_seconds: 1,
        ..SchedulerSettings::default()
    })
    .await;
    machine.set_pool("one", pool(1, 0, 10)).await;
    machine.submit(&me(), "old", "one", 0).await;
    tokio::time::sleep(Duration::from_millis(3200)).await;
    machine.submit(&me(), "new", "one", 2).await;
    machine.submit(&me(), "urgent", "one", 50).await;
    machine.execute(1);
    machine.gate.add_permits(3);
    machine.until_begun(3).await;
    assert_eq!(machine.begun(), ["urgent", "old", "new"]);
    machine.end().await;
}
