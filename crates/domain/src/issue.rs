//! The issue graph: what agents see as `bd`.

use crate::state::text_enum;
use crate::{ProjectId, TaskId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

text_enum! {
    /// What an issue is.
    IssueType {
        /// A collection of issues; never ready itself.
        Epic = "epic",
        /// A piece of work.
        Task = "task",
        /// A defect.
        Bug = "bug",
        /// Something new.
        Feature = "feature",
        /// Upkeep.
        Chore = "chore",
    }
}

text_enum! {
    /// The states of an issue.
    IssueStatus {
        /// Nobody works on it.
        Open = "open",
        /// Claimed.
        InProgress = "in_progress",
        /// Held up for a reason that is not a dependency.
        Blocked = "blocked",
        /// Done or given up.
        Closed = "closed",
    }
}

text_enum! {
    /// How one issue stands to another.
    DependencyType {
        /// It cannot start before the other is closed.
        Blocks = "blocks",
        /// It is part of the other.
        ParentChild = "parent-child",
        /// They concern each other.
        Related = "related",
        /// It was found while the other was worked on.
        DiscoveredFrom = "discovered-from",
    }
}

/// One edge: the issue that has it depends on `depends_on`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IssueDependency {
    /// The other issue.
    pub depends_on: String,
    /// How.
    #[serde(rename = "type")]
    pub kind: DependencyType,
}

/// A remark on an issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueComment {
    /// Who.
    pub author: String,
    /// What.
    pub text: String,
    /// When.
    pub created_at: Timestamp,
}

/// One issue of a project's graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Id such as `iv-3f2.1`, unique in the project.
    pub id: String,
    /// Owner.
    pub tenant_id: TenantId,
    /// Project.
    pub project_id: ProjectId,
    /// The task in whose planning or work it was made.
    pub task_id: Option<TaskId>,
    /// Type.
    pub issue_type: IssueType,
    /// Title.
    pub title: String,
    /// What is to be done.
    pub description: String,
    /// How.
    pub design: String,
    /// When it is done.
    pub acceptance_criteria: String,
    /// Free remarks.
    pub notes: String,
    /// State.
    pub status: IssueStatus,
    /// 0 is most urgent, 4 least.
    pub priority: u8,
    /// Who works on it.
    pub assignee: Option<String>,
    /// Labels.
    pub labels: Vec<String>,
    /// What it depends on.
    pub dependencies: Vec<IssueDependency>,
    /// Remarks.
    pub comments: Vec<IssueComment>,
    /// Why it was closed.
    pub close_reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// Version for optimistic concurrency.
    pub version: i64,
}

impl Issue {
    /// The issue that this one is part of.
    pub fn parent(&self) -> Option<&str> {
        self.dependencies
            .iter()
            .find(|d| d.kind == DependencyType::ParentChild)
            .map(|d| d.depends_on.as_str())
    }
}
