//! The drivers: what each needs, and whether a sandbox really starts.

use super::{Check, LIMIT, Status, TRIAL};
use crate::drivers::{self, Place, template};
use crate::serve::stop_signal;
use crate::settings::{DriverSettings, Enabled, Separation};
use ostler_domain::{DriverKind, Pool, SandboxId};
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_sandbox::{Driver, DriverError, SandboxSpec};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause between two tries to reach a guest.
const STEP: Duration = Duration::from_millis(5);
/// Time that a guest has to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// Which drivers can be used.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Usable {
    process: bool,
    docker: bool,
}

impl Usable {
    /// Whether sandboxes see the programs of this host, or will once what is missing is there.
    pub(super) const fn host_programs(self) -> bool {
        self.process || !self.docker
    }
}

/// Looks at the drivers that the settings name.
pub(super) async fn drivers(
    settings: &DriverSettings,
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
    let mut usable = Usable::default();
    match settings.process.enabled {
        Enabled::No => checks.push(Check::ok("process driver", "switched off in the settings")),
        enabled => {
            usable.process = process(settings, &place, required(enabled), checks).await;
        }
    }
    match settings.docker.enabled {
        Enabled::No => checks.push(Check::ok("docker driver", "switched off in the settings")),
        enabled => {
            usable.docker = docker(settings, &place, required(enabled), pools, checks).await;
        }
    }
    if !usable.process && !usable.docker && !settings.sim {
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

fn instance(pid: u32) -> String {
    format!("doctor-{pid}")
}

/// Removes what doctors that were killed have left.
async fn sweep(place: &Path, settings: &DriverSettings) {
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
        };
        if let Err(error) = empty(&left, settings).await {
            tracing::debug!(%error, "what an earlier doctor has left is still there");
            continue;
        }
        // What cannot be removed now is tried again the next time.
        let _ = ostler_sandbox::remove_tree(&dir);
    }
}

/// Removes all sandboxes of a place.
async fn empty(place: &Place, settings: &DriverSettings) -> Result<(), DriverError> {
    let process = place.process(&settings.process);
    let docker = place.docker(&settings.docker);
    let mut all: Vec<Box<dyn Driver>> = Vec::new();
    if process.state_dir.exists() {
        let options = ProcessOptions {
            mode: Mode::Auto,
            ..process
        };
        all.push(Box::new(ProcessDriver::open(options).await?));
    }
    if docker.state_dir.exists() {
        all.push(Box::new(drivers::docker(docker, LIMIT).await?));
    }
    for driver in all {
        for id in driver.list().await? {
            driver.remove(id, Duration::ZERO).await?;
        }
    }
    Ok(())
}

/// What it is that a wanted driver cannot be used.
const fn required(enabled: Enabled) -> Status {
    match enabled {
        Enabled::Yes => Status::Failure,
        Enabled::Auto | Enabled::No => Status::Warning,
    }
}

async fn process(settings: &DriverSettings, place: &Place, missing: Status, checks: &mut Vec<Check>) -> bool {
    let settings = &settings.process;
    let apart = settings.separation == Separation::Namespaces;
    // Opened even without bubblewrap, so that everything that is missing is told at once.
    let options = ProcessOptions {
        mode: match settings.separation {
            Separation::Plain => Mode::Plain,
            Separation::Namespaces | Separation::Auto => Mode::Auto,
        },
        ..place.process(settings)
    };
    let driver = match ProcessDriver::open(options).await {
        Ok(driver) => driver,
        Err(error) => {
            checks.push(Check::new(
                missing,
                "process driver",
                said(error),
                "it cannot be used",
                "",
            ));
            return false;
        }
    };
    let mut complete = true;
    for finding in driver.probe().await {
        let (subject, needed, meaning) = match finding.subject.as_str() {
            "namespaces" => (
                "bubblewrap",
                apart,
                "the process driver cannot keep sandboxes apart, so it is not used",
            ),
            "cgroups" => (
                "cgroups",
                settings.limits,
                "CPU time and memory of sandboxes cannot be limited, so the process driver starts none unless \
                 `drivers.process.limits = false`",
            ),
            other => (other, true, "the process driver cannot be used"),
        };
        complete &= finding.ok || !needed;
        if subject == "bubblewrap" && !finding.ok && !needed {
            let meaning = "agents can read and change all that this user can";
            checks.push(Check::new(Status::Warning, subject, finding.detail, meaning, ""));
            continue;
        }
        checks.push(if finding.ok || !needed {
            Check::ok(subject, finding.detail)
        } else {
            Check::new(missing, subject, finding.detail, meaning, "")
        });
    }
    complete && started(&driver, None, missing, checks).await
}

async fn docker(
    settings: &DriverSettings,
    place: &Place,
    missing: Status,
    pools: &[Pool],
    checks: &mut Vec<Check>,
) -> bool {
    const SUBJECT: &str = "docker engine";
    let meaning = "sandboxes cannot be containers; pools of them wait";
    let driver = match drivers::docker(place.docker(&settings.docker), LIMIT).await {
        Ok(driver) => driver,
        Err(error) => {
            let advice = match missing {
                Status::Failure => "",
                _ => "if no engine is wanted, set `drivers.docker.enabled = false`",
            };
            checks.push(Check::new(missing, SUBJECT, said(error), meaning, advice));
            return false;
        }
    };
    for finding in driver.probe().await {
        checks.push(match (finding.subject.as_str(), finding.ok) {
            ("engine", true) => Check::ok(SUBJECT, finding.detail),
            (other, true) => Check::ok(&format!("docker {other}"), finding.detail),
            (other, false) => Check::new(
                Status::Warning,
                &format!("docker {other}"),
                finding.detail,
                "templates that ask for it are refused",
                "",
            ),
        });
    }
    let of_pools = pools
        .iter()
        .filter(|pool| pool.template.driver == DriverKind::Docker);
    let images: BTreeSet<String> = of_pools
        .filter_map(|pool| pool.template.image.clone())
        .chain(settings.docker.image.clone())
        .collect();
    let mut present = None;
    for image in &images {
        match driver.has_image(image).await {
            Ok(true) => {
                checks.push(Check::ok("docker image", format!("{image} is at the engine")));
                present = Some(image.as_str());
            }
            Ok(false) => checks.push(Check::new(
                Status::Warning,
                "docker image",
                format!("the engine has no image {image}"),
                "sandboxes of it do not start",
                format!("get it with `docker pull {image}`, or load it with `docker load -i FILE`"),
            )),
            Err(error) => checks.push(Check::new(missing, SUBJECT, said(error), meaning, "")),
        }
    }
    match present {
        Some(image) => started(&driver, Some(image), missing, checks).await,
        None if images.is_empty() => {
            checks.push(Check::ok(
                "docker image",
                "none is named: containers need a pool with an image, or `drivers.docker.image`",
            ));
            false
        }
        None => false,
    }
}

fn said(error: DriverError) -> String {
    match error {
        DriverError::Unavailable { message, .. } => message,
        other => other.to_string(),
    }
}

/// Starts a sandbox, reaches its guest and removes it.
async fn started(driver: &dyn Driver, image: Option<&str>, missing: Status, checks: &mut Vec<Check>) -> bool {
    let subject = format!("{} sandbox", driver.kind());
    let spec = SandboxSpec::new(SandboxId::new(), template(driver, image));
    let begun = Instant::now();
    // A person who does not want to wait must not leave a sandbox behind.
    let tried = tokio::select! {
        tried = tokio::time::timeout(LIMIT, reached(driver, &spec)) => {
            tried.unwrap_or_else(|_| Err(format!("it did not answer within {LIMIT:?}")))
        }
        () = stop_signal() => Err("interrupted".to_owned()),
    };
    let took = begun.elapsed();
    let removed = driver.remove(spec.id, GRACE).await.map_err(said);
    let failed = |found: String| {
        Check::new(
            missing,
            &subject,
            found,
            format!("the {} driver cannot be used", driver.kind()),
            "",
        )
    };
    let check = match (tried, removed) {
        (Ok(()), Ok(())) => Check::ok(
            &subject,
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
