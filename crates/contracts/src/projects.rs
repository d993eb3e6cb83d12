//! Projects.

use crate::Time;
use ostler_domain::{Project, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Adds a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// A git URL without credentials, or the absolute path of a repository on the server's machine.
    pub source: String,
    /// Its name; derived from the source when absent.
    #[serde(default)]
    pub name: Option<String>,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectView {
    /// Id.
    #[schema(value_type = String)]
    pub id: ProjectId,
    /// Name.
    pub name: String,
    /// Where it was cloned from.
    pub source: String,
    /// The branch that work is merged into.
    pub default_branch: String,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
}

impl From<Project> for ProjectView {
    fn from(p: Project) -> Self {
        Self {
            id: p.id,
            name: p.name,
            source: p.source,
            default_branch: p.default_branch,
            created_at: p.created_at.into(),
        }
    }
}

/// What a clean-up removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CleanupReport {
    /// Worktrees that no subtask needs any more.
    pub worktrees: Vec<String>,
    /// Branches of deleted or merged subtasks.
    pub branches: Vec<String>,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}
