//! Sandboxes and pools.

use crate::state::text_enum;
use crate::{
    DepartmentId, DriverKind, IllegalTransition, KernelOffer, NetworkPolicy, Offer, SandboxId, ServerId,
    TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

text_enum! {
    /// The states of a sandbox.
    SandboxStatus {
        /// Started, healthy, held by nobody.
        Warm = "warm",
        /// Claimed, being made ready: a cold start enters here.
        Provisioning = "provisioning",
        /// Held and usable.
        Running = "running",
        /// Failed its health checks.
        Unhealthy = "unhealthy",
        /// Being taken down.
        Destroying = "destroying",
        /// Gone.
        Destroyed = "destroyed",
    }
}

text_enum! {
    /// Why a running sandbox is frozen.
    PausedBy {
        /// Its holder asked for it: it goes on when the holder says so.
        Holder = "holder",
        /// Nobody used it for a while: it goes on at its next use.
        Idle = "idle",
    }
}

impl SandboxStatus {
    /// The states that this one may go to. The only place where that is said.
    pub const fn successors(self) -> &'static [Self] {
        use SandboxStatus::{Destroyed, Destroying, Provisioning, Running, Unhealthy, Warm};
        match self {
            // `Provisioning → Warm` is the end of the start of a pool member.
            Warm => &[Provisioning, Unhealthy, Destroying],
            Provisioning => &[Warm, Running, Unhealthy, Destroying],
            Running => &[Unhealthy, Destroying],
            Unhealthy => &[Running, Destroying],
            Destroying => &[Destroyed],
            Destroyed => &[],
        }
    }

    /// `next`, if the table has that transition.
    pub fn to(self, next: Self) -> Result<Self, IllegalTransition> {
        if self.successors().contains(&next) {
            return Ok(next);
        }
        Err(IllegalTransition {
            what: "sandbox",
            from: self.as_str(),
            to: next.as_str(),
        })
    }
}

/// A directory of the host seen inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the sandbox.
    pub target: String,
    /// Whether the sandbox may write there.
    #[serde(default)]
    pub writable: bool,
}

/// What a sandbox with [`NetworkPolicy::Filtered`] may reach. Everything else is denied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Domains: `example.org`, or `*.example.org` for everything below it, each with an optional `:port` (443 and 80 when
    /// absent).
    pub domains: Vec<String>,
    /// Addresses and networks with a port: `192.0.2.7:5432`, `192.0.2.0/24:443`, `[2001:db8::/64]:22`.
    pub addresses: Vec<String>,
}

impl Egress {
    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.addresses.is_empty()
    }
}

/// What every sandbox of a pool is started from; all of it is baked in, so together it is the pool's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxTemplate {
    /// Driver.
    pub driver: DriverKind,
    /// Image, for drivers that have images.
    #[serde(default)]
    pub image: Option<String>,
    /// CPUs.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// Memory, MiB.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u64,
    /// Disk, MiB; `None` for no limit.
    #[serde(default)]
    pub disk_mb: Option<u64>,
    /// Network policy.
    #[serde(default = "default_network")]
    pub network: NetworkPolicy,
    /// Environment that every program in the sandbox gets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Directories of the host.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Labels, for matching.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What may be reached where the network is `filtered`.
    #[serde(default, skip_serializing_if = "Egress::is_empty")]
    pub egress: Egress,
    /// Root drive of a virtual machine: a file on the host, which is only read. What the sandbox writes goes to a layer of
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_drive: Option<String>,
    /// Size of an empty second drive of a virtual machine, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_drive_mb: Option<u64>,
    /// Kernel of a virtual machine: one that the driver knows, by name or the beginning of its version, or with a `/` a file
    /// on the host; the driver's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Added to the kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// Devices of the host that programs may use, such as `kvm`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<String>,
    /// User that programs run as, where an image has several: a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of a snapshot that sandboxes are restored from instead of being booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether the virtual machine monitor runs in its jailer, for drivers that have one; the driver's setting when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jailer: Option<bool>,
}

const fn default_cpus() -> u32 {
    1
}
const fn default_memory_mb() -> u64 {
    2048
}
const fn default_network() -> NetworkPolicy {
    NetworkPolicy::None
}

impl SandboxTemplate {
    /// A template with the defaults for `driver`.
    pub fn new(driver: DriverKind) -> Self {
        Self {
            driver,
            image: None,
            cpus: default_cpus(),
            memory_mb: default_memory_mb(),
            disk_mb: None,
            network: default_network(),
            env: BTreeMap::new(),
            mounts: Vec::new(),
            labels: BTreeMap::new(),
            egress: Egress::default(),
            root_drive: None,
            data_drive_mb: None,
            kernel: None,
            kernel_args: None,
            devices: BTreeSet::new(),
            user: None,
            snapshot: None,
            jailer: None,
        }
    }
}

/// A named pool of warm sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Name, unique per installation.
    pub name: String,
    /// What its sandboxes are started from.
    pub template: SandboxTemplate,
    /// Warm sandboxes to keep.
    pub target: u32,
    /// Most sandboxes at once, held ones included.
    pub max: u32,
    /// Most starts of warm sandboxes at once, on one server.
    pub start_concurrency: u32,
    /// Starts of warm sandboxes per minute over time, on one server: the rate of the token bucket.
    pub refill_per_minute: u32,
    /// Starts of warm sandboxes that may follow each other without a wait: the size of the token bucket.
    pub refill_burst: u32,
    /// Starts of pool members that failed one after the other; back-off and the operator's view come from it.
    pub failures: u32,
    /// The last failure of a start.
    pub last_error: Option<String>,
    /// No warm start is tried before this.
    pub retry_at: Option<Timestamp>,
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// Where a driver starts sandboxes: one engine or one machine, as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `<server id>/<driver>/<name>`.
    pub id: String,
    /// The server whose driver it is.
    pub server_id: ServerId,
    /// Driver.
    pub driver: DriverKind,
    /// Name in the settings; `local` where there is only one.
    pub name: String,
    /// Starts that failed and sandboxes that became unhealthy, one after the other.
    pub failures: u32,
    /// The last of those.
    pub last_error: Option<String>,
    /// Nothing is started there before this.
    pub quarantined_until: Option<Timestamp>,
    /// Nothing is started there until an operator says so.
    pub draining: bool,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl Host {
    /// The id of a host.
    pub fn id_of(server: ServerId, driver: DriverKind, name: &str) -> String {
        format!("{server}/{driver}/{name}")
    }

    /// How long nothing is started there after that many failures in a row, of which `most` are borne without a wait:
    /// 1 min doubling to 30 min.
    pub fn quarantine(failures: u32, most: u32) -> Option<Duration> {
        let over = failures.checked_sub(most.max(1))?;
        Some(Duration::from_secs(60u64 << over.min(5)).min(Duration::from_secs(1800)))
    }
}

/// What a sandbox had used at a moment. Counts are since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSample {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// When.
    pub at: Timestamp,
    /// Who held it then.
    pub tenant_id: Option<TenantId>,
    /// CPU time of all its programs, microseconds.
    pub cpu_us: Option<i64>,
    /// Memory in use then, bytes.
    pub memory_bytes: Option<i64>,
    /// Read from disks, bytes.
    pub read_bytes: Option<i64>,
    /// Written to disks, bytes.
    pub written_bytes: Option<i64>,
    /// Received from the network, bytes.
    pub received_bytes: Option<i64>,
    /// Sent to the network, bytes.
    pub sent_bytes: Option<i64>,
    /// Processes then.
    pub processes: Option<i64>,
}

/// A place where runs execute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Id; also the name at the driver.
    pub id: SandboxId,
    /// Holder; `None` while it is warm or an operator's.
    pub tenant_id: Option<TenantId>,
    /// Department of the holder.
    pub department_id: Option<DepartmentId>,
    /// Pool.
    pub pool: String,
    /// Driver.
    pub driver: DriverKind,
    /// The driver's own id for it, once known.
    pub driver_ref: Option<String>,
    /// The server whose driver runs it.
    pub server_id: ServerId,
    /// The host of that driver on which it runs.
    pub host: String,
    /// State.
    pub status: SandboxStatus,
    /// Why it is frozen; `None` when it is not.
    pub paused: Option<PausedBy>,
    /// What it was started from.
    pub template: SandboxTemplate,
    /// The holder's own configuration.
    pub config: serde_json::Value,
    /// Commands of `orchestrator` and `bd` that programs in it may use; `None` for all that its run allows.
    pub tool_allowlist: Option<Vec<String>>,
    /// vsock context id, where the driver uses one; unique among live sandboxes.
    pub vsock_cid: Option<i64>,
    /// Whether a run (not a person) holds it; such a sandbox ends with its run.
    pub for_run: bool,
    /// Health checks that failed one after the other.
    pub failures: u32,
    /// Why it is unhealthy or being destroyed.
    pub reason: Option<String>,
    /// When its record was made.
    pub created_at: Timestamp,
    /// When it was claimed.
    pub claimed_at: Option<Timestamp>,
    /// When it was last found healthy.
    pub checked_at: Option<Timestamp>,
    /// When its holder last used it, to within some seconds.
    pub used_at: Option<Timestamp>,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl Sandbox {
    /// Moves to `next` through the table.
    pub fn transition(&mut self, next: SandboxStatus) -> Result<(), IllegalTransition> {
        self.status = self.status.to(next)?;
        Ok(())
    }
}

impl Pool {
    /// A new pool: 2 warm of at most 16, 2 starts at once, 60 starts a minute after a burst of 20.
    pub fn new(name: impl Into<String>, template: SandboxTemplate) -> Self {
        Self {
            name: name.into(),
            template,
            target: 2,
            max: 16,
            start_concurrency: 2,
            refill_per_minute: 60,
            refill_burst: 20,
            failures: 0,
            last_error: None,
            retry_at: None,
            version: 0,
        }
    }

    /// What its sandboxes have to offer, given what the driver says of itself.
    pub fn offer(&self, isolation: crate::Isolation, arch: &str, kernels: &[KernelOffer]) -> Offer {
        let t = &self.template;
        let mut kernels = kernels.to_vec();
        if let Some(named) = &t.kernel {
            kernels.retain(|kernel| kernel.is(named));
            if kernels.is_empty() {
                kernels.push(KernelOffer {
                    name: named.clone(),
                    version: None,
                });
            }
        }
        if t.kernel.is_some() || t.snapshot.is_some() {
            // It is a part of what was asked for, or of the state that they go on from.
            kernels.truncate(1);
        }
        Offer {
            pool: self.name.clone(),
            driver: t.driver,
            image: t.image.clone(),
            arch: arch.to_owned(),
            isolation,
            cpus: t.cpus,
            memory_mb: t.memory_mb,
            disk_mb: t.disk_mb,
            network: t.network,
            labels: t.labels.clone(),
            devices: t.devices.clone(),
            kernels,
        }
    }

    /// The wait after the given number of failed starts: 1 s doubling to 5 min.
    pub fn retry_delay(failures: u32) -> Duration {
        Duration::from_secs(1u64 << failures.saturating_sub(1).min(9)).min(Duration::from_secs(300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_end_and_nothing_leaves_the_end() {
        for from in SandboxStatus::ALL {
            let mut reached = vec![*from];
            for i in 0.. {
                let Some(state) = reached.get(i).copied() else {
                    break;
                };
                for next in state.successors() {
                    if !reached.contains(next) {
                        reached.push(*next);
                    }
                }
            }
            assert!(reached.contains(&SandboxStatus::Destroyed), "{from} cannot end");
        }
        assert!(SandboxStatus::Destroyed.successors().is_empty());
    }

    #[test]
    fn an_illegal_transition_names_both_states() {
        let error = SandboxStatus::Destroyed.to(SandboxStatus::Running).unwrap_err();
        assert_eq!(error.to_string(), "a sandbox cannot go from destroyed to running");
    }
}
