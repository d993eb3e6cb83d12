//! The drivers of this server: which can be used, why others cannot, and the pool of a new installation.

use crate::settings::{
    DockerSettings, DriverSettings, Enabled, EngineSettings, FirecrackerSettings, ProcessSettings,
    QemuSettings, Separation,
};
use anyhow::{Context, bail};
use ostler_control::{Caller, Control, DriverHost, LOCAL, PoolChange};
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxTemplate};
use ostler_driver_docker::{DockerDriver, DockerImages, DockerOptions, ImageOptions, TlsFiles};
use ostler_driver_firecracker::{FirecrackerDriver, FirecrackerOptions};
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_driver_qemu::{Accelerator, KernelFile, QemuDriver, QemuOptions};
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_host_network::HostNetwork;
use ostler_sandbox::{Driver, DriverError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Name of the pool of a new installation.
const DEFAULT_POOL: &str = "default";

/// Longest wait for an engine that is opened.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// What came of opening the drivers that the settings name.
#[derive(Default)]
pub(crate) struct Drivers {
    /// Those that can be used.
    pub(crate) usable: Vec<DriverHost>,
    /// What builds images, where there is an engine for it.
    pub(crate) images: Option<DockerImages>,
    /// Engines that may be there later.
    pub(crate) away: Vec<Away>,
    /// Those that were wanted and cannot be used, with what is wrong and what to do.
    pub(crate) unavailable: BTreeMap<DriverKind, String>,
}

/// An engine that could not be reached.
pub(crate) struct Away {
    /// Name of its host.
    pub(crate) name: String,
    pub(crate) options: DockerOptions,
    /// What is wrong and what to do.
    why: String,
}

/// Where a driver of this installation keeps things, and what it starts in sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Tells this installation's sandboxes from those of others on the same host or engine.
    pub(crate) instance: String,
    /// Directory below which each driver has its own.
    pub(crate) sandboxes: PathBuf,
    /// The guest program.
    pub(crate) guest: PathBuf,
    /// Whether containers may be given the socket of their engine.
    pub(crate) engine_mounts: bool,
}

impl Place {
    /// Makes the place ready in a data directory.
    pub(crate) fn prepare(data: &Path, instance: impl Into<String>) -> anyhow::Result<Self> {
        let dir = data.join("guest");
        let guest = ostler_guest_binary::install(&dir)
            .with_context(|| format!("cannot write the guest program into {}", dir.display()))?;
        Ok(Self {
            instance: instance.into(),
            sandboxes: data.join("sandboxes"),
            guest,
            engine_mounts: false,
        })
    }

    pub(crate) fn process(&self, settings: &ProcessSettings) -> ProcessOptions {
        ProcessOptions {
            mode: match settings.separation {
                Separation::Namespaces => Mode::Namespaces,
                Separation::Auto => Mode::Auto,
                Separation::Plain => Mode::Plain,
            },
            max_processes: settings.max_processes,
            without_limits: !settings.limits,
            devices: settings.devices.clone(),
            ..ProcessOptions::new(&self.instance, self.sandboxes.join("process"), &self.guest)
        }
    }

    pub(crate) fn docker(&self, settings: &DockerSettings) -> DockerOptions {
        let options = DockerOptions::new(&self.instance, self.sandboxes.join("docker"), &self.guest);
        DockerOptions {
            engine: settings.engine.clone().unwrap_or(options.engine),
            max_processes: settings.max_processes,
            starts: settings.starts.max(1),
            pull: settings.pull,
            nested: settings.nested,
            engine_mounts: self.engine_mounts,
            devices: settings
                .devices
                .iter()
                .filter_map(|name| Some((name.clone(), DockerOptions::device_path(name)?)))
                .collect(),
            ..options
        }
    }

    /// The engine on another host.
    pub(crate) fn remote_docker(
        &self,
        settings: &DockerSettings,
        name: &str,
        engine: &EngineSettings,
    ) -> DockerOptions {
        DockerOptions {
            state_dir: self.sandboxes.join(format!("docker-{name}")),
            host: name.to_owned(),
            engine: engine.engine.clone(),
            tls: engine.certificates.as_deref().map(TlsFiles::in_dir),
            plain_loopback: true,
            remote: Some(true),
            ..self.docker(settings)
        }
    }

    pub(crate) fn qemu(&self, settings: &QemuSettings) -> anyhow::Result<QemuOptions> {
        let options = QemuOptions::new(&self.instance, self.sandboxes.join("qemu"), &self.guest);
        let accelerator = match settings.accelerator.as_deref() {
            None => None,
            Some("kvm") => Some(Accelerator::Kvm),
            Some("tcg") => Some(Accelerator::Tcg),
            Some(other) => bail!("`drivers.qemu.accelerator` is `{other}`; it can be `kvm` or `tcg`"),
        };
        Ok(QemuOptions {
            qemu: settings.program.clone().unwrap_or(options.qemu),
            kernel: settings.kernel.clone(),
            kernel_dir: settings.kernel_dir.clone(),
            kernels: settings
                .kernels
                .iter()
                .map(|(name, kernel)| {
                    let file = KernelFile {
                        image: kernel.image.clone(),
                        modules: kernel.modules.clone(),
                    };
                    (name.clone(), file)
                })
                .collect(),
            modules: settings.modules.clone(),
            accelerator,
            slowdown: settings.slowdown.get(),
            ..options
        })
    }

    pub(crate) fn firecracker(&self, settings: &FirecrackerSettings) -> FirecrackerOptions {
        FirecrackerOptions {
            firecracker: settings.program.clone(),
            jailer: settings.jailer.clone(),
            jailed: settings.jailed,
            kernel: settings.kernel.clone(),
            initrd: settings.initrd.clone(),
            ..FirecrackerOptions::new(&self.instance, self.sandboxes.join("firecracker"), &self.guest)
        }
    }
}

/// Opens what the settings name. Fails only where they say that a driver must be there.
///
/// In development mode no sandbox shares this host's network: its programs would be administrators of the server.
pub(crate) async fn open(
    settings: &DriverSettings,
    images: ImageOptions,
    place: &Place,
    network: Option<Arc<HostNetwork>>,
    dev: bool,
) -> anyhow::Result<Drivers> {
    let mut drivers = Drivers::default();
    if settings.sim {
        let sim = SimDriver::new(SimControl::new());
        drivers.add(DriverKind::Sim, LOCAL, sim);
    }
    if settings.process.enabled != Enabled::No {
        let options = ProcessOptions {
            host_network: !dev,
            network,
            ..place.process(&settings.process)
        };
        let opened = ProcessDriver::open(options).await;
        drivers.note(DriverKind::Process, settings.process.enabled, opened)?;
    }
    if settings.docker.enabled != Enabled::No {
        let opened = drivers
            .engine(LOCAL, place.docker(&settings.docker), settings)
            .await?;
        if let Some(driver) = opened {
            drivers.images = crate::images::builder(&driver, images).await;
            drivers.add(DriverKind::Docker, LOCAL, driver);
        }
        for (name, engine) in &settings.docker.hosts {
            let options = place.remote_docker(&settings.docker, name, engine);
            if let Some(driver) = drivers.engine(name, options, settings).await? {
                drivers.add(DriverKind::Docker, name, driver);
            }
        }
    }
    if settings.qemu.enabled != Enabled::No {
        let options = QemuOptions {
            host_network: !dev,
            ..place.qemu(&settings.qemu)?
        };
        let opened = match QemuDriver::open(options).await {
            Ok(driver) => complete(DriverKind::Qemu, driver.missing().await, driver),
            failed => failed,
        };
        drivers.note(DriverKind::Qemu, settings.qemu.enabled, opened)?;
    }
    if settings.firecracker.enabled != Enabled::No {
        let opened = match FirecrackerDriver::open(place.firecracker(&settings.firecracker)).await {
            Ok(driver) => complete(DriverKind::Firecracker, driver.missing(), driver),
            failed => failed,
        };
        drivers.note(DriverKind::Firecracker, settings.firecracker.enabled, opened)?;
    }
    Ok(drivers)
}

/// A driver that opens also where what it needs is absent is of no use there.
fn complete<D>(kind: DriverKind, missing: Option<String>, driver: D) -> Result<D, DriverError> {
    match missing {
        None => Ok(driver),
        Some(message) => Err(DriverError::Unavailable {
            driver: kind,
            message,
        }),
    }
}

/// Opens the docker driver; an engine that hangs must not hold up a start for long.
pub(crate) async fn docker(options: DockerOptions, limit: Duration) -> Result<DockerDriver, DriverError> {
    let message = format!(
        "the engine at {} did not answer within {limit:?}: restart it (`systemctl restart docker`)",
        options.engine
    );
    tokio::time::timeout(limit, DockerDriver::open(options))
        .await
        .unwrap_or(Err(DriverError::Unavailable {
            driver: DriverKind::Docker,
            message,
        }))
}

impl Drivers {
    fn add(&mut self, kind: DriverKind, host: &str, driver: impl Driver) {
        self.usable.push(DriverHost {
            kind,
            name: host.to_owned(),
            driver: Arc::new(driver),
        });
    }

    /// Opens an engine. One that cannot be reached may be there later.
    async fn engine(
        &mut self,
        name: &str,
        options: DockerOptions,
        settings: &DriverSettings,
    ) -> anyhow::Result<Option<DockerDriver>> {
        let why = match docker(options.clone(), ANSWER).await {
            Ok(driver) => return Ok(Some(driver)),
            Err(error) => why(error),
        };
        must_not_miss(DriverKind::Docker, settings.docker.enabled, &why)?;
        tracing::warn!("the docker driver cannot be used on the host {name} yet, and is tried again: {why}");
        self.away.push(Away {
            name: name.to_owned(),
            options,
            why,
        });
        Ok(None)
    }

    /// The hosts for the use cases.
    pub(crate) fn hosts(&self) -> ostler_control::Drivers {
        let hosts = ostler_control::Drivers::new(self.usable.clone());
        for away in &self.away {
            hosts.set_away(DriverKind::Docker, &away.name, away.why.clone());
        }
        hosts
    }

    /// What is to be said of those that cannot be used.
    pub(crate) fn absent(&self) -> Vec<String> {
        let never = self
            .unavailable
            .iter()
            .map(|(kind, why)| format!("{kind}: {why}"));
        let yet = self
            .away
            .iter()
            .map(|away| format!("docker on {}: {}", away.name, away.why));
        never.chain(yet).collect()
    }

    fn note<D: Driver>(
        &mut self,
        kind: DriverKind,
        wanted: Enabled,
        opened: Result<D, DriverError>,
    ) -> anyhow::Result<()> {
        let why = match opened {
            Ok(driver) => {
                if driver.capabilities().isolation == Isolation::Process && kind != DriverKind::Sim {
                    tracing::warn!(
                        "sandboxes of the {kind} driver are plain processes: they can read and change all that the \
                         server's user can"
                    );
                }
                self.add(kind, LOCAL, driver);
                return Ok(());
            }
            Err(error) => why(error),
        };
        must_not_miss(kind, wanted, &why)?;
        // What few hosts have is not missed by most.
        if matches!(kind, DriverKind::Qemu | DriverKind::Firecracker) {
            tracing::info!("the {kind} driver cannot be used: {why}");
        } else {
            tracing::warn!("the {kind} driver cannot be used: {why}");
        }
        self.unavailable.insert(kind, why);
        Ok(())
    }
}

/// Fails where the settings say that a driver must be there.
fn must_not_miss(kind: DriverKind, wanted: Enabled, why: &str) -> anyhow::Result<()> {
    if wanted == Enabled::Yes {
        bail!(
            "the {kind} driver cannot be used, and the settings say that the server must have it \
             (`drivers.{kind}.enabled = true`): {why}"
        );
    }
    Ok(())
}

/// What is wrong and what to do.
pub(crate) fn why(error: DriverError) -> String {
    match error {
        DriverError::Unavailable { message, .. } => message,
        error => error.to_string(),
    }
}

/// What the pool of a new installation is made from: the first of these that works here. Otherwise one sentence on each.
fn first_template(hosts: Vec<DriverHost>, image: Option<&str>) -> Result<SandboxTemplate, Vec<String>> {
    let mut reasons = Vec::new();
    let mut candidates = hosts;
    candidates.sort_by_key(|DriverHost { kind, driver, .. }| {
        let apart = driver.capabilities().isolation >= Isolation::Namespace;
        let order = match kind {
            DriverKind::Process => 0,
            DriverKind::Docker => 1,
            _ => 2,
        };
        (*kind == DriverKind::Sim, !apart, order)
    });
    for DriverHost { kind, driver, .. } in candidates {
        let can = driver.capabilities();
        if can.images && image.is_none() {
            reasons.push(format!(
                "{kind}: it needs an image: name one with `drivers.{kind}.image` and start again, or make a pool with \
                 `ostler pool set {DEFAULT_POOL} --driver {kind} --image IMAGE`"
            ));
            continue;
        }
        let template = template(driver.as_ref(), image);
        match driver.check(&template) {
            Ok(()) => return Ok(template),
            Err(DriverError::Unsupported { reasons: all, .. }) => {
                let advice = advice(kind);
                reasons.push(format!(
                    "{kind}: this host does not give it {}{advice}",
                    all.join("; ")
                ));
            }
            Err(error) => reasons.push(format!("{kind}: {error}")),
        }
    }
    Err(reasons)
}

/// The default template of a driver.
pub(crate) fn template(driver: &dyn Driver, image: Option<&str>) -> SandboxTemplate {
    let can = driver.capabilities();
    let mut template = SandboxTemplate::new(driver.kind());
    template.image = image.filter(|_| can.images).map(str::to_owned);
    if !can.networks.contains(&template.network) {
        template.network = NetworkPolicy::Open;
    }
    template
}

fn advice(kind: DriverKind) -> &'static str {
    match kind {
        DriverKind::Process => ": see `ostler doctor`, or set `drivers.process.limits = false`",
        _ => "",
    }
}

/// Gives a new installation its pool. Where there are pools, their operator has decided. `absent` is what is said of
/// drivers that cannot be used.
pub(crate) async fn ensure_default_pool(
    control: &Control,
    drivers: &ostler_control::Drivers,
    absent: &[String],
    image: Option<&str>,
) -> anyhow::Result<()> {
    let operator = Caller::administrator();
    if !control.pools(&operator).await?.is_empty() {
        return Ok(());
    }
    let template = match first_template(drivers.all(), image) {
        Ok(template) => template,
        Err(reasons) => {
            let all = [absent, &reasons].concat();
            tracing::warn!(
                "no pool was made, so nothing can be executed yet; the next start tries again. {}",
                all.join(". ")
            );
            return Ok(());
        }
    };
    let driver = template.driver;
    match control
        .set_pool(
            &operator,
            DEFAULT_POOL,
            PoolChange {
                template: Some(template),
                ..PoolChange::default()
            },
        )
        .await
    {
        Ok(pool) => {
            tracing::info!(
                "made the pool {DEFAULT_POOL} of {driver} sandboxes, of which {} are kept warm; change it with `ostler \
                 pool set`",
                pool.target
            );
            Ok(())
        }
        // Another server that was started at the same time made it.
        Err(_) if !control.pools(&operator).await?.is_empty() => Ok(()),
        Err(error) => Err(error).context("the first pool cannot be made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sim() -> Drivers {
        let mut drivers = Drivers::default();
        let sim = SimDriver::new(SimControl::new());
        drivers.add(DriverKind::Sim, LOCAL, sim);
        drivers
    }

    #[test]
    fn a_driver_that_must_be_there_and_is_not_stops_the_start() {
        let missing = || -> Result<SimDriver, _> {
            Err(DriverError::Unavailable {
                driver: DriverKind::Docker,
                message: "no engine".into(),
            })
        };
        let mut drivers = sim();
        drivers
            .note(DriverKind::Docker, Enabled::Auto, missing())
            .unwrap();
        assert_eq!(drivers.unavailable[&DriverKind::Docker], "no engine");
        let error = drivers
            .note(DriverKind::Docker, Enabled::Yes, missing())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no engine") && error.contains("drivers.docker.enabled"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        // Connections are made, and nothing is ever said.
        let _hangs = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let options = DockerOptions {
            engine: format!("unix://{}", socket.display()),
            ..DockerOptions::new("test", dir.path().join("state"), "/guest")
        };
        let error = docker(options, Duration::from_millis(100))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("did not answer within 100ms"), "{error}");
    }

    #[test]
    fn the_first_pool_is_of_a_driver_that_works() {
        assert_eq!(
            first_template(sim().usable, None).unwrap().driver,
            DriverKind::Sim
        );
        assert!(first_template(Vec::new(), None).unwrap_err().is_empty());
    }
}
