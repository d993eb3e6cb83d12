//! Merge requests of the local forge.

use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{
    MergeRequest, MergeRequestId, MergeRequestStatus, Permission, Project, ProjectId, SubtaskId,
    SubtaskStatus,
};
use ostler_forge::{Commit, Diff};
use ostler_store::{Change, Filter, StoreExt};

/// The changes of a branch against the branch it goes to.
#[derive(Debug)]
pub struct BranchDiff {
    /// Commits, newest first.
    pub commits: Vec<Commit>,
    /// Unified diff.
    pub diff: Diff,
}

const MAX_DIFF: usize = 4 * 1024 * 1024;
const CLOSED: &str = "its merge request was closed";

impl Control {
    /// The merge requests of a project, newest first.
    pub async fn merge_requests(&self, caller: &Caller, project: ProjectId) -> Result<Vec<MergeRequest>> {
        let project = self.project_of(caller.tenant_id, project).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(self
            .parts
            .store
            .list(Filter::by("project_id", project.id).order_by_desc("number"))
            .await?)
    }

    /// One merge request.
    pub async fn merge_request(&self, caller: &Caller, id: MergeRequestId) -> Result<MergeRequest> {
        let request = self.owned("merge request", caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(request)
    }

    /// What a merge request changes; after its merge, what it changed.
    pub async fn merge_request_diff(&self, caller: &Caller, id: MergeRequestId) -> Result<BranchDiff> {
        let request = self.merge_request(caller, id).await?;
        let project = self.project_of(caller.tenant_id, request.project_id).await?;
        match &request.merge_commit {
            Some(commit) => {
                let before = self.repository(&project)?.before(commit).await?;
                self.branch_diff(&project, &before, commit).await
            }
            None => {
                self.branch_diff(&project, &request.target_branch, &request.head)
                    .await
            }
        }
    }

    /// What a subtask's branch changes at present.
    pub async fn subtask_diff(&self, caller: &Caller, id: SubtaskId) -> Result<BranchDiff> {
        let subtask = self.subtask_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsRead)?;
        if let (SubtaskStatus::Merged, Some(request)) = (subtask.status, subtask.merge_request_id) {
            return self.merge_request_diff(caller, request).await;
        }
        let project = self.project_of(caller.tenant_id, subtask.project_id).await?;
        if self
            .repository(&project)?
            .head_of(&subtask.branch)
            .await?
            .is_none()
        {
            return Err(ControlError::Unprocessable(
                "the subtask has no branch yet; start it first".into(),
            ));
        }
        self.branch_diff(&project, &project.default_branch, &subtask.branch)
            .await
    }

    /// Closes a merge request without merging; its subtask is then blocked by failure, once what still runs for it has
    /// ended.
    pub async fn close_merge_request(&self, caller: &Caller, id: MergeRequestId) -> Result<MergeRequest> {
        let request = retry_on_conflict!({
            let mut request: MergeRequest = self.owned("merge request", caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            if request.status != MergeRequestStatus::Open {
                return Err(ControlError::Conflict(format!(
                    "the merge request is {} already",
                    request.status
                )));
            }
            let subtask = self.subtask_of(caller.tenant_id, request.subtask_id).await?;
            request.status = MergeRequestStatus::Closed;
            request.closed_at = Some(self.now());
            let view = ostler_contracts::MergeRequestView::from(request.clone());
            let mut changes = vec![
                Change::update(&request),
                self.event(request.tenant_id, "merge_request.updated", request.id, view),
            ];
            if subtask.status == SubtaskStatus::Completed {
                changes.extend(self.block(subtask, CLOSED.into())?);
            }
            let by = self.acting(caller, "merge_request.close", id, ());
            by.commit(changes).await?;
            Ok(request)
        })?;
        // A worker may be mending what conflicted.
        self.stop_work(request.subtask_id, CLOSED).await?;
        Ok(request)
    }

    async fn branch_diff(&self, project: &Project, base: &str, head: &str) -> Result<BranchDiff> {
        let repository = self.repository(project)?;
        Ok(BranchDiff {
            commits: repository.log(base, head).await?,
            diff: repository.diff(base, head, MAX_DIFF).await?,
        })
    }
}
