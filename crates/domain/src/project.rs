//! Projects and merge requests.

use crate::state::text_enum;
use crate::{MergeRequestId, ProjectId, SubtaskId, TaskId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// One repository that Ostler works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Id.
    pub id: ProjectId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Name, unique in the tenant.
    pub name: String,
    /// Where it was cloned from: a git URL without credentials, or an absolute path. Unique in the tenant.
    pub source: String,
    /// The branch that work starts from and is merged into.
    pub default_branch: String,
    /// Number of the next subtask and of the next merge request, counted apart.
    pub next_subtask: i64,
    /// See `next_subtask`.
    pub next_merge_request: i64,
    /// When it was added.
    pub created_at: Timestamp,
    /// Version for optimistic concurrency.
    pub version: i64,
}

text_enum! {
    /// The states of a merge request.
    MergeRequestStatus {
        /// Waiting.
        Open = "open",
        /// Its commits are on the target branch.
        Merged = "merged",
        /// Refused.
        Closed = "closed",
    }
}

/// A proposal to merge one branch into another, kept by Ostler's own forge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRequest {
    /// Id.
    pub id: MergeRequestId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Project.
    pub project_id: ProjectId,
    /// Number within the project, from 1.
    pub number: i64,
    /// The task whose work it is.
    pub task_id: TaskId,
    /// The subtask whose work it is.
    pub subtask_id: SubtaskId,
    /// Title.
    pub title: String,
    /// Description: the subtask's text and the commit log.
    pub body: String,
    /// Branch with the work.
    pub source_branch: String,
    /// Branch it goes to.
    pub target_branch: String,
    /// Commit of the source branch when the checks passed; a merge of anything else is refused.
    pub head: String,
    /// The commit that the merge made.
    pub merge_commit: Option<String>,
    /// State.
    pub status: MergeRequestStatus,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was merged or closed.
    pub closed_at: Option<Timestamp>,
    /// Version for optimistic concurrency.
    pub version: i64,
}
