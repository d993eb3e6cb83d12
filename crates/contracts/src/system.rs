//! The server itself.

use crate::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Whether the server can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` when a part below is not.
    pub status: String,
    /// Version of the server.
    pub version: String,
    /// Seconds since it was ready.
    pub uptime_seconds: u64,
    /// Whether the database answers.
    pub database: bool,
    /// Whether new runs are started; false while the server shuts down.
    pub accepting_runs: bool,
    /// Runs by state; only for callers with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<BTreeMap<String, i64>>,
    /// The queue and what executes it; only for callers with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<OrchestratorHealth>,
}

/// The queue and what executes it. Runs are those of the caller's tenant, of all tenants for operators; exact at the moment
/// of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct OrchestratorHealth {
    /// Runs that wait.
    pub queued: i64,
    /// Runs that are being executed.
    pub active: i64,
    /// Runs that ended, in whatever way.
    pub completed: i64,
    /// Of these, the ones that failed, timed out or were lost.
    pub failed: i64,
    /// Plans of tests that have not ended.
    pub plans: i64,
    /// Environments by state; only for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environments: Option<BTreeMap<String, i64>>,
}

/// An agent kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KindView {
    /// Name, as `--agent` takes it.
    pub name: String,
    /// For people.
    pub title: String,
    /// The file in a repository that it reads instructions from.
    pub instruction_file: String,
    /// How to install it.
    pub install: String,
    /// Whether it is the server's default.
    pub default: bool,
}

/// How a reconciler is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReconcilerView {
    /// Name.
    pub name: String,
    /// When it last ended a round.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_run: Option<Time>,
    /// How long that took, milliseconds.
    pub duration_ms: u64,
    /// What it did, or found to do.
    pub summary: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Rounds since the start of the server.
    pub rounds: u64,
}
