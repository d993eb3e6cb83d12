//! `ostler pool set`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::CliError;
use crate::input::{mebibytes, pair};
use ostler_contracts::{SetPool, SetWorker, SignIn};
use ostler_domain::{DriverKind, Egress, Mount, NetworkPolicy, SandboxTemplate};
use std::net::IpAddr;

/// What the pool is to be.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Warm sandboxes to keep.
    #[arg(long, value_name = "N")]
    target: Option<u32>,
    /// Most sandboxes at once.
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Most starts of warm sandboxes at once.
    #[arg(long, value_name = "N")]
    start_concurrency: Option<u32>,
    /// Starts of warm sandboxes per minute, over time.
    #[arg(long, value_name = "N")]
    refill_per_minute: Option<u32>,
    /// Starts of warm sandboxes that may follow each other without a wait.
    #[arg(long, value_name = "N")]
    refill_burst: Option<u32>,
    #[command(flatten)]
    template: TemplateArguments,
    #[command(flatten)]
    worker: WorkerArguments,
}

/// What the workers in a pool's sandboxes are.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What the workers in its sandboxes are")]
struct WorkerArguments {
    /// How their agents sign in: `host_session` (as the user of the server's host, where the settings allow it), `api_key`
    /// (the server's key, which its gateway adds) or `gateway`.
    #[arg(long = "worker-auth", value_name = "WAY", value_parser = sign_in)]
    auth: Option<SignIn>,
    /// The kind of their agent.
    #[arg(long = "worker-agent", value_name = "KIND", default_value = "claude", requires = "auth")]
    agent_kind: String,
    /// Their type, such as planner.
    #[arg(long, value_name = "TYPE", default_value = "worker", requires = "auth")]
    worker_type: String,
    /// The address of the gateway to the model as seen in the sandbox.
    #[arg(long = "worker-gateway", value_name = "URL", requires = "auth")]
    gateway: Option<String>,
    /// The server's address as seen in the sandbox; the one that this command uses when absent.
    #[arg(long = "worker-server", value_name = "URL", requires = "auth")]
    server: Option<String>,
    /// The home directory of their programs in the sandbox.
    #[arg(long = "worker-home", value_name = "DIR", default_value = "/root", requires = "auth")]
    home: String,
    /// What they need, such as GIT; DOCKER is the engine of the server's host with everything there, where the settings
    /// allow it; may be repeated.
    #[arg(long = "capability", value_name = "NAME", requires = "auth")]
    capabilities: Vec<String>,
}

impl WorkerArguments {
    fn setting(self, url: &str) -> Option<SetWorker> {
        Some(SetWorker {
            auth: self.auth?,
            agent_kind: self.agent_kind,
            worker_type: self.worker_type,
            server: self.server.unwrap_or_else(|| url.to_owned()),
            gateway: self.gateway,
            capabilities: self.capabilities.into_iter().collect(),
            home: self.home,
        })
    }
}

fn sign_in(text: &str) -> Result<SignIn, String> {
    match text {
        "host_session" => Ok(SignIn::HostSession),
        "api_key" => Ok(SignIn::ApiKey),
        "gateway" => Ok(SignIn::Gateway),
        _ => Err("it is `host_session`, `api_key` or `gateway`".into()),
    }
}

/// What the sandboxes of a pool are started from.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
#[command(next_help_heading = "What its sandboxes are started from")]
struct TemplateArguments {
    /// Driver (sim, process, docker ...); needed for a new pool.
    #[arg(long)]
    driver: Option<DriverKind>,
    /// Image, for drivers that have images.
    #[arg(long)]
    image: Option<String>,
    /// CPUs.
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u64>,
    /// Most disk that one may use, such as 10G.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    disk: Option<u64>,
    /// What it may reach: none, filtered (what --allow says) or open.
    #[arg(long, value_name = "POLICY")]
    network: Option<NetworkPolicy>,
    /// A domain (`example.org`, `*.example.org`, with `:PORT`) or an address with its port (`192.0.2.0/24:443`) that may be
    /// reached where the network is filtered, instead of those that were set; may be repeated.
    #[arg(long = "allow", value_name = "TARGET")]
    allowed: Vec<String>,
    /// Root drive of a virtual machine: a file on the host, which is only read.
    #[arg(long, value_name = "FILE")]
    root_drive: Option<String>,
    /// Size of an empty second drive of a virtual machine, such as 10G.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    data_drive: Option<u64>,
    /// Kernel of a virtual machine: a file on the host.
    #[arg(long, value_name = "FILE")]
    kernel: Option<String>,
    /// Added to the kernel's command line.
    #[arg(long, value_name = "TEXT")]
    kernel_args: Option<String>,
    /// A device of the host that programs may use, such as kvm, instead of those that were set; may be repeated.
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<String>,
    /// User that programs run as.
    #[arg(long)]
    user: Option<String>,
    /// Snapshot that sandboxes are restored from instead of being booted; empty for none.
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Run the virtual machine monitor in its jailer: true or false.
    #[arg(long, value_name = "BOOL")]
    jailer: Option<bool>,
    /// Environment of every program in it, instead of what was set; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Labels for matching, instead of those that were set; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Directories of the host, instead of those that were set; read-only unless `:rw` is added; may be repeated.
    #[arg(long = "mount", value_name = "SOURCE:TARGET[:rw]", value_parser = mount)]
    mounts: Vec<Mount>,
}

impl Set {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let template = if self.template == TemplateArguments::default() {
            None
        } else {
            let pools = session.client.pools().await?;
            let present = pools.into_iter().find(|pool| pool.name == self.name).map(|pool| pool.template);
            Some(self.template.over(present).ok_or_else(|| {
                CliError::Usage(format!("there is no pool `{}` yet; a new one needs --driver", self.name))
            })?)
        };
        let change = SetPool {
            template,
            worker: self.worker.setting(&session.url),
            target: self.target,
            max: self.max,
            start_concurrency: self.start_concurrency,
            refill_per_minute: self.refill_per_minute,
            refill_burst: self.refill_burst,
        };
        let pool = session.client.set_pool(&self.name, &change).await?;
        session.out.show(&pool, || super::table(std::slice::from_ref(&pool), session.out.colour))
    }
}

impl TemplateArguments {
    /// The present template with what was named changed; `None` when there is neither a template nor a driver.
    fn over(self, present: Option<SandboxTemplate>) -> Option<SandboxTemplate> {
        let mut template = present.or_else(|| self.driver.map(SandboxTemplate::new))?;
        template.driver = self.driver.unwrap_or(template.driver);
        template.image = self.image.or(template.image);
        template.cpus = self.cpus.unwrap_or(template.cpus);
        template.memory_mb = self.memory.unwrap_or(template.memory_mb);
        template.disk_mb = self.disk.or(template.disk_mb);
        template.network = self.network.unwrap_or(template.network);
        if !self.allowed.is_empty() {
            // An address has digits and dots only, or brackets; a domain has a letter at its end.
            let is_address = |target: &String| {
                target.starts_with('[') || target.split([':', '/']).next().is_some_and(|host| host.parse::<IpAddr>().is_ok())
            };
            let (addresses, domains) = self.allowed.into_iter().partition(is_address);
            template.egress = Egress { domains, addresses };
        }
        if template.network != NetworkPolicy::Filtered {
            template.egress = Egress::default();
        }
        template.root_drive = self.root_drive.or(template.root_drive);
        template.data_drive_mb = self.data_drive.or(template.data_drive_mb);
        template.kernel = self.kernel.or(template.kernel);
        template.kernel_args = self.kernel_args.or(template.kernel_args);
        template.user = self.user.or(template.user);
        template.jailer = self.jailer.or(template.jailer);
        template.snapshot = self.snapshot.or(template.snapshot).filter(|name| !name.is_empty());
        if !self.devices.is_empty() {
            template.devices = self.devices.into_iter().collect();
        }
        if !self.env.is_empty() {
            template.env = self.env.into_iter().collect();
        }
        if !self.labels.is_empty() {
            template.labels = self.labels.into_iter().collect();
        }
        if !self.mounts.is_empty() {
            template.mounts = self.mounts;
        }
        Some(template)
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let (rest, writable) = match text.strip_suffix(":rw") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":ro").unwrap_or(text), false),
    };
    match rest.split_once(':') {
        Some((source, target)) if source.starts_with('/') && target.starts_with('/') => Ok(Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            writable,
        }),
        _ => Err(format!("`{text}` is not SOURCE:TARGET[:rw] with absolute paths")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let first = TemplateArguments {
            driver: Some(DriverKind::Sim),
            memory: Some(512),
            env: vec![("A".into(), "1".into())],
            ..TemplateArguments::default()
        };
        let made = first.over(None).unwrap();
        let second = TemplateArguments {
            cpus: Some(3),
            ..TemplateArguments::default()
        };
        let changed = second.clone().over(Some(made)).unwrap();
        assert_eq!((changed.cpus, changed.memory_mb, changed.env.len()), (3, 512, 1));
        assert_eq!(second.over(None), None);
    }

    #[test]
    fn mounts() {
        let both = mount("/a:/b:rw").unwrap();
        assert_eq!((both.source.as_str(), both.target.as_str(), both.writable), ("/a", "/b", true));
        assert!(!mount("/a:/b").unwrap().writable && !mount("/a:/b:ro").unwrap().writable);
        assert!(mount("a:/b").is_err() && mount("/a").is_err());
    }
}
