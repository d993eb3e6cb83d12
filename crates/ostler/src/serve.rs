//! `ostler serve`: the server.

use crate::late::Late;
use crate::settings::Settings;
use crate::{database, drivers, egress, images};
use anyhow::{Context, bail};
use axum::serve::ListenerExt;
use ostler_agents::{Kinds, Prompts};
use ostler_artifacts::ArtifactStore;
use ostler_control::{AgentServices, Caller, Control, Executor, LogStore, NewToken, Parts, SandboxSettings};
use ostler_domain::{ServerId, SystemClock};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories};
use ostler_gateway::Gateway;
use ostler_server::ServerState;
use ostler_store::Hint;
use std::fmt::Display;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The name of the file by which the command line finds a local server.
pub(crate) const CONNECTION_FILE: &str = "server.json";

/// The name of the file that is locked as long as a server uses the data directory.
pub(crate) const LOCK_FILE: &str = "lock";

/// Between two looks for artifacts whose time is over.
const ARTIFACTS: Duration = Duration::from_secs(3600);

/// How long another server on the data directory may take to end.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Runs the server until it is told to stop.
pub(crate) async fn serve(settings: Settings, data: &Path) -> anyhow::Result<()> {
    if settings.dev && !settings.listen.ip().is_loopback() {
        bail!(
            "development mode makes everybody an administrator, so it is refused on {}; listen on 127.0.0.1, or leave \
             --dev away and use tokens",
            settings.listen
        );
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(|| format!("cannot make the data directory {}", data.display()))?;
    let data = &std::fs::canonicalize(data)?;
    let _lock = lock(data).await?;
    let store = database::open(settings.database.as_deref(), data, false).await?;
    let applied = store.migrate_up(None).await?;
    if !applied.is_empty() {
        tracing::info!(migrations = applied.len(), "the database was brought up to date");
    }
    let repositories = Repositories::open(&data.join("repositories"), Git::new(), ForgeOptions::default())?;
    repositories.sweep().await?;
    let logs = LogStore::open(data.join("logs"), settings.log_max_bytes)?;
    let kinds = Kinds::new(settings.agents.clone());
    let server_id = server_id(data)?;
    let place = drivers::Place {
        engine_mounts: settings.sandboxes.allow_engine_socket,
        ..drivers::Place::prepare(data, server_id.to_string())?
    };
    let way_out = egress::open(&settings.egress, &place).await?;
    let network = way_out.as_ref().and_then(|way_out| way_out.network.clone());
    let building = images::options(&settings.images, &place, data);
    let mut drivers = drivers::open(
        &settings.drivers,
        building.clone(),
        &place,
        network.clone(),
        settings.dev,
    )
    .await?;
    let (hosts, absent) = (drivers.hosts(), drivers.absent());
    let control = Control::new(Parts {
        store: Arc::clone(&store),
        clock: Arc::new(SystemClock),
        repositories,
        kinds: kinds.clone(),
        prompts: Prompts::embedded()?,
        work: settings.work.clone(),
        drivers: hosts.clone(),
        sandboxes: settings.sandboxes.clone(),
        logs: logs.clone(),
        server_id,
    })
    .with_scheduler(settings.scheduler.clone())
    .with_unavailable(drivers.unavailable)
    .with_artifacts(
        ArtifactStore::open(&settings.artifacts, data.join("artifacts"))?,
        settings.artifacts.clone(),
    );
    let control = match &way_out {
        Some(way_out) => control.with_egress(way_out.proxy.clone()),
        None => control,
    };
    images::add(&control, drivers.images.take(), &settings.images, data)?;
    control.ensure_default_tenant().await?;
    let variable = std::env::var("OSTLER_CREDENTIAL_KEY").ok();
    control
        .open_credentials(variable.as_deref(), &data.join("credential-key"))
        .await?;
    let image = settings.drivers.docker.image.as_deref();
    drivers::ensure_default_pool(&control, &hosts, &absent, image).await?;
    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; choose another address with --listen",
            settings.listen
        )
    })?;
    let address = listener.local_addr()?;
    write_connection(&control, data, &format!("http://{address}"), settings.dev).await?;

    let stop = CancellationToken::new();
    // Runs that are still ending may need it.
    let closing = CancellationToken::new();
    let letting_out = way_out.map(|way_out| tokio::spawn(way_out.run(control.clone(), closing.clone())));
    let executor =
        Executor::new(control.clone(), settings.executor.clone()).with_agents(agents(&settings, data)?);
    executor.recover().await?;
    let executing = tokio::spawn(executor.clone().run(stop.clone()));
    let filling = tokio::spawn(fill(
        control.clone(),
        Duration::from_secs(settings.executor.poll_seconds.max(1)),
        stop.clone(),
    ));
    let settling = tokio::spawn(settle(
        control.clone(),
        executor,
        Duration::from_secs(settings.work.sync_seconds.max(1)),
        stop.clone(),
    ));
    let planning = tokio::spawn(plans(
        control.clone(),
        Duration::from_secs(settings.work.sync_seconds.max(1)),
        stop.clone(),
    ));
    let minding = tokio::spawn(mind(control.clone(), settings.sandboxes.clone(), stop.clone()));
    let collecting = tokio::spawn(images::collect(control.clone(), stop.clone()));
    let expiring = tokio::spawn(expire(control.clone(), stop.clone()));
    let late = Late {
        control: control.clone(),
        drivers: hosts,
        away: drivers.away,
        settings: settings.clone(),
        images: building,
        data: data.clone(),
    };
    let joining = tokio::spawn(late.run(stop.clone()));
    let ending = control.clone();
    let state = ServerState::new(
        control,
        logs,
        kinds,
        settings.work.agent_kind.clone(),
        settings.server.clone(),
        settings.dev,
    );
    // Small pieces of a stream must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    eprintln!("ostler listens on http://{address} (data in {})", data.display());
    let shutdown = stop.clone();
    let stopping = state.clone();
    // A router that is given as it is would be made anew for every connection, which takes milliseconds.
    let app = ostler_server::router(state).into_make_service();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop_signal().await;
        tracing::info!("stopping");
        stopping.stop_accepting();
        shutdown.cancel();
    });
    tokio::select! {
        served = served => served?,
        // Streams that are still followed do not hold up the end.
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(5)).await } => {}
    }
    stop.cancel();
    settling.await?;
    planning.await?;
    minding.await?;
    filling.await?;
    collecting.await?;
    expiring.await?;
    joining.await?;
    executing.await?;
    ending.end_sandboxes().await?;
    closing.cancel();
    if let Some(letting_out) = letting_out {
        letting_out.await??;
    }
    if let Some(network) = network {
        network.close().await?;
    }
    store.close().await;
    Ok(())
}

/// One round of a reconciler, with a note of how it went.
pub(crate) async fn reconcile<E: Display>(
    control: &Control,
    name: &str,
    round: impl Future<Output = Result<usize, E>>,
) {
    let started = Instant::now();
    let result = round.await;
    if let Err(error) = &result {
        tracing::warn!(%error, "a round over the {name} failed; it is tried again");
    }
    control.reconciled(name, started, &result);
}

/// Lets work go on: at once when runs have ended, and at a period for what a lost hint missed.
async fn settle(control: Control, executor: Executor, period: Duration, stop: CancellationToken) {
    let mut hints = control.store().hints();
    loop {
        let round = async {
            reconcile(&control, "work", control.settle_all()).await;
            reconcile(&control, "worktrees", control.expire_worktrees()).await;
            reconcile(&control, "sessions", executor.expire_sessions()).await;
        };
        tokio::select! {
            () = round => {}
            () = stop.cancelled() => return,
        }
        let finished = hinted(&mut hints, Hint::RunsFinished, Duration::ZERO);
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = finished => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Lets plans of tests go on that somebody left: at the start, and at a period for what a lost hint or a killed server missed.
async fn plans(control: Control, period: Duration, stop: CancellationToken) {
    loop {
        let round = reconcile(&control, "plans", control.settle_plans());
        tokio::select! {
            () = round => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Waits for a hint, and a while longer for those that come along with it: one round answers them all.
async fn hinted(hints: &mut broadcast::Receiver<Hint>, wanted: Hint, along: Duration) {
    // Of those that were missed any may have been a wanted one.
    while matches!(hints.recv().await, Ok(other) if other != wanted) {}
    tokio::time::sleep(along).await;
    while !hints.is_empty() {
        let _ = hints.recv().await;
    }
}

/// Keeps the pools at their targets: at a period, and at once when one has changed.
async fn fill(control: Control, period: Duration, stop: CancellationToken) {
    let mut hints = control.store().hints();
    loop {
        // A start that is under way is not cut off: it ends with a record of what was started.
        reconcile(&control, "pools", control.fill_pools()).await;
        let changed = hinted(&mut hints, Hint::Pools, Duration::from_millis(100));
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = changed => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Looks after the sandboxes that there are: their health, their use, and those that nobody uses.
async fn mind(control: Control, settings: SandboxSettings, stop: CancellationToken) {
    let every = |seconds: u64| {
        let mut ticks = tokio::time::interval(Duration::from_secs(seconds.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let health = async {
        let mut ticks = every(settings.health_seconds);
        loop {
            ticks.tick().await;
            reconcile(&control, "health", control.check_health()).await;
            reconcile(&control, "idle", control.mind_idle()).await;
        }
    };
    let usage = async {
        let mut ticks = every(settings.usage_seconds);
        loop {
            ticks.tick().await;
            reconcile(&control, "usage", control.sample_usage()).await;
        }
    };
    tokio::select! {
        () = health => {}
        () = usage => {}
        () = control.watch_drivers(stop.clone()) => {}
        () = stop.cancelled() => {}
    }
}

/// Removes what tests left in its time.
async fn expire(control: Control, stop: CancellationToken) {
    loop {
        let round = async {
            reconcile(&control, "artifacts", control.expire_artifacts()).await;
            tokio::time::sleep(ARTIFACTS).await;
        };
        tokio::select! {
            () = round => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The way of agents to their model APIs.
fn agents(settings: &Settings, data: &Path) -> anyhow::Result<AgentServices> {
    let (records, mut used) = tokio::sync::mpsc::channel(1024);
    let gateway = Gateway::new(
        &settings.gateway.resolve(|name| std::env::var(name).ok()),
        records,
    )?;
    tokio::spawn(async move {
        while let Some(call) = used.recv().await {
            tracing::debug!(?call, "a model was called");
        }
    });
    let sessions = data.join("sessions");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&sessions)
        .with_context(|| format!("cannot make {}", sessions.display()))?;
    Ok(AgentServices {
        gateway: Arc::new(gateway),
        token_key: token_key(data)?,
        sessions,
    })
}

/// The key from which the tokens of runs are made, the same at every start.
fn token_key(data: &Path) -> anyhow::Result<[u8; 32]> {
    let path = data.join("token-key");
    match std::fs::read(&path) {
        Ok(key) => key.try_into().map_err(|_| {
            anyhow::anyhow!(
                "{} does not hold a key; remove it to have a new one made",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key: [u8; 32] = rand::random();
            write_private(&path, key)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Waits until this process is asked to end.
pub(crate) async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Takes the data directory for this process, as long as the file is open: two servers with one id would end each other's
/// sandboxes.
async fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK_FILE);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // A server that was killed a moment ago may not be gone yet.
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another Ostler server uses the data directory {}; stop it first, or give each its own with --data DIR",
                data.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// The id of this data directory's server, the same at every start.
fn server_id(data: &Path) -> anyhow::Result<ServerId> {
    let path = data.join("server-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .with_context(|| format!("{} does not hold a server id", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = ServerId::new();
            write_private(&path, id.to_string())?;
            Ok(id)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Tells the command line on this machine where the server is, with a token that is kept from start to start.
async fn write_connection(control: &Control, data: &Path, url: &str, dev: bool) -> anyhow::Result<()> {
    let path = data.join(CONNECTION_FILE);
    let kept = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|value| value["token"].as_str().map(str::to_owned));
    let new = NewToken {
        name: "local command line".to_owned(),
        ..NewToken::default()
    };
    let token = match kept {
        Some(token) if control.authenticate(&token).await.is_ok() => Some(token),
        _ if dev => None,
        _ => Some(control.create_token(&Caller::administrator(), new).await?.1.0),
    };
    write_private(
        &path,
        serde_json::json!({ "url": url, "token": token }).to_string(),
    )
}

/// Replaces a file as a whole, readable by its owner only.
fn write_private(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content.as_ref())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
