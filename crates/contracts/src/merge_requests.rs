//! Merge requests.

use crate::Time;
use ostler_domain::{MergeRequest, MergeRequestId, MergeRequestStatus, ProjectId, SubtaskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A merge request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeRequestView {
    /// Id.
    #[schema(value_type = String)]
    pub id: MergeRequestId,
    /// Project.
    #[schema(value_type = String)]
    pub project_id: ProjectId,
    /// Subtask.
    #[schema(value_type = String)]
    pub subtask_id: SubtaskId,
    /// Number within the project.
    pub number: i64,
    /// Title.
    pub title: String,
    /// Description.
    pub body: String,
    /// Branch with the work.
    pub source_branch: String,
    /// Branch it goes to.
    pub target_branch: String,
    /// Commit that was checked.
    pub head: String,
    /// Commit that the merge made.
    pub merge_commit: Option<String>,
    /// open, merged or closed.
    #[schema(value_type = String)]
    pub status: MergeRequestStatus,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it was merged or closed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Time>,
}

impl From<MergeRequest> for MergeRequestView {
    fn from(m: MergeRequest) -> Self {
        Self {
            id: m.id,
            project_id: m.project_id,
            subtask_id: m.subtask_id,
            number: m.number,
            title: m.title,
            body: m.body,
            source_branch: m.source_branch,
            target_branch: m.target_branch,
            head: m.head,
            merge_commit: m.merge_commit,
            status: m.status,
            created_at: m.created_at.into(),
            closed_at: m.closed_at.map(Into::into),
        }
    }
}

/// The changes of a branch against the branch it goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffView {
    /// Commits, newest first.
    pub commits: Vec<CommitView>,
    /// Unified diff.
    pub diff: String,
    /// Whether the diff was longer and has been cut (at 4 MiB).
    pub truncated: bool,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitView {
    /// Full id.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// First line of the message.
    pub subject: String,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
}
