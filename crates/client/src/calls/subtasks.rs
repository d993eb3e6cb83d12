//! Subtasks.

use crate::http::Patience::{self, Long, Usual};
use crate::{Client, ClientError};
use ostler_contracts::{DiffView, RunView, SubtaskView};
use ostler_domain::SubtaskId;
use reqwest::Method;

impl Client {
    /// One subtask.
    pub async fn subtask(&self, id: SubtaskId) -> Result<SubtaskView, ClientError> {
        self.get(self.path(&["subtasks", &id.to_string()])).await
    }

    /// Starts a ready subtask.
    pub async fn start_subtask(&self, id: SubtaskId) -> Result<SubtaskView, ClientError> {
        self.change(id, "start", Long).await
    }

    /// Starts a subtask again that its failures have blocked.
    pub async fn retry_subtask(&self, id: SubtaskId) -> Result<SubtaskView, ClientError> {
        self.change(id, "retry", Long).await
    }

    /// Merges the merge request of a completed subtask; a conflict goes back to a worker.
    pub async fn merge_subtask(&self, id: SubtaskId) -> Result<SubtaskView, ClientError> {
        self.change(id, "merge", Long).await
    }

    /// Notes that a completed subtask was merged outside Ostler.
    pub async fn mark_merged(&self, id: SubtaskId) -> Result<SubtaskView, ClientError> {
        self.change(id, "mark-merged", Long).await
    }

    /// Ends the run of a subtask, which is then blocked.
    pub async fn kill_subtask(&self, id: SubtaskId) -> Result<(), ClientError> {
        self.act(Method::POST, &["subtasks", &id.to_string(), "kill"], Usual)
            .await
    }

    /// What the branch of a subtask changes.
    pub async fn subtask_diff(&self, id: SubtaskId) -> Result<DiffView, ClientError> {
        self.get(self.path(&["subtasks", &id.to_string(), "diff"])).await
    }

    /// The runs of a subtask, newest first.
    pub async fn subtask_runs(&self, id: SubtaskId) -> Result<Vec<RunView>, ClientError> {
        self.get(self.path(&["subtasks", &id.to_string(), "runs"])).await
    }

    async fn change(
        &self,
        id: SubtaskId,
        verb: &str,
        patience: Patience,
    ) -> Result<SubtaskView, ClientError> {
        let path = ["subtasks", &id.to_string(), verb];
        self.call(Method::POST, &path, None::<&()>, patience).await
    }
}
