//! Runs.

use crate::Time;
use ostler_domain::{
    PlanId, ProjectId, Requirements, Run, RunId, RunKind, RunSpec, RunStatus, SandboxId, SubtaskId, TaskId,
    Usage,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Submits a command as a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRun {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory in the sandbox.
    #[serde(default)]
    pub cwd: Option<String>,
    /// What the program reads on its standard input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// What it needs from its sandbox.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub requirements: Requirements,
    /// Higher goes first; −1000 to 1000.
    #[serde(default)]
    pub priority: i32,
    /// Seconds until it is ended by force; the server's default when absent.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Id.
    #[schema(value_type = String)]
    pub id: RunId,
    /// command, planner, worker, check or test.
    #[schema(value_type = String)]
    pub kind: RunKind,
    /// queued, running, succeeded, failed, timed_out, cancelled, lost or skipped.
    #[schema(value_type = String)]
    pub status: RunStatus,
    /// Project it belongs to.
    #[schema(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// Task it belongs to.
    #[schema(value_type = Option<String>)]
    pub task_id: Option<TaskId>,
    /// Subtask it belongs to.
    #[schema(value_type = Option<String>)]
    pub subtask_id: Option<SubtaskId>,
    /// Plan of tests that it belongs to.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub plan_id: Option<PlanId>,
    /// Name of the test, for tests.
    #[serde(default)]
    pub test: Option<String>,
    /// Number of the attempt at that task, subtask or test.
    pub ordinal: u32,
    /// How often it was started; more than once only when a sandbox or server went away.
    pub attempt: u32,
    /// Priority.
    pub priority: i32,
    /// What it needs.
    #[schema(value_type = Object)]
    pub requirements: Requirements,
    /// Programs, one after the other.
    pub commands: Vec<Vec<String>>,
    /// Agent kind, for runs of agents.
    pub agent_kind: Option<String>,
    /// The prompt that the agent was given.
    pub prompt: Option<String>,
    /// Time-out in seconds.
    pub timeout_seconds: Option<u64>,
    /// Whether its end was requested.
    pub cancel_requested: bool,
    /// The sandbox that executes or executed it.
    #[schema(value_type = Option<String>)]
    pub sandbox_id: Option<SandboxId>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// The result block or the agent's last word.
    pub result: Option<serde_json::Value>,
    /// Model usage.
    pub usage: UsageView,
    /// The agent program's session id.
    pub agent_session: Option<String>,
    /// Commit that its branch stood at afterwards.
    pub head: Option<String>,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it was last started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Time>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Time>,
}

/// Tokens and money of model calls.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Tokens read that were not in a cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from a cache.
    pub cache_read_tokens: u64,
    /// Tokens written into a cache.
    pub cache_write_tokens: u64,
    /// US dollars.
    pub cost_usd: f64,
}

impl From<Usage> for UsageView {
    fn from(u: Usage) -> Self {
        Self {
            input_tokens: u.input_tokens,
            output_tokens: u.output_tokens,
            cache_read_tokens: u.cache_read_tokens,
            cache_write_tokens: u.cache_write_tokens,
            cost_usd: u.cost_usd,
        }
    }
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        let s = run.submitted;
        let RunSpec {
            commands,
            agent,
            timeout,
            test,
            ..
        } = s.spec;
        let o = run.outcome;
        Self {
            id: s.id,
            kind: s.kind,
            status: run.status,
            project_id: s.project_id,
            task_id: s.task_id,
            subtask_id: s.subtask_id,
            plan_id: s.plan_id,
            test: test.map(|test| test.name),
            ordinal: s.ordinal,
            attempt: run.attempt,
            priority: s.priority,
            requirements: s.requirements,
            commands: commands.into_iter().map(|c| c.argv).collect(),
            agent_kind: agent.as_ref().map(|a| a.kind.clone()),
            prompt: agent.map(|a| a.prompt),
            timeout_seconds: timeout.map(|t| t.as_secs()),
            cancel_requested: run.cancel_requested,
            sandbox_id: run.sandbox_id,
            exit_code: o.exit_code,
            signal: o.signal,
            error: o.error,
            result: o.result,
            usage: o.usage.into(),
            agent_session: o.agent_session,
            head: o.head,
            created_at: s.created_at.into(),
            started_at: run.started_at.map(Into::into),
            finished_at: run.finished_at.map(Into::into),
        }
    }
}

/// A piece of a run's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Number, from 1, without gaps.
    pub seq: u64,
    /// When it was written, by the sandbox's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// stdout, stderr, or ostler for what Ostler itself says.
    pub stream: String,
    /// The text; bytes that are not UTF-8 are replaced, unless `base64` is set.
    pub text: String,
    /// Whether `text` is base 64 of the exact bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base64: bool,
}

/// Why a run is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunExplanation {
    /// State.
    #[schema(value_type = String)]
    pub status: RunStatus,
    /// In one sentence.
    pub summary: String,
    /// Waiting runs of the same requirements that go first.
    pub ahead: Option<u64>,
    /// Pool by pool: what it lacks, or that it is busy.
    pub pools: Vec<PoolVerdict>,
}

/// What one pool has to say to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolVerdict {
    /// Pool.
    pub pool: String,
    /// Whether it satisfies every requirement.
    pub suitable: bool,
    /// In what it falls short, or what it is busy with.
    pub reasons: Vec<String>,
}

/// What a request to end a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelReply {
    /// `cancelled`, `requested` or `too_late`.
    pub outcome: String,
}
