//! Tasks.

use crate::http::Patience::{Long, Usual};
use crate::{Client, ClientError};
use ostler_contracts::{CreateTask, SubtaskView, TaskView};
use ostler_domain::{ProjectId, TaskId};
use reqwest::Method;

impl Client {
    /// Creates a task and puts its planner on the queue.
    pub async fn create_task(&self, project: ProjectId, new: &CreateTask) -> Result<TaskView, ClientError> {
        let path = ["projects", &project.to_string(), "tasks"];
        self.call(Method::POST, &path, Some(new), Usual).await
    }

    /// The tasks of a project, newest first.
    pub async fn tasks(&self, project: ProjectId) -> Result<Vec<TaskView>, ClientError> {
        self.get(self.path(&["projects", &project.to_string(), "tasks"]))
            .await
    }

    /// One task.
    pub async fn task(&self, id: TaskId) -> Result<TaskView, ClientError> {
        self.get(self.path(&["tasks", &id.to_string()])).await
    }

    /// Ends the runs of a task and removes it with everything that belongs to it.
    pub async fn delete_task(&self, id: TaskId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["tasks", &id.to_string()], Long).await
    }

    /// Ends what runs for a task; nothing of it starts by itself any more.
    pub async fn kill_task(&self, id: TaskId) -> Result<TaskView, ClientError> {
        let path = ["tasks", &id.to_string(), "kill"];
        self.call(Method::POST, &path, None::<&()>, Usual).await
    }

    /// Plans a task again whose planning has failed.
    pub async fn retry_planning(&self, id: TaskId) -> Result<TaskView, ClientError> {
        let path = ["tasks", &id.to_string(), "retry-planning"];
        self.call(Method::POST, &path, None::<&()>, Usual).await
    }

    /// The subtasks of a task, in the order of the board.
    pub async fn subtasks(&self, id: TaskId) -> Result<Vec<SubtaskView>, ClientError> {
        self.get(self.path(&["tasks", &id.to_string(), "subtasks"])).await
    }
}
