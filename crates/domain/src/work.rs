//! Tasks and subtasks: states, and the rules by which they move.

use crate::state::text_enum;
use crate::{IllegalTransition, MergeRequestId, ProjectId, RunId, SubtaskId, TaskId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

text_enum! {
    /// The states of a task.
    TaskStatus {
        /// A planner is at work, or about to be.
        Planning = "planning",
        /// The planner gave up.
        PlanningFailed = "planning_failed",
        /// Its subtasks are being worked on.
        Active = "active",
        /// All its subtasks are merged.
        Done = "done",
    }
}

impl TaskStatus {
    /// The states that this one may go to. The only place where that is said.
    pub const fn successors(self) -> &'static [Self] {
        match self {
            Self::Planning => &[Self::PlanningFailed, Self::Active],
            Self::PlanningFailed => &[Self::Planning],
            Self::Active => &[Self::Done],
            Self::Done => &[],
        }
    }

    /// `next`, if the table has that transition.
    pub fn to(self, next: Self) -> Result<Self, IllegalTransition> {
        if self.successors().contains(&next) {
            return Ok(next);
        }
        Err(IllegalTransition {
            what: "task",
            from: self.as_str(),
            to: next.as_str(),
        })
    }
}

text_enum! {
    /// The states of a subtask.
    SubtaskStatus {
        /// Just made; its dependencies are not known yet.
        Pending = "pending",
        /// Could start now.
        Ready = "ready",
        /// Cannot start; the reason is beside it.
        Blocked = "blocked",
        /// An agent is at work, or its checks run.
        InProgress = "in_progress",
        /// Checked, with an open merge request.
        Completed = "completed",
        /// On the target branch.
        Merged = "merged",
    }
}

text_enum! {
    /// Why a subtask is blocked.
    BlockedReason {
        /// Something that it depends on is not merged.
        Dependency = "dependency",
        /// Its attempts are used up.
        Failure = "failure",
    }
}

impl SubtaskStatus {
    /// The states that this one may go to. The only place where that is said.
    pub const fn successors(self) -> &'static [Self] {
        use SubtaskStatus::{Blocked, Completed, InProgress, Merged, Pending, Ready};
        match self {
            Pending => &[Ready, Blocked],
            Ready => &[InProgress, Blocked],
            Blocked => &[Ready, InProgress],
            InProgress => &[Completed, Blocked, Ready],
            // A conflict sends a completed subtask back to a worker.
            Completed => &[Merged, InProgress],
            Merged => &[],
        }
    }

    /// `next`, if the table has that transition.
    pub fn to(self, next: Self) -> Result<Self, IllegalTransition> {
        if self.successors().contains(&next) {
            return Ok(next);
        }
        Err(IllegalTransition {
            what: "subtask",
            from: self.as_str(),
            to: next.as_str(),
        })
    }
}

/// One wish of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Id.
    pub id: TaskId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Project.
    pub project_id: ProjectId,
    /// Title.
    pub title: String,
    /// What the person wrote.
    pub description: String,
    /// Agent kind that plans and works.
    pub agent_kind: String,
    /// Whether ready subtasks start and checked merge requests merge by themselves.
    pub auto: bool,
    /// State.
    pub status: TaskStatus,
    /// The epic in the issue graph.
    pub epic: Option<String>,
    /// What the planner found out.
    pub spec: String,
    /// How the planner means to do it.
    pub plan: String,
    /// Planning attempts made since the last retry.
    pub attempts: u32,
    /// The run of the present attempt.
    pub run_id: Option<RunId>,
    /// Why planning failed, or what last went wrong.
    pub error: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// A piece of a task that one agent does on one branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subtask {
    /// Id.
    pub id: SubtaskId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Project.
    pub project_id: ProjectId,
    /// Task.
    pub task_id: TaskId,
    /// Its issue in the graph.
    pub issue_id: String,
    /// Number within the project, from 1; part of the branch name.
    pub number: i64,
    /// Title.
    pub title: String,
    /// What is to be done.
    pub spec: String,
    /// How.
    pub plan: String,
    /// Position on the board, ascending.
    pub position: i64,
    /// State.
    pub status: SubtaskStatus,
    /// Why it is blocked.
    pub blocked_reason: Option<BlockedReason>,
    /// Subtasks that must be merged before it starts.
    pub depends_on: Vec<SubtaskId>,
    /// Its branch.
    pub branch: String,
    /// Attempts made since the last retry.
    pub attempts: u32,
    /// The run of the present attempt or of its checks.
    pub run_id: Option<RunId>,
    /// What the next attempt is told besides the prompt: failed checks, a conflict.
    pub feedback: Option<String>,
    /// What last went wrong.
    pub error: Option<String>,
    /// Its merge request.
    pub merge_request_id: Option<MergeRequestId>,
    /// When its worktree may be removed, once it failed.
    pub worktree_expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

/// What `subtask`, neither started nor finished, should be given its dependencies: ready when all are merged.
pub fn waiting_status(
    depends_on: &[SubtaskId],
    statuses: &BTreeMap<SubtaskId, SubtaskStatus>,
) -> (SubtaskStatus, Option<BlockedReason>) {
    let all_merged = depends_on
        .iter()
        .all(|id| statuses.get(id) == Some(&SubtaskStatus::Merged));
    if all_merged {
        (SubtaskStatus::Ready, None)
    } else {
        (SubtaskStatus::Blocked, Some(BlockedReason::Dependency))
    }
}

/// Whether a task with these subtasks is done: it has some, and all are merged.
pub fn all_merged(statuses: impl IntoIterator<Item = SubtaskStatus>) -> bool {
    let mut statuses = statuses.into_iter().peekable();
    statuses.peek().is_some() && statuses.all(|s| s == SubtaskStatus::Merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_dependencies_are_merged() {
        let (a, b) = (SubtaskId::new(), SubtaskId::new());
        let statuses = [(a, SubtaskStatus::Merged), (b, SubtaskStatus::Completed)].into();
        assert_eq!(waiting_status(&[a], &statuses).0, SubtaskStatus::Ready);
        assert_eq!(
            waiting_status(&[a, b], &statuses),
            (SubtaskStatus::Blocked, Some(BlockedReason::Dependency))
        );
        assert_eq!(waiting_status(&[], &statuses).0, SubtaskStatus::Ready);
        assert_eq!(
            waiting_status(&[SubtaskId::new()], &statuses).0,
            SubtaskStatus::Blocked
        );
    }

    #[test]
    fn a_task_without_subtasks_is_not_done() {
        assert!(!all_merged([]));
        assert!(all_merged([SubtaskStatus::Merged]));
        assert!(!all_merged([SubtaskStatus::Merged, SubtaskStatus::Completed]));
    }

    #[test]
    fn merged_is_final() {
        for next in SubtaskStatus::ALL {
            assert!(SubtaskStatus::Merged.to(*next).is_err());
        }
    }
}
