//! What a run or an agent needs from its sandbox, as options.

use crate::input::{mebibytes, pair};
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, Requirements};

/// What a sandbox must offer.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What the sandbox must offer")]
pub(in crate::commands) struct RequirementArguments {
    /// Only a sandbox of this pool.
    #[arg(short, long)]
    pool: Option<String>,
    /// Only a sandbox started from this image.
    #[arg(long)]
    image: Option<String>,
    /// At least this many CPUs.
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// At least this much memory, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u64>,
    /// At least this much disk, such as 10G.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    disk: Option<u64>,
    /// Only a sandbox of this driver: sim, process, docker ...
    #[arg(long)]
    driver: Option<DriverKind>,
    /// Machine architecture, as `uname -m` says.
    #[arg(long)]
    arch: Option<String>,
    /// At least this isolation: process, namespace or vm.
    #[arg(long)]
    isolation: Option<Isolation>,
    /// Only a sandbox with this kernel: its name, or the beginning of its version, such as 6.1.
    #[arg(long)]
    kernel: Option<String>,
    /// Exactly this network policy: none or open.
    #[arg(long, value_name = "POLICY")]
    network: Option<NetworkPolicy>,
    /// A label that the pool must carry; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// A device that must be there; may be repeated.
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<String>,
}

impl From<RequirementArguments> for Requirements {
    fn from(arguments: RequirementArguments) -> Self {
        Self {
            pool: arguments.pool,
            driver: arguments.driver,
            image: arguments.image,
            arch: arguments.arch,
            isolation: arguments.isolation,
            cpus: arguments.cpus,
            memory_mb: arguments.memory,
            disk_mb: arguments.disk,
            network: arguments.network,
            kernel: arguments.kernel,
            labels: arguments.labels.into_iter().collect(),
            devices: arguments.devices.into_iter().collect(),
        }
    }
}
