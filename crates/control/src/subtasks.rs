//! Subtasks: what a person may do with them.

use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{
    BlockedReason, MergeRequest, MergeRequestStatus, Permission, Subtask, SubtaskId, SubtaskStatus, TaskId,
};
use ostler_store::{Filter, StoreExt};
use serde_json::json;

impl Control {
    /// The subtasks of a task, in the order of the board.
    pub async fn subtasks(&self, caller: &Caller, task: TaskId) -> Result<Vec<Subtask>> {
        let task = self.task_of(caller.tenant_id, task).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(self
            .parts
            .store
            .list(Filter::by("task_id", task.id).order_by("position"))
            .await?)
    }

    /// One subtask.
    pub async fn subtask(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        let subtask = self.subtask_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(subtask)
    }

    /// Starts a ready subtask: synchronises the project, makes the worktree, puts a worker on the queue.
    pub async fn start_subtask(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        retry_on_conflict!({ self.start_once(caller, id).await })
    }

    async fn start_once(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        let subtask = self.subtask_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsWrite)?;
        match subtask.status {
            SubtaskStatus::Ready => {
                let by = self.acting(caller, "subtask.start", id, ());
                by.begin_work(subtask).await
            }
            SubtaskStatus::Blocked if subtask.blocked_reason == Some(BlockedReason::Failure) => {
                Err(ControlError::Unprocessable(format!(
                    "the subtask is blocked by its failure ({}); `ostler subtask retry {id}` starts it again",
                    subtask.error.unwrap_or_default()
                )))
            }
            SubtaskStatus::Pending | SubtaskStatus::Blocked => Err(ControlError::Unprocessable(
                "the subtask waits for others to be merged; see depends_on".into(),
            )),
            SubtaskStatus::InProgress => Err(ControlError::Conflict(
                "the subtask is in progress already".into(),
            )),
            SubtaskStatus::Completed | SubtaskStatus::Merged => Err(ControlError::Conflict(format!(
                "the subtask is {} already",
                subtask.status
            ))),
        }
    }

    /// Starts a subtask again whose attempts were used up, with a new count of attempts.
    pub async fn retry_subtask(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        retry_on_conflict!({
            let subtask = self.subtask_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            if subtask.blocked_reason != Some(BlockedReason::Failure) {
                return Err(ControlError::Conflict(format!(
                    "only a subtask that is blocked by its failure can be retried; this one is {}",
                    subtask.status
                )));
            }
            let by = self.acting(caller, "subtask.retry", id, ());
            by.begin_work(subtask).await
        })
    }

    /// Merges the merge request of a completed subtask. If it conflicts, or its branch is not what was checked, it is in
    /// progress again afterwards.
    pub async fn merge_subtask(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        retry_on_conflict!({
            let subtask = self.subtask_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            let request = completed(&subtask)?;
            let by = self.acting(caller, "subtask.merge", id, json!({ "merge_request": request }));
            by.merge(subtask, false).await
        })?;
        self.subtask_of(caller.tenant_id, id).await
    }

    /// Notes that a completed subtask was merged outside Ostler.
    pub async fn mark_merged(&self, caller: &Caller, id: SubtaskId) -> Result<Subtask> {
        retry_on_conflict!({
            let subtask = self.subtask_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            let request = completed(&subtask)?;
            let mut request: MergeRequest = self.owned("merge request", caller.tenant_id, request).await?;
            request.status = MergeRequestStatus::Merged;
            request.closed_at = Some(self.now());
            let by = self.acting(
                caller,
                "subtask.mark_merged",
                id,
                json!({ "merge_request": request.id }),
            );
            by.conclude(subtask, request, None).await
        })?;
        self.subtask_of(caller.tenant_id, id).await
    }

    /// Moves a subtask on the board.
    pub async fn position_subtask(&self, caller: &Caller, id: SubtaskId, position: i64) -> Result<Subtask> {
        retry_on_conflict!({
            let mut subtask = self.subtask_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            subtask.position = position;
            let by = self.acting(caller, "subtask.move", id, json!({ "position": position }));
            by.commit(self.subtask_changes(&mut subtask).to_vec()).await?;
            Ok(subtask)
        })
    }

    /// Ends the run of a subtask in progress; it is then blocked by failure. Nothing to end is no error.
    pub async fn kill_subtask(&self, caller: &Caller, id: SubtaskId) -> Result<()> {
        let subtask = self.subtask_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsWrite)?;
        let by = self.acting(caller, "subtask.kill", id, ());
        by.stop_work(subtask.id, "it was killed").await
    }
}

/// The merge request of a completed subtask.
fn completed(subtask: &Subtask) -> Result<ostler_domain::MergeRequestId> {
    match (subtask.status, subtask.merge_request_id) {
        (SubtaskStatus::Completed, Some(request)) => Ok(request),
        (status, _) => Err(ControlError::Unprocessable(format!(
            "only a completed subtask with an open merge request can be merged; this one is {status}"
        ))),
    }
}
