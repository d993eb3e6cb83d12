//! Sandboxes in their two views, and pools.

use crate::Time;
use ostler_domain::{
    DepartmentId, DriverKind, Host, PausedBy, Pool, Requirements, Sandbox, SandboxId, SandboxStatus,
    SandboxTemplate, TenantId, UsageSample,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// Provisions a sandbox for the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionAgent {
    /// Department.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub department_id: Option<DepartmentId>,
    /// Pool by name; chosen by the requirements when absent.
    #[serde(default)]
    pub pool: Option<String>,
    /// What it must offer.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub requirements: Requirements,
    /// Configuration of the holder; its `env` object becomes environment.
    #[serde(default)]
    pub config: serde_json::Value,
    /// Commands of `bd` and `orchestrator` that programs in it may use.
    #[serde(default)]
    pub tool_allowlist: Option<Vec<String>>,
}

/// Changes the configuration of a sandbox that the tenant holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigureAgent {
    /// New configuration; unchanged when absent.
    #[serde(default)]
    pub config: Option<serde_json::Value>,
    /// New list; unchanged when absent. The single entry `all` allows all of them again.
    #[serde(default)]
    pub tool_allowlist: Option<Vec<String>>,
}

/// Executes a program in a sandbox that the tenant holds. The answer is a stream of server-sent events: `output` with a
/// [`crate::LogLine`] each, numbered from 1, and at last one `exit` with an [`ExecEnd`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecAgent {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment, over that of the agent's configuration.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// What the program reads.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Seconds until it is ended by force; 60 when absent, at most 3600.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Output as the exact bytes in base 64 instead of text.
    #[serde(default)]
    pub base64: bool,
    /// Seconds for which it goes on when nobody reads its output, so that somebody can read on; 0 when absent, at most
    /// 3600.
    #[serde(default)]
    pub grace_seconds: u64,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ExecEnd {
    /// Exit code, when it ended by itself.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Whether its time-out ended it.
    pub timed_out: bool,
    /// Why it could not be started, or why its end is not known.
    pub error: Option<String>,
}

/// What an upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadedFile {
    /// Size of the file, bytes.
    pub bytes: u64,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// Id.
    #[schema(value_type = String)]
    pub id: SandboxId,
    /// Holder.
    #[schema(value_type = Option<String>)]
    pub tenant_id: Option<TenantId>,
    /// Department.
    #[schema(value_type = Option<String>)]
    pub department_id: Option<DepartmentId>,
    /// Pool.
    pub pool: String,
    /// Driver.
    #[schema(value_type = String)]
    pub driver: DriverKind,
    /// The driver's own id for it.
    pub driver_ref: Option<String>,
    /// The host of the driver on which it runs.
    pub host: String,
    /// Why it is frozen: `holder` or `idle`; absent when it is not.
    #[schema(value_type = Option<String>)]
    pub paused: Option<PausedBy>,
    /// warm, provisioning, running, unhealthy, destroying or destroyed.
    #[schema(value_type = String)]
    pub status: SandboxStatus,
    /// The holder's configuration.
    pub config: serde_json::Value,
    /// Commands that programs in it may use.
    pub tool_allowlist: Option<Vec<String>>,
    /// Whether a run holds it.
    pub for_run: bool,
    /// Failed health checks in a row.
    pub failures: u32,
    /// Why it is unhealthy or being destroyed.
    pub reason: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it was claimed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub claimed_at: Option<Time>,
    /// When it was last found healthy.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<Time>,
    /// When its holder last used it, to within some seconds.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Time>,
}

impl From<Sandbox> for SandboxView {
    fn from(s: Sandbox) -> Self {
        Self {
            id: s.id,
            tenant_id: s.tenant_id,
            department_id: s.department_id,
            pool: s.pool,
            driver: s.driver,
            driver_ref: s.driver_ref,
            host: s.host,
            paused: s.paused,
            status: s.status,
            config: s.config,
            tool_allowlist: s.tool_allowlist,
            for_run: s.for_run,
            failures: s.failures,
            reason: s.reason,
            created_at: s.created_at.into(),
            claimed_at: s.claimed_at.map(Into::into),
            checked_at: s.checked_at.map(Into::into),
            used_at: s.used_at.map(Into::into),
        }
    }
}

/// The answer to a provisioning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionReply {
    /// The sandbox.
    #[serde(flatten)]
    pub agent: SandboxView,
    /// Whether it was warm.
    pub warm: bool,
    /// Why it was not.
    pub cold_reason: Option<String>,
    /// What was done, in order.
    #[serde(default)]
    pub phases: Vec<ClaimPhase>,
    /// Milliseconds from the request to a usable sandbox.
    pub ready_ms: u64,
}

/// A part of what was done to get a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClaimPhase {
    /// `claim` (a warm one from the store), `check` (does it answer), `place` (on which host), `start` (by its driver)
    /// or `restore` (from a snapshot), `ready` (its guest answers), `renew` (what it must not share with other copies).
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// A pool and how it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Name.
    pub name: String,
    /// What its sandboxes are started from.
    #[schema(value_type = Object)]
    pub template: SandboxTemplate,
    /// Warm sandboxes to keep.
    pub target: u32,
    /// Most sandboxes at once.
    pub max: u32,
    /// Most starts of warm sandboxes at once, on one server.
    pub start_concurrency: u32,
    /// Starts of warm sandboxes per minute over time, on one server.
    pub refill_per_minute: u32,
    /// Starts of warm sandboxes that may follow each other without a wait.
    pub refill_burst: u32,
    /// Warm now.
    pub warm: u32,
    /// Starting now.
    pub provisioning: u32,
    /// Held now.
    pub held: u32,
    /// Failed starts in a row.
    pub failures: u32,
    /// The last failure.
    pub last_error: Option<String>,
    /// No warm start is tried before this.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<Time>,
    /// Why the server that was asked cannot start its sandboxes at all; absent when it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

impl PoolView {
    /// From the pool and counts of its live sandboxes; available.
    pub fn new(pool: Pool, warm: u32, provisioning: u32, held: u32) -> Self {
        Self {
            name: pool.name,
            template: pool.template,
            target: pool.target,
            max: pool.max,
            start_concurrency: pool.start_concurrency,
            refill_per_minute: pool.refill_per_minute,
            refill_burst: pool.refill_burst,
            warm,
            provisioning,
            held,
            failures: pool.failures,
            last_error: pool.last_error,
            retry_at: pool.retry_at.map(Into::into),
            unavailable: None,
        }
    }
}

/// Makes a pool or changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPool {
    /// What its sandboxes are started from; unchanged when absent, needed for a new pool.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub template: Option<SandboxTemplate>,
    /// What the workers in its sandboxes are: variables and mounts that are added to the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<SetWorker>,
    /// Warm sandboxes to keep; 2 for a new pool.
    #[serde(default)]
    pub target: Option<u32>,
    /// Most sandboxes at once; 16 for a new pool.
    #[serde(default)]
    pub max: Option<u32>,
    /// Most starts of warm sandboxes at once, on one server; 2 for a new pool.
    #[serde(default)]
    pub start_concurrency: Option<u32>,
    /// Starts of warm sandboxes per minute over time, on one server; 60 for a new pool.
    #[serde(default)]
    pub refill_per_minute: Option<u32>,
    /// Starts of warm sandboxes that may follow each other without a wait; 20 for a new pool.
    #[serde(default)]
    pub refill_burst: Option<u32>,
}

/// How the agents of workers sign in at their model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignIn {
    /// As the user of the server's host who has signed in there.
    HostSession,
    /// By a key that the server has, which its gateway adds.
    ApiKey,
    /// By a gateway that needs no key of the server.
    Gateway,
}

/// What the workers in a pool's sandboxes are. It is turned into variables and mounts of the pool's template when the pool
/// is set, as far as the server's settings allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWorker {
    /// The kind of their agent, such as `claude`.
    pub agent_kind: String,
    /// Their type, such as `planner`.
    pub worker_type: String,
    /// How the agent signs in.
    pub auth: SignIn,
    /// The server's address as seen in the sandbox, without a password.
    pub server: String,
    /// The address of the gateway to the model as seen in the sandbox; needed unless the agent signs in as the host's user.
    #[serde(default)]
    pub gateway: Option<String>,
    /// What they need, such as `GIT`; `DOCKER` is the engine of the host, and with it everything there.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
    /// The home directory of their programs in the sandbox.
    pub home: String,
}

/// How a pool is doing and what stands in its way, on the server that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolExplanation {
    /// Name.
    pub pool: String,
    /// In a sentence.
    pub summary: String,
    /// Warm sandboxes to keep.
    pub target: u32,
    /// Most sandboxes at once.
    pub max: u32,
    /// Warm now.
    pub warm: u32,
    /// Starting now.
    pub starting: u32,
    /// Held now.
    pub held: u32,
    /// Starts that may follow each other now without a wait.
    pub tokens: u32,
    /// What keeps it from being filled.
    pub reasons: Vec<String>,
    /// The hosts of its driver.
    pub hosts: Vec<HostVerdict>,
}

/// A host, and what stands in the way of starting a pool's sandboxes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostVerdict {
    /// Name.
    pub host: String,
    /// Sandboxes there.
    pub sandboxes: u32,
    /// Empty when nothing does.
    pub reasons: Vec<String>,
}

/// A host of one of the server's drivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Driver.
    #[schema(value_type = String)]
    pub driver: DriverKind,
    /// Name.
    pub name: String,
    /// Sandboxes there.
    pub sandboxes: u32,
    /// Whether nothing is started there until an operator says so.
    pub draining: bool,
    /// Failures in a row.
    pub failures: u32,
    /// The last of them.
    pub last_error: Option<String>,
    /// Nothing is started there before this.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub quarantined_until: Option<Time>,
    /// Why it cannot be used: it was away when the server started, and is used as soon as it is there.
    pub away: Option<String>,
}

impl HostView {
    /// From the record, the number of its sandboxes, and why it is away.
    pub fn new(host: Host, sandboxes: u32, away: Option<String>) -> Self {
        Self {
            driver: host.driver,
            name: host.name,
            sandboxes,
            draining: host.draining,
            failures: host.failures,
            last_error: host.last_error,
            quarantined_until: host.quarantined_until.map(Into::into),
            away,
        }
    }
}

/// Drains a host, or undoes that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainHost {
    /// Whether nothing is to be started there.
    pub draining: bool,
}

/// Ends a sandbox as the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainSandbox {
    /// Also when somebody holds it.
    #[serde(default)]
    pub force: bool,
}

/// What a sandbox had used at a moment; counts are since its start, and absent where nobody counts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxUsage {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
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

impl From<UsageSample> for SandboxUsage {
    fn from(sample: UsageSample) -> Self {
        Self {
            at: sample.at.into(),
            cpu_us: sample.cpu_us,
            memory_bytes: sample.memory_bytes,
            read_bytes: sample.read_bytes,
            written_bytes: sample.written_bytes,
            received_bytes: sample.received_bytes,
            sent_bytes: sample.sent_bytes,
            processes: sample.processes,
        }
    }
}
