//! vsock context ids that run out, with the control plane over a driver that needs them.

#![allow(clippy::unwrap_used, reason = "test code")]

use async_trait::async_trait;
use ostler_agents::{KindSettings, Kinds, Prompts};
use ostler_control::{
    Caller, Control, DriverHost, Drivers, LOCAL, LogStore, NewAgent, Parts, PoolChange, SandboxSettings,
    WorkSettings,
};
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate, ServerId, SystemClock};
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, Finding, MachineSize,
    SandboxSpec,
};
use ostler_store::Store;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

/// The simulated driver, whose sandboxes need a context id each.
struct WithContextIds {
    sim: SimDriver,
    can: Capabilities,
    /// The context ids of live sandboxes.
    live: Mutex<BTreeSet<(SandboxId, u32)>>,
}

impl WithContextIds {
    fn new() -> Self {
        let sim = SimDriver::new(SimControl::new());
        let can = Capabilities {
            vsock: true,
            ..sim.capabilities().clone()
        };
        Self {
            sim,
            can,
            live: Mutex::default(),
        }
    }
}

#[async_trait]
impl Driver for WithContextIds {
    fn kind(&self) -> DriverKind {
        self.sim.kind()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.can
    }
    fn machine(&self) -> Option<MachineSize> {
        self.sim.machine()
    }
    async fn probe(&self) -> Vec<Finding> {
        self.sim.probe().await
    }
    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        let cid = spec.vsock_cid.unwrap();
        let mut live = self.live.lock().unwrap().clone();
        assert!(
            live.iter().all(|(_, taken)| *taken != cid),
            "{cid} is in use: {live:?}"
        );
        live.insert((spec.id, cid));
        *self.live.lock().unwrap() = live;
        self.sim.start(spec).await
    }
    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        self.sim.connect(id).await
    }
    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        self.sim.status(id).await
    }
    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.sim.remove(id, grace).await?;
        self.live.lock().unwrap().retain(|(of, _)| *of != id);
        Ok(())
    }
    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.sim.list().await
    }
    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.sim.events()
    }
}

async fn control(dir: &Path, driver: Arc<WithContextIds>, last_cid: u32) -> Control {
    let store = SqliteStore::open(dir.join("db"), SqliteOptions::default()).unwrap();
    store.migrate_up(None).await.unwrap();
    let host = DriverHost {
        kind: DriverKind::Sim,
        name: LOCAL.into(),
        driver,
    };
    let control = Control::new(Parts {
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        repositories: Repositories::open(&dir.join("repositories"), Git::new(), ForgeOptions::default())
            .unwrap(),
        kinds: Kinds::new(KindSettings::default()),
        prompts: Prompts::embedded().unwrap(),
        work: WorkSettings::default(),
        drivers: Drivers::new(vec![host]),
        sandboxes: SandboxSettings {
            last_cid,
            ..SandboxSettings::default()
        },
        logs: LogStore::open(dir.join("logs"), 1 << 20).unwrap(),
        server_id: ServerId::new(),
    });
    control.ensure_default_tenant().await.unwrap();
    let change = PoolChange {
        template: Some(SandboxTemplate::new(DriverKind::Sim)),
        target: Some(0),
        max: Some(100),
        ..PoolChange::default()
    };
    control
        .set_pool(&Caller::administrator(), "pool", change)
        .await
        .unwrap();
    control
}

#[tokio::test]
async fn context_ids_that_run_out_are_told_and_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let driver = Arc::new(WithContextIds::new());
    let control = control(dir.path(), Arc::clone(&driver), 10).await;
    let me = Caller::administrator();
    // All at once: the eight ids from 3 to 10 go to eight sandboxes, and nobody waits or gets what another has.
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (control, me) = (control.clone(), me.clone());
        all.spawn(async move { control.provision_agent(&me, NewAgent::default()).await });
    }
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    for made in all.join_all().await {
        match made {
            Ok(claimed) => held.push(claimed.sandbox),
            Err(error) => refused.push(error.to_string()),
        }
    }
    let ids: BTreeSet<i64> = held.iter().filter_map(|sandbox| sandbox.vsock_cid).collect();
    assert_eq!(ids, (3..=10).collect(), "{refused:?}");
    assert_eq!(refused.len(), 4);
    for message in refused {
        assert!(
            message.contains("from 3 to 10 are in use") && message.contains("`sandboxes.last_cid`"),
            "{message}"
        );
    }
    // That of one that has ended is the next one's.
    let freed = held[4].vsock_cid;
    control.destroy_agent(&me, held[4].id).await.unwrap();
    let again = control.provision_agent(&me, NewAgent::default()).await.unwrap();
    assert_eq!(again.sandbox.vsock_cid, freed);
}
