//! What the driver is made with.

use ostler_host_network::HostNetwork;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// How sandboxes are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Namespaces where bubblewrap works, otherwise plain processes; the capabilities say which.
    #[default]
    Auto,
    /// Namespaces; opening the driver fails where bubblewrap does not work.
    Namespaces,
    /// Plain processes.
    Plain,
}

/// What the driver is made with.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// Separates installations on one host: 1 to 40 of `a-z`, `0-9`, `-` and `_`. Part of the cgroups' names.
    pub instance: String,
    /// Directory of this instance alone, made if missing, mode 0700.
    pub state_dir: PathBuf,
    /// The static guest program on this host.
    pub guest: PathBuf,
    /// How sandboxes are kept apart.
    pub mode: Mode,
    /// Most processes and threads in one sandbox, where the host can limit them.
    pub max_processes: u32,
    /// Start sandboxes even where this host cannot limit CPU time and memory. The sizes of a template then only serve
    /// for matching, so this must be the operator's explicit wish.
    pub without_limits: bool,
    /// Offers the network policy `open`, which is this host's own network with all that listens on its loopback.
    /// Plain processes have it whatever is said here.
    pub host_network: bool,
    /// Gives sandboxes with a filtered network an interface. Without it they have the loopback alone, and the proxy that
    /// the guest offers there is their only way out.
    pub network: Option<Arc<HostNetwork>>,
    /// Devices of this host that a template may ask for: names in `/dev`, such as `kvm`. Those that need privileges are of
    /// no use to programs in a sandbox, which have none: `fuse` takes mounts.
    pub devices: BTreeSet<String>,
    /// Most sandboxes that are being started at once.
    pub starts: usize,
}

impl ProcessOptions {
    /// Options with defaults: automatic mode, 4096 processes, limits required, no interfaces, no devices, 4 starts at once.
    pub fn new(
        instance: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        guest: impl Into<PathBuf>,
    ) -> Self {
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            guest: guest.into(),
            mode: Mode::Auto,
            max_processes: 4096,
            without_limits: false,
            host_network: true,
            network: None,
            devices: BTreeSet::new(),
            starts: 4,
        }
    }
}
