//! Projects, their issues and their merge requests.

use crate::http::Patience::{Long, Usual};
use crate::{Client, ClientError};
use ostler_contracts::{CleanupReport, CreateProject, DiffView, MergeRequestView, ProjectView};
use ostler_domain::{MergeRequestId, ProjectId};
use reqwest::Method;

impl Client {
    /// Adds a project by cloning its source, which may take long.
    pub async fn add_project(&self, new: &CreateProject) -> Result<ProjectView, ClientError> {
        self.call(Method::POST, &["projects"], Some(new), Long).await
    }

    /// The projects, by name.
    pub async fn projects(&self) -> Result<Vec<ProjectView>, ClientError> {
        self.get(self.path(&["projects"])).await
    }

    /// One project.
    pub async fn project(&self, id: ProjectId) -> Result<ProjectView, ClientError> {
        self.get(self.path(&["projects", &id.to_string()])).await
    }

    /// Removes a project with its tasks, clone and worktrees; its source is not touched.
    pub async fn remove_project(&self, id: ProjectId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["projects", &id.to_string()], Long)
            .await
    }

    /// Removes worktrees and branches that no subtask needs any more.
    pub async fn cleanup_project(&self, id: ProjectId) -> Result<CleanupReport, ClientError> {
        let path = ["projects", &id.to_string(), "cleanup"];
        self.call(Method::POST, &path, None::<&()>, Long).await
    }

    /// The issue graph of a project, in the form that `bd export` writes.
    pub async fn issues(&self, id: ProjectId) -> Result<serde_json::Value, ClientError> {
        self.get(self.path(&["projects", &id.to_string(), "issues"]))
            .await
    }

    /// The merge requests of a project, newest first.
    pub async fn merge_requests(&self, id: ProjectId) -> Result<Vec<MergeRequestView>, ClientError> {
        self.get(self.path(&["projects", &id.to_string(), "merge-requests"]))
            .await
    }

    /// One merge request.
    pub async fn merge_request(&self, id: MergeRequestId) -> Result<MergeRequestView, ClientError> {
        self.get(self.path(&["merge-requests", &id.to_string()])).await
    }

    /// What a merge request changes.
    pub async fn merge_request_diff(&self, id: MergeRequestId) -> Result<DiffView, ClientError> {
        self.get(self.path(&["merge-requests", &id.to_string(), "diff"]))
            .await
    }

    /// Closes a merge request without merging; its subtask is then blocked.
    pub async fn close_merge_request(&self, id: MergeRequestId) -> Result<MergeRequestView, ClientError> {
        let path = ["merge-requests", &id.to_string(), "close"];
        self.call(Method::POST, &path, None::<&()>, Usual).await
    }
}
