//! The drivers: what each needs, and whether a sandbox really starts.

mod docker;
mod machines;
mod network;
mod process;

use super::{Check, LIMIT, Status, TRIAL};
use crate::drivers::{self, Place};
use crate::serve::stop_signal;
use crate::settings::{Enabled, Settings};
use ostler_domain::{DriverKind, Pool, SandboxId, SandboxTemplate};
use ostler_driver_firecracker::FirecrackerDriver;
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_driver_qemu::QemuDriver;
use ostler_sandbox::{Driver, DriverError, SandboxSpec};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause between two tries to reach a guest.
const STEP: Duration = Duration::from_millis(5);
/// Time that a guest has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// vsock context id of a trial, where the driver needs one. No server gives it to a sandbox.
const TRIAL_CID: u32 = u32::MAX - 1;

/// Which drivers can be used.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Usable {
    process: bool,
    /// Any other.
    other: bool,
}

impl Usable {
    /// Whether sandboxes see the programs of this host, or will once what is missing is there.
    pub(super) const fn host_programs(self) -> bool {
        self.process || !self.other
    }
}

/// What is looked at, and with what.
struct Look<'a> {
    settings: &'a Settings,
    /// Where trials are made.
    place: &'a Place,
    /// The data directory of the server.
    data: &'a Path,
    pools: &'a [Pool],
}

impl Look<'_> {
    fn pools(&self, kind: DriverKind) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(move |pool| pool.template.driver == kind)
    }
}

/// Looks at the drivers that the settings name.
pub(super) async fn drivers(
    settings: &Settings,
    data: &Path,
    trial: Option<&TempDir>,
    pools: &[Pool],
    checks: &mut Vec<Check>,
) -> Usable {
    // Without a place to write nothing can be tried, which has been said.
    let Some(trial) = trial else {
        return Usable::default();
    };
    if let Some(place) = trial.path().parent() {
        sweep(place, settings).await;
    }
    let instance = instance(std::process::id());
    let place = match Place::prepare(trial.path(), instance) {
        // Paths as short as those of a server.
        Ok(place) => Place {
            sandboxes: trial.path().to_owned(),
            ..place
        },
        Err(error) => {
            checks.push(Check::new(
                Status::Failure,
                "guest program",
                format!("{error:#}"),
                "no sandbox can be started",
                "install Ostler again",
            ));
            return Usable::default();
        }
    };
    let look = Look {
        settings,
        place: &place,
        data,
        pools,
    };
    let mut usable = Usable::default();
    let wanted = &settings.drivers;
    if on("process driver", wanted.process.enabled, checks) {
        usable.process = process::look(&look, checks).await;
    }
    if on("docker driver", wanted.docker.enabled, checks) {
        usable.other |= docker::look(&look, checks).await;
    }
    if on("qemu driver", wanted.qemu.enabled, checks) {
        usable.other |= machines::qemu(&look, checks).await;
    }
    if on("firecracker driver", wanted.firecracker.enabled, checks) {
        usable.other |= machines::firecracker(&look, checks).await;
    }
    network::look(&look, checks).await;
    if !usable.process && !usable.other && !wanted.sim {
        checks.push(Check::new(
            Status::Failure,
            "sandboxes",
            "no driver can be used",
            "nothing can be executed",
            "do what is said above for one of the drivers",
        ));
    }
    usable
}

/// Whether the settings leave a driver on.
fn on(subject: &str, enabled: Enabled, checks: &mut Vec<Check>) -> bool {
    if enabled == Enabled::No {
        checks.push(Check::ok(subject, "switched off in the settings"));
    }
    enabled != Enabled::No
}

fn instance(pid: u32) -> String {
    format!("doctor-{pid}")
}

/// Removes what doctors that were killed have left.
async fn sweep(place: &Path, settings: &Settings) {
    let names = std::fs::read_dir(place).into_iter().flatten();
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let pid = name
            .strip_prefix(TRIAL)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        let Some(pid) = pid.filter(|pid: &u32| !Path::new("/proc").join(pid.to_string()).exists()) else {
            continue;
        };
        let dir = place.join(name);
        let left = Place {
            instance: instance(pid),
            sandboxes: dir.clone(),
            guest: dir.join("guest"),
            engine_mounts: false,
        };
        if let Err(error) = empty(&left, settings).await {
            tracing::debug!(error, "what an earlier doctor has left is still there");
            continue;
        }
        // What cannot be removed now is tried again the next time.
        let _ = ostler_sandbox::remove_tree(&dir);
    }
}

/// Removes all sandboxes of a place, and the network that was made for them.
async fn empty(place: &Place, all_settings: &Settings) -> Result<(), String> {
    let settings = &all_settings.drivers;
    let mut all: Vec<Box<dyn Driver>> = Vec::new();
    let process = place.process(&settings.process);
    if process.state_dir.exists() {
        let options = ProcessOptions {
            mode: Mode::Auto,
            ..process
        };
        all.push(Box::new(ProcessDriver::open(options).await.map_err(said)?));
    }
    let further = settings.docker.hosts.iter();
    let further = further.map(|(name, engine)| place.remote_docker(&settings.docker, name, engine));
    for options in std::iter::once(place.docker(&settings.docker)).chain(further) {
        if options.state_dir.exists() {
            all.push(Box::new(drivers::docker(options, LIMIT).await.map_err(said)?));
        }
    }
    let qemu = place.qemu(&settings.qemu).map_err(|error| error.to_string())?;
    if qemu.state_dir.exists() {
        all.push(Box::new(QemuDriver::open(qemu).await.map_err(said)?));
    }
    let firecracker = place.firecracker(&settings.firecracker);
    if firecracker.state_dir.exists() {
        all.push(Box::new(
            FirecrackerDriver::open(firecracker).await.map_err(said)?,
        ));
    }
    for driver in all {
        for id in driver.list().await.map_err(said)? {
            driver.remove(id, Duration::ZERO).await.map_err(said)?;
        }
    }
    network::empty(place, &all_settings.egress.range).await
}

/// What it is that a wanted driver cannot be used.
const fn required(enabled: Enabled) -> Status {
    match enabled {
        Enabled::Yes => Status::Failure,
        Enabled::Auto | Enabled::No => Status::Warning,
    }
}

fn said(error: DriverError) -> String {
    match error {
        DriverError::Unavailable { message, .. } => message,
        other => other.to_string(),
    }
}

/// Starts a sandbox, reaches its guest and removes it.
async fn started(
    driver: &dyn Driver,
    subject: &str,
    template: SandboxTemplate,
    limit: Duration,
    missing: Status,
    checks: &mut Vec<Check>,
) -> bool {
    let mut spec = SandboxSpec::new(SandboxId::new(), template);
    spec.vsock_cid = driver.capabilities().vsock.then_some(TRIAL_CID);
    let begun = Instant::now();
    // A person who does not want to wait must not leave a sandbox behind.
    let tried = tokio::select! {
        tried = tokio::time::timeout(limit, reached(driver, &spec)) => {
            tried.unwrap_or_else(|_| Err(format!("it did not answer within {limit:?}")))
        }
        () = stop_signal() => Err("interrupted".to_owned()),
    };
    let took = begun.elapsed();
    let removed = driver.remove(spec.id, GRACE).await.map_err(said);
    let failed = |found: String| {
        Check::new(
            missing,
            subject,
            found,
            format!("the {} driver cannot be used", driver.kind()),
            "",
        )
    };
    let check = match (tried, removed) {
        (Ok(()), Ok(())) => Check::ok(
            subject,
            format!("a trial one answered after {} ms", took.as_millis()),
        ),
        (Err(error), _) => failed(format!("a trial one did not start: {error}")),
        (Ok(()), Err(error)) => failed(format!("a trial one could not be removed: {error}")),
    };
    checks.push(check);
    checks.last().is_some_and(|check| check.status == Status::Ok)
}

async fn reached(driver: &dyn Driver, spec: &SandboxSpec) -> Result<(), String> {
    driver.start(spec).await.map_err(said)?;
    while driver.connect(spec.id).await.is_err() {
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
