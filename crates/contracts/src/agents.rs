//! Sandboxes in their two views, and pools.

use crate::Time;
use ostler_domain::{
    DepartmentId, DriverKind, Pool, Requirements, Sandbox, SandboxId, SandboxStatus, SandboxTemplate,
    TenantId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// New list; unchanged when absent.
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
            status: s.status,
            config: s.config,
            tool_allowlist: s.tool_allowlist,
            for_run: s.for_run,
            failures: s.failures,
            reason: s.reason,
            created_at: s.created_at.into(),
            claimed_at: s.claimed_at.map(Into::into),
            checked_at: s.checked_at.map(Into::into),
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
    /// Milliseconds from the request to a usable sandbox.
    pub ready_ms: u64,
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
    /// Warm sandboxes to keep; 2 for a new pool.
    #[serde(default)]
    pub target: Option<u32>,
    /// Most sandboxes at once; 16 for a new pool.
    #[serde(default)]
    pub max: Option<u32>,
}
