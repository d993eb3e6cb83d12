//! Runs: the one unit of execution.

use crate::state::text_enum;
use crate::{
    PlanId, ProjectId, Requirements, RunId, SandboxId, ServerId, SubtaskId, TaskId, TenantId, TestResult,
    TestSpec, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

text_enum! {
    /// Why something is executed.
    RunKind {
        /// A command that a person submitted.
        Command = "command",
        /// A planner's attempt at a task.
        Planner = "planner",
        /// A worker's attempt at a subtask.
        Worker = "worker",
        /// The project's checks on a subtask's branch.
        Check = "check",
        /// A test of a plan.
        Test = "test",
    }
}

text_enum! {
    /// The states of a run. The first two are live, the others are terminal.
    RunStatus {
        /// Waiting for its turn.
        Queued = "queued",
        /// Being executed.
        Running = "running",
        /// Its program ended with success.
        Succeeded = "succeeded",
        /// Its program ended without success.
        Failed = "failed",
        /// It was ended by its time-out.
        TimedOut = "timed_out",
        /// It was ended on request.
        Cancelled = "cancelled",
        /// Its sandbox or server went away too often, and nothing is known of its end.
        Lost = "lost",
        /// It was never started, since something that it needs did not succeed.
        Skipped = "skipped",
    }
}

impl RunStatus {
    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The states that this one may go to. The only place where that is said.
    pub const fn successors(self) -> &'static [Self] {
        use RunStatus::{Cancelled, Failed, Lost, Queued, Running, Skipped, Succeeded, TimedOut};
        match self {
            Queued => &[Running, Cancelled, Skipped],
            Running => &[Queued, Succeeded, Failed, TimedOut, Cancelled, Lost],
            _ => &[],
        }
    }
}

/// One program to execute in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment over that of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory in the sandbox; the workspace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What the program reads on its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
}

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Agent kind by name, such as `claude`.
    pub kind: String,
    /// The prompt as it was given.
    pub prompt: String,
    /// Session to resume, by the agent program's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// What is executed: the fixed part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunSpec {
    /// Programs, one after the other; the first that fails ends the run.
    /// Empty for an agent run, whose command its kind makes from `agent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<CommandSpec>,
    /// The agent, for planner and worker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSpec>,
    /// The branch whose files are the workspace; none for an empty workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceSpec>,
    /// Time from the start of the program to its forced end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// What makes it a test, for test runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Box<TestSpec>>,
}

/// The files that a run works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceSpec {
    /// The project.
    pub project_id: ProjectId,
    /// The branch that is checked out.
    pub branch: String,
    /// The commit that the branch stood at when the run was submitted, where that matters: checks say something about
    /// this commit and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Whether what the run commits comes back to that branch.
    pub write_back: bool,
}

/// A run to be put on the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRun {
    /// Id, made by the submitter, so that submitting twice is seen.
    pub id: RunId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Why.
    pub kind: RunKind,
    /// The project it belongs to, if any.
    pub project_id: Option<ProjectId>,
    /// The task it belongs to, if any.
    pub task_id: Option<TaskId>,
    /// The subtask it belongs to, if any.
    pub subtask_id: Option<SubtaskId>,
    /// The plan it is a test of, if any.
    pub plan_id: Option<PlanId>,
    /// Number of the attempt at that subject, from 1.
    pub ordinal: u32,
    /// What it needs.
    pub requirements: Requirements,
    /// Higher goes first.
    pub priority: i32,
    /// How often it may be started in all; more than once only when a sandbox or server went away.
    pub max_attempts: u32,
    /// Not to be started before this.
    pub not_before: Option<Timestamp>,
    /// Whether it waits until it is released, because of others that must end first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What is executed.
    pub spec: RunSpec,
    /// When it was submitted.
    pub created_at: Timestamp,
}

/// Tokens and money of model calls; always the part of this run only.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens read that were not in a cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from a cache.
    pub cache_read_tokens: u64,
    /// Tokens written into a cache.
    pub cache_write_tokens: u64,
    /// US dollars, as the agent or the price table says.
    pub cost_usd: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOutcome {
    /// Exit code of the program, if it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
    /// What went wrong, in a sentence for people.
    pub error: Option<String>,
    /// Model usage.
    pub usage: Usage,
    /// The agent's session, to resume it.
    pub agent_session: Option<String>,
    /// The result block (W14) or the agent's last word.
    pub result: Option<serde_json::Value>,
    /// Commit that the workspace's branch stood at afterwards.
    pub head: Option<String>,
    /// Largest sequence number in the log.
    pub log_seq: u64,
    /// What became known of it as a test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Box<TestResult>>,
}

/// A run as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What was submitted.
    #[serde(flatten)]
    pub submitted: NewRun,
    /// Position in the order of submission; unique, increasing.
    pub seq: i64,
    /// State.
    pub status: RunStatus,
    /// How often it was started: together with the id the fence for every write about it.
    pub attempt: u32,
    /// Whether its end was requested.
    pub cancel_requested: bool,
    /// The server that executes it.
    pub server_id: Option<ServerId>,
    /// The sandbox that executes it.
    pub sandbox_id: Option<SandboxId>,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: RunOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_have_no_successor_and_live_ones_do() {
        for status in RunStatus::ALL {
            assert_eq!(status.is_terminal(), status.successors().is_empty(), "{status}");
        }
    }
}
