//! Which rows there are: one declaration per table.

use crate::{Column, ColumnType, StoreError, Value, corrupt, json_from_value, json_to_value};
use ostler_domain as d;

/// What a backend must know of a table to read and write its rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Name.
    pub name: &'static str,
    /// Columns in the order of a row's values.
    pub columns: &'static [(&'static str, ColumnType)],
    /// The columns of the primary key.
    pub key: &'static [&'static str],
    /// Whether rows carry a `version` that guards updates.
    pub versioned: bool,
}

impl Table {
    /// Position of a column.
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|(name, _)| *name == column)
    }
}

/// A type whose values are rows of a table.
pub trait Record: Sized + Send + 'static {
    /// The table.
    const TABLE: &'static Table;
    /// The values in the order of the table's columns.
    fn to_values(&self) -> Vec<Value>;
    /// A row as it was read.
    fn from_values(values: Vec<Value>) -> Result<Self, StoreError>;
    /// The version that was read, for versioned tables; 0 otherwise.
    fn version(&self) -> i64;
}

macro_rules! column_of {
    ($type:ty, json, $field:ident) => {
        (stringify!($field), ColumnType::Text)
    };
    ($type:ty, plain, $field:ident) => {
        (stringify!($field), type_of(|r: &$type| &r.$field))
    };
}

/// The column type of a field, from an accessor that names it.
const fn type_of<R, T: Column>(_: fn(&R) -> &T) -> ColumnType {
    T::TYPE
}

macro_rules! write_field {
    ($record:ident, json, $field:ident) => {
        json_to_value(&$record.$field)
    };
    ($record:ident, plain, $field:ident) => {
        Column::to_value(&$record.$field)
    };
}

macro_rules! read_field {
    ($values:ident, $table:literal, json, $field:ident) => {
        json_from_value($values.next().unwrap_or(Value::Null))
            .map_err(|m| corrupt($table, stringify!($field), m))?
    };
    ($values:ident, $table:literal, plain, $field:ident) => {
        Column::from_value($values.next().unwrap_or(Value::Null))
            .map_err(|m| corrupt($table, stringify!($field), m))?
    };
}

macro_rules! version_of {
    ($record:ident, versioned) => {
        $record.version
    };
    ($record:ident, fixed) => {
        0
    };
}

macro_rules! is_versioned {
    (versioned) => {
        true
    };
    (fixed) => {
        false
    };
}

/// Declares a table: the type, its name, whether it is versioned, its key, its fields (`json` for nested values).
macro_rules! record {
    ($type:ty, $table:literal, $versioned:ident, key($($key:ident),+), { $($how:ident $field:ident,)+ }) => {
        impl Record for $type {
            const TABLE: &'static Table = &Table {
                name: $table,
                columns: &[$(column_of!($type, $how, $field),)+],
                key: &[$(stringify!($key),)+],
                versioned: is_versioned!($versioned),
            };

            fn to_values(&self) -> Vec<Value> {
                vec![$(write_field!(self, $how, $field),)+]
            }

            fn from_values(values: Vec<Value>) -> Result<Self, StoreError> {
                let mut values = values.into_iter();
                Ok(Self { $($field: read_field!(values, $table, $how, $field),)+ })
            }

            fn version(&self) -> i64 {
                version_of!(self, $versioned)
            }
        }
    };
}

record!(d::Tenant, "tenants", versioned, key(id), { plain id, plain name, plain created_at, plain version, });

record!(d::Department, "departments", versioned, key(id), {
    plain id, plain tenant_id, plain name, plain created_at, plain version,
});

record!(d::User, "users", versioned, key(id), {
    plain id, plain tenant_id, plain name, plain email, plain department_id, plain disabled_at, plain created_at,
    plain version,
});

record!(d::Role, "roles", versioned, key(id), {
    plain id, plain tenant_id, plain name, json permissions, plain created_at, plain version,
});

record!(d::RoleAssignment, "role_assignments", fixed, key(user_id, role_id), {
    plain user_id, plain role_id, plain tenant_id,
});

record!(d::Credential, "credentials", versioned, key(id), {
    plain id, plain tenant_id, plain kind, plain name, plain ciphertext, plain nonce, plain key_id, plain created_at,
    plain updated_at, plain version,
});

/// A known text sealed with the key of the credentials, by which a server finds out at its start whether it has that key.
/// There is at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialCheck {
    /// Always [`CredentialCheck::ID`].
    pub id: i64,
    /// The key that credentials are sealed with.
    pub key_id: String,
    /// Ciphertext with its tag, in base 64.
    pub ciphertext: String,
    /// Its nonce, in base 64.
    pub nonce: String,
    /// Version for optimistic concurrency: whoever seals a credential guards that the key is still this one.
    pub version: i64,
}

impl CredentialCheck {
    /// The id of the one row.
    pub const ID: i64 = 1;
}

record!(CredentialCheck, "credential_checks", versioned, key(id), {
    plain id, plain key_id, plain ciphertext, plain nonce, plain version,
});

record!(d::AuditEntry, "audit_log", fixed, key(id), {
    plain id, plain at, plain tenant_id, plain actor, plain token_id, plain action, plain kind, plain object,
    plain request_id, json details,
});

record!(d::ApiToken, "api_tokens", versioned, key(id), {
    plain id, plain tenant_id, plain user_id, plain name, plain prefix, plain hash, json permissions, plain created_at,
    plain expires_at, plain last_used_at, plain revoked_at, plain version,
});

record!(d::Project, "projects", versioned, key(id), {
    plain id, plain tenant_id, plain name, plain source, plain default_branch, plain next_subtask,
    plain next_merge_request, plain created_at, plain version,
});

record!(d::Task, "tasks", versioned, key(id), {
    plain id, plain tenant_id, plain project_id, plain title, plain description, plain agent_kind, plain auto,
    plain status, plain epic, plain spec, plain plan, plain attempts, plain run_id, plain error, plain created_at,
    plain updated_at, plain version,
});

record!(d::Subtask, "subtasks", versioned, key(id), {
    plain id, plain tenant_id, plain project_id, plain task_id, plain issue_id, plain number, plain title, plain spec,
    plain plan, plain position, plain status, plain blocked_reason, json depends_on, plain branch, plain attempts,
    plain run_id, plain feedback, plain error, plain merge_request_id, plain worktree_expires_at, plain created_at,
    plain updated_at, plain version,
});

record!(d::MergeRequest, "merge_requests", versioned, key(id), {
    plain id, plain tenant_id, plain project_id, plain number, plain task_id, plain subtask_id, plain title,
    plain body, plain source_branch, plain target_branch, plain head, plain merge_commit, plain status,
    plain created_at, plain closed_at, plain version,
});

record!(d::Issue, "issues", versioned, key(project_id, id), {
    plain id, plain tenant_id, plain project_id, plain task_id, plain issue_type, plain title, plain description,
    plain design, plain acceptance_criteria, plain notes, plain status, plain priority, plain assignee, json labels,
    json dependencies, json comments, plain close_reason, plain created_at, plain updated_at, plain closed_at,
    plain version,
});

record!(d::Pool, "pools", versioned, key(name), {
    plain name, json template, plain target, plain max, plain start_concurrency, plain refill_per_minute,
    plain refill_burst, plain failures, plain last_error, plain retry_at, plain version,
});

record!(d::Host, "hosts", versioned, key(id), {
    plain id, plain server_id, plain driver, plain name, plain failures, plain last_error, plain quarantined_until,
    plain draining, plain version,
});

record!(d::UsageSample, "sandbox_usage", fixed, key(sandbox_id, at), {
    plain sandbox_id, plain at, plain tenant_id, plain cpu_us, plain memory_bytes, plain read_bytes, plain written_bytes,
    plain received_bytes, plain sent_bytes, plain processes,
});

record!(d::Sandbox, "sandboxes", versioned, key(id), {
    plain id, plain tenant_id, plain department_id, plain pool, plain driver, plain driver_ref, plain server_id,
    plain host, plain status, plain paused, json template, json config, json tool_allowlist, plain vsock_cid, plain for_run, plain failures,
    plain reason, plain created_at, plain claimed_at, plain checked_at, plain used_at, plain version,
});

/// What the rounds over all sandboxes need of each: a part of its row, only to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxBrief {
    /// Id.
    pub id: d::SandboxId,
    /// Holder.
    pub tenant_id: Option<d::TenantId>,
    /// Driver.
    pub driver: d::DriverKind,
    /// Host of the driver.
    pub host: String,
    /// Server whose driver runs it.
    pub server_id: d::ServerId,
    /// State.
    pub status: d::SandboxStatus,
    /// Whether it is frozen, and why.
    pub paused: Option<d::PausedBy>,
    /// Failed health checks in a row.
    pub failures: u32,
}

record!(SandboxBrief, "sandboxes", fixed, key(id), {
    plain id, plain tenant_id, plain driver, plain host, plain server_id, plain status, plain paused, plain failures,
});

/// Whether a sandbox was given what may be secret: a part of its row that no change of the rest touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSecrets {
    /// Id.
    pub id: d::SandboxId,
    /// When it last was; `None` if it never was.
    pub secrets_at: Option<d::Timestamp>,
}

record!(SandboxSecrets, "sandboxes", fixed, key(id), {
    plain id, plain secrets_at,
});

/// A conversation of an agent that a later attempt can take up again.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSession {
    /// The subject whose worker it is: the text of a task or subtask id.
    pub subject: String,
    /// Owner.
    pub tenant_id: d::TenantId,
    /// The agent program's own id for it.
    pub agent_session: String,
    /// Totals that the agent program reported for the session so far, to make deltas from.
    pub totals: d::Usage,
    /// From when on it is not resumed; moved at each use.
    pub expires_at: d::Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

record!(AgentSession, "agent_sessions", versioned, key(subject), {
    plain subject, plain tenant_id, plain agent_session, json totals, plain expires_at, plain version,
});

/// What a command inside a sandbox was answered after it changed something, kept until its run ends: the same call again,
/// after a broken connection or a restart of the server, gets the same answer and is not carried out twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReply {
    /// The run's id and the request's own, joined by a colon.
    pub id: String,
    /// Owner.
    pub tenant_id: d::TenantId,
    /// The run whose sandbox called.
    pub run_id: d::RunId,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
    /// When it was answered.
    pub created_at: d::Timestamp,
}

record!(KeptReply, "kept_replies", fixed, key(id), {
    plain id, plain tenant_id, plain run_id, plain stdout, plain stderr, plain code, plain created_at,
});

record!(d::TestPlan, "plans", versioned, key(id), {
    plain id, plain tenant_id, plain name, plain project_id, plain branch, plain fail_fast, plain max_parallel,
    json labels, plain tests, plain ordered, plain cancel_requested, plain created_by, plain created_at,
    plain finished_at, plain first_event, plain version,
});

record!(d::TestRecord, "test_results", fixed, key(run_id), {
    plain run_id, plain tenant_id, plain key, plain plan_id, plain plan, plain name, plain ordinal, plain status,
    plain tolerated, plain superseded, plain flaky, plain duration_us, plain cpu_us, plain peak_memory_bytes,
    plain revision, plain created_at,
});

record!(d::QuarantinedTest, "quarantined_tests", fixed, key(tenant_id, key), {
    plain tenant_id, plain key, plain plan, plain name, plain reason, plain created_by, plain created_at,
});

record!(d::Artifact, "artifacts", fixed, key(id), {
    plain id, plain tenant_id, plain run_id, plain plan_id, plain path, plain bytes, plain sha256, plain object,
    plain created_at, plain expires_at,
});

/// Every table of records, in an order in which each comes after those that it refers to.
///
/// References, checked at each change of a commit, and what goes with the row that is referred to:
///
/// - `departments`, `users`, `roles`, `credentials`, `api_tokens`, `agent_sessions`, `kept_replies`, `plans`,
///   `test_results` and `quarantined_tests` go with their tenant,
///   `role_assignments` and `api_tokens` with their user. A role that somebody has and a department that somebody is in
///   cannot be removed. A tenant with `projects`, `sandboxes` or `artifacts` cannot be removed
///   ([`StoreError::Reference`]), since what they stand for outside the database must be taken down first.
/// - `tasks`, `subtasks`, `merge_requests` and `issues` go with their project; `subtasks`, `merge_requests` and `issues`
///   with their task; `merge_requests` with their subtask.
/// - Everything else that holds an id (`run_id`, `plan_id`, `merge_request_id`, `pool`, `department_id`, runs, events) is free: it
///   may be written before its object is, and may outlive it.
///
/// `audit_log` refers to nothing, so that it outlives what it tells of; the engine itself refuses to change or delete its
/// rows.
///
/// Unique besides the keys: `tenants.name`, `departments`, `users`, `roles` and `credentials` `(tenant_id, name)`, `api_tokens.hash`, `projects (tenant_id, name)` and `(tenant_id, source)`,
/// `artifacts (run_id, path)`,
/// `subtasks (project_id, number)`, `merge_requests (project_id, number)`, and `sandboxes.vsock_cid` among those that
/// are not `destroyed`.
pub const TABLES: &[&Table] = &[
    d::Tenant::TABLE,
    d::Department::TABLE,
    d::User::TABLE,
    d::Role::TABLE,
    d::RoleAssignment::TABLE,
    d::Credential::TABLE,
    CredentialCheck::TABLE,
    d::AuditEntry::TABLE,
    d::ApiToken::TABLE,
    d::Project::TABLE,
    d::Task::TABLE,
    d::Subtask::TABLE,
    d::MergeRequest::TABLE,
    d::Issue::TABLE,
    d::Pool::TABLE,
    d::Sandbox::TABLE,
    d::Host::TABLE,
    d::UsageSample::TABLE,
    AgentSession::TABLE,
    KeptReply::TABLE,
    d::TestPlan::TABLE,
    d::TestRecord::TABLE,
    d::QuarantinedTest::TABLE,
    d::Artifact::TABLE,
];
