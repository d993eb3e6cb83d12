//! What the worlds of these tests have in common: a server over a real store, a pool, and an executor.

use ostler_agents::{KindSettings, Kinds, Prompts};
use ostler_control::{
    Caller, Control, Drivers, Executor, ExecutorSettings, LogStore, Parts, PoolChange, SandboxSettings,
    WorkSettings,
};
use ostler_domain::{DriverKind, SandboxTemplate, ServerId, SystemClock};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories};
use ostler_store::Store;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) fn me() -> Caller {
    Caller::administrator()
}

/// A server over what an earlier one left in `root`. As far as `change` leaves it, without drivers and hardly waiting
/// before it tries again.
pub(crate) async fn server(root: &Path, server_id: ServerId, change: impl FnOnce(&mut Parts)) -> Control {
    let store = SqliteStore::open(root.join("db"), SqliteOptions::default()).unwrap();
    store.migrate_up(None).await.unwrap();
    let repositories = root.join("repositories");
    let mut parts = Parts {
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        repositories: Repositories::open(&repositories, Git::new(), ForgeOptions::default()).unwrap(),
        kinds: Kinds::new(KindSettings::default()),
        prompts: Prompts::embedded().unwrap(),
        work: WorkSettings {
            backoff_first_seconds: 0.01,
            backoff_max_seconds: 0.01,
            ..WorkSettings::default()
        },
        drivers: Drivers::default(),
        sandboxes: SandboxSettings::default(),
        logs: LogStore::open(root.join("logs"), 1 << 20).unwrap(),
        server_id,
    };
    change(&mut parts);
    let control = Control::new(parts);
    control.ensure_default_tenant().await.unwrap();
    control
}

/// Makes a pool of at most four sandboxes, and executes runs until the token is cancelled.
#[allow(dead_code, reason = "not every test executes runs")]
pub(crate) async fn execute(
    control: &Control,
    (pool, driver, target): (&str, DriverKind, u32),
    slots: u32,
) -> (CancellationToken, JoinHandle<()>) {
    let pool_change = PoolChange {
        template: Some(SandboxTemplate::new(driver)),
        target: Some(target),
        max: Some(4),
        ..PoolChange::default()
    };
    control.set_pool(&me(), pool, pool_change).await.unwrap();
    let settings = ExecutorSettings {
        slots,
        kill_grace_seconds: 1,
        shutdown_seconds: 0,
        ..ExecutorSettings::default()
    };
    let executor = Executor::new(control.clone(), settings);
    executor.recover().await.unwrap();
    let stop = CancellationToken::new();
    let executing = tokio::spawn(executor.run(stop.clone()));
    (stop, executing)
}
