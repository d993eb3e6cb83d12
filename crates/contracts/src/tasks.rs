//! Tasks and subtasks.

use crate::Time;
use ostler_domain::{
    BlockedReason, MergeRequestId, ProjectId, RunId, Subtask, SubtaskId, SubtaskStatus, Task, TaskId,
    TaskStatus,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Creates a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTask {
    /// Title, 1 to 200 characters.
    pub title: String,
    /// What is wanted, in words; at most 256 KiB.
    #[serde(default)]
    pub description: String,
    /// Agent kind; the server's default when absent.
    #[serde(default)]
    pub agent_kind: Option<String>,
    /// Start ready subtasks and merge checked merge requests without being asked.
    #[serde(default)]
    pub auto: bool,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Id.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// Project.
    #[schema(value_type = String)]
    pub project_id: ProjectId,
    /// Title.
    pub title: String,
    /// What is wanted.
    pub description: String,
    /// Agent kind.
    pub agent_kind: String,
    /// Whether it goes on by itself.
    pub auto: bool,
    /// planning, planning_failed, active or done.
    #[schema(value_type = String)]
    pub status: TaskStatus,
    /// The epic in the issue graph.
    pub epic: Option<String>,
    /// What the planner found out.
    pub spec: String,
    /// How the planner means to do it.
    pub plan: String,
    /// Planning attempts since the last retry.
    pub attempts: u32,
    /// The run of the present or last planning attempt.
    #[schema(value_type = Option<String>)]
    pub run_id: Option<RunId>,
    /// What last went wrong.
    pub error: Option<String>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Time,
}

impl From<Task> for TaskView {
    fn from(t: Task) -> Self {
        Self {
            id: t.id,
            project_id: t.project_id,
            title: t.title,
            description: t.description,
            agent_kind: t.agent_kind,
            auto: t.auto,
            status: t.status,
            epic: t.epic,
            spec: t.spec,
            plan: t.plan,
            attempts: t.attempts,
            run_id: t.run_id,
            error: t.error,
            created_at: t.created_at.into(),
            updated_at: t.updated_at.into(),
        }
    }
}

/// A subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubtaskView {
    /// Id.
    #[schema(value_type = String)]
    pub id: SubtaskId,
    /// Task.
    #[schema(value_type = String)]
    pub task_id: TaskId,
    /// Project.
    #[schema(value_type = String)]
    pub project_id: ProjectId,
    /// Its issue in the graph.
    pub issue_id: String,
    /// Number within the project.
    pub number: i64,
    /// Title.
    pub title: String,
    /// What is to be done.
    pub spec: String,
    /// How.
    pub plan: String,
    /// Position on the board.
    pub position: i64,
    /// pending, ready, blocked, in_progress, completed or merged.
    #[schema(value_type = String)]
    pub status: SubtaskStatus,
    /// dependency or failure, when it is blocked.
    #[schema(value_type = Option<String>)]
    pub blocked_reason: Option<BlockedReason>,
    /// Subtasks that must be merged first.
    #[schema(value_type = Vec<String>)]
    pub depends_on: Vec<SubtaskId>,
    /// Its branch.
    pub branch: String,
    /// Attempts since the last retry.
    pub attempts: u32,
    /// The run of the present or last attempt, or of its checks.
    #[schema(value_type = Option<String>)]
    pub run_id: Option<RunId>,
    /// What last went wrong.
    pub error: Option<String>,
    /// Its merge request.
    #[schema(value_type = Option<String>)]
    pub merge_request_id: Option<MergeRequestId>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Time,
}

impl From<Subtask> for SubtaskView {
    fn from(s: Subtask) -> Self {
        Self {
            id: s.id,
            task_id: s.task_id,
            project_id: s.project_id,
            issue_id: s.issue_id,
            number: s.number,
            title: s.title,
            spec: s.spec,
            plan: s.plan,
            position: s.position,
            status: s.status,
            blocked_reason: s.blocked_reason,
            depends_on: s.depends_on,
            branch: s.branch,
            attempts: s.attempts,
            run_id: s.run_id,
            error: s.error,
            merge_request_id: s.merge_request_id,
            created_at: s.created_at.into(),
            updated_at: s.updated_at.into(),
        }
    }
}

/// Moves a subtask on the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPosition {
    /// The new position, ascending.
    pub position: i64,
}
