//! Projects.

use crate::http::Patience::Long;
use crate::{Client, ClientError};
use ostler_contracts::{CleanupReport, CreateProject, ProjectView};
use ostler_domain::ProjectId;
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
}
