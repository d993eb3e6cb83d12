//! How a subtask is worked on, checked and merged.

use crate::{Control, ControlError, Result};
use ostler_domain::{
    BlockedReason, IssueStatus, MergeRequest, MergeRequestId, MergeRequestStatus, Project, Run, RunKind,
    RunStatus, Subtask, SubtaskStatus, Task, TaskStatus, all_merged, waiting_status,
};
use ostler_forge::{MergeOutcome, PublishOutcome, Repository, UpdateOutcome};
use ostler_store::{Change, Filter, StoreExt};
use std::collections::BTreeMap;
use std::time::Duration;

impl Control {
    /// Starts a subtask that is ready, or blocked by an earlier failure, with a new count of attempts.
    pub(crate) async fn begin_work(&self, mut subtask: Subtask) -> Result<Subtask> {
        subtask.status = subtask.status.to(SubtaskStatus::InProgress)?;
        let (project, task) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        repository.sync(&project.default_branch, None).await?;
        repository
            .worktree_add(subtask.id, &subtask.branch, &project.default_branch)
            .await?;
        subtask.blocked_reason = None;
        subtask.attempts = 1;
        subtask.feedback = None;
        subtask.error = None;
        subtask.worktree_expires_at = None;
        let run = self.worker_run(&project, &task, &subtask).await?;
        subtask.run_id = Some(run.id);
        let mut changes = vec![Change::enqueue(run)];
        if let Some(mut issue) = self.issue(project.id, &subtask.issue_id).await? {
            issue.status = IssueStatus::InProgress;
            issue.assignee = Some(format!("worker-{}", subtask.number));
            issue.closed_at = None;
            issue.close_reason = None;
            issue.updated_at = self.now();
            changes.push(Change::update(&issue));
        }
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await?;
        subtask.version += 1;
        Ok(subtask)
    }

    /// The next step of a subtask in progress.
    pub(super) async fn settle_progress(&self, subtask: Subtask) -> Result<()> {
        let run = match subtask.run_id {
            Some(id) => self.parts.store.run(id).await?,
            None => None,
        };
        match run {
            Some(run) if !run.status.is_terminal() => Ok(()),
            Some(run) if run.status == RunStatus::Cancelled => {
                let changes = self.block(subtask, "its run was cancelled".into())?;
                self.commit(changes).await
            }
            Some(run) if run.submitted.kind == RunKind::Check => self.after_checks(subtask, &run).await,
            Some(run) => self.after_worker(subtask, &run).await,
            None => self.again(subtask, "its run is not known any more".into()).await,
        }
    }

    async fn after_worker(&self, subtask: Subtask, run: &Run) -> Result<()> {
        let issue = self.issue(subtask.project_id, &subtask.issue_id).await?;
        if issue.is_none_or(|issue| issue.status != IssueStatus::Closed) {
            let reason =
                run.outcome.error.clone().unwrap_or_else(|| {
                    format!("the agent ended without closing its issue {}", subtask.issue_id)
                });
            return self.again(subtask, reason).await;
        }
        let (project, _) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        if repository
            .log(&project.default_branch, &subtask.branch)
            .await?
            .is_empty()
        {
            let reason = format!(
                "the issue {} was closed, but nothing is committed on the branch",
                subtask.issue_id
            );
            return self.again(subtask, reason).await;
        }
        self.check_or_open(subtask, &project, &repository).await
    }

    /// Brings the branch up to its target, then has it checked; without checks opens the merge request.
    async fn check_or_open(
        &self,
        mut subtask: Subtask,
        project: &Project,
        repository: &Repository,
    ) -> Result<()> {
        if let UpdateOutcome::Conflict { files } = repository
            .update_branch(&subtask.branch, &project.default_branch)
            .await?
        {
            return self.again(subtask, conflict_text(project, &files)).await;
        }
        let file = match self.project_file(project, &subtask.branch).await {
            Ok(file) => file,
            Err(error) => {
                return self
                    .again(subtask, format!("the project's checks cannot run: {error}"))
                    .await;
            }
        };
        if file.checks.is_empty() {
            return self.open_merge_request(subtask, project, repository).await;
        }
        let run = self.check_run(project, &subtask, file);
        subtask.run_id = Some(run.id);
        let mut changes = vec![Change::enqueue(run)];
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await
    }

    async fn after_checks(&self, subtask: Subtask, run: &Run) -> Result<()> {
        let (project, _) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        match run.status {
            RunStatus::Succeeded => {
                // Something else may have been merged while they ran: then the result is checked again.
                if repository
                    .is_behind(&subtask.branch, &project.default_branch)
                    .await?
                {
                    return self.check_or_open(subtask, &project, &repository).await;
                }
                self.open_merge_request(subtask, &project, &repository).await
            }
            RunStatus::Lost => {
                let reason =
                    "its checks could not run to their end, because their sandbox went away repeatedly";
                let changes = self.block(subtask, reason.into())?;
                self.commit(changes).await
            }
            _ => {
                let said = run.outcome.error.as_deref().unwrap_or("they failed");
                self.again(subtask, format!("the project's checks did not pass: {said}"))
                    .await
            }
        }
    }

    /// Opens the merge request, or brings the open one up to the branch.
    async fn open_merge_request(
        &self,
        mut subtask: Subtask,
        project: &Project,
        repository: &Repository,
    ) -> Result<()> {
        let head = repository.head_of(&subtask.branch).await?.ok_or_else(|| {
            ControlError::Unprocessable(format!(
                "the branch {} is gone; retry the subtask",
                subtask.branch
            ))
        })?;
        let commits = repository.log(&project.default_branch, &subtask.branch).await?;
        let log: Vec<String> = commits.iter().rev().map(|c| format!("- {}", c.subject)).collect();
        let body = format!("{}\n\n## Commits\n\n{}\n", subtask.spec.trim(), log.join("\n"));
        let mut project = project.clone();
        let mut changes = Vec::new();
        let existing: Option<MergeRequest> = match subtask.merge_request_id {
            Some(id) => self.parts.store.get(id).await?,
            None => None,
        };
        let body = body.trim_start().to_owned();
        let open = existing.filter(|request| request.status == MergeRequestStatus::Open);
        let request = if let Some(mut request) = open {
            request.head = head;
            request.body = body;
            changes.push(Change::update(&request));
            request
        } else {
            let request = MergeRequest {
                id: MergeRequestId::new(),
                tenant_id: subtask.tenant_id,
                project_id: project.id,
                number: project.next_merge_request,
                task_id: subtask.task_id,
                subtask_id: subtask.id,
                title: subtask.title.clone(),
                body,
                source_branch: subtask.branch.clone(),
                target_branch: project.default_branch.clone(),
                head,
                merge_commit: None,
                status: MergeRequestStatus::Open,
                created_at: self.now(),
                closed_at: None,
                version: 0,
            };
            project.next_merge_request += 1;
            changes.push(Change::update(&project));
            changes.push(Change::insert(&request));
            request
        };
        let view = ostler_contracts::MergeRequestView::from(request.clone());
        changes.push(self.event(request.tenant_id, "merge_request.updated", request.id, view));
        subtask.merge_request_id = Some(request.id);
        subtask.status = subtask.status.to(SubtaskStatus::Completed)?;
        subtask.feedback = None;
        subtask.error = None;
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await?;
        self.settle_next(subtask.id).await
    }

    /// Merges a completed subtask by itself, but never what was not checked on top of the present target.
    pub(super) async fn merge_checked(&self, mut subtask: Subtask) -> Result<()> {
        let (project, _) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        if !repository
            .is_behind(&subtask.branch, &project.default_branch)
            .await?
        {
            return self.merge(subtask).await.map(drop);
        }
        subtask.status = subtask.status.to(SubtaskStatus::InProgress)?;
        self.check_or_open(subtask, &project, &repository).await
    }

    /// Merges the merge request of a completed subtask; a conflict goes back to a worker.
    pub(crate) async fn merge(&self, subtask: Subtask) -> Result<Subtask> {
        let (project, _) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        let request = match subtask.merge_request_id {
            Some(id) => self.parts.store.get::<MergeRequest, _>(id).await?,
            None => None,
        };
        let Some(mut request) = request else {
            return Err(ControlError::Unprocessable(
                "the subtask has no merge request".into(),
            ));
        };
        let message = format!("{} (!{})\n\n{}", request.title, request.number, request.body);
        let outcome = repository
            .merge(
                &request.source_branch,
                &request.target_branch,
                &message,
                Some(&request.head),
            )
            .await?;
        match outcome {
            MergeOutcome::Merged { commit } => request.merge_commit = Some(commit),
            MergeOutcome::NothingToMerge => {}
            MergeOutcome::Conflict { files } => {
                let id = subtask.id;
                self.again(subtask, conflict_text(&project, &files)).await?;
                return self.subtask_of(project.tenant_id, id).await;
            }
            MergeOutcome::HeadMoved { head } => {
                return Err(ControlError::Conflict(format!(
                    "the branch {} stands at {head} and not at {} that was checked; retry the subtask",
                    request.source_branch, request.head
                )));
            }
        }
        request.status = MergeRequestStatus::Merged;
        request.closed_at = Some(self.now());
        self.conclude(subtask, request).await
    }

    /// Notes a merge: the subtask is merged, what waited for it may start, the task may be done.
    pub(crate) async fn conclude(&self, mut subtask: Subtask, request: MergeRequest) -> Result<Subtask> {
        let (project, mut task) = self.parents(&subtask).await?;
        subtask.status = subtask.status.to(SubtaskStatus::Merged)?;
        subtask.error = None;
        let siblings: Vec<Subtask> = self
            .parts
            .store
            .list(Filter::by("task_id", subtask.task_id))
            .await?;
        let mut statuses: BTreeMap<_, _> = siblings.iter().map(|s| (s.id, s.status)).collect();
        statuses.insert(subtask.id, SubtaskStatus::Merged);
        let mut changes = vec![Change::update(&request)];
        let view = ostler_contracts::MergeRequestView::from(request.clone());
        changes.push(self.event(request.tenant_id, "merge_request.updated", request.id, view));
        changes.extend(self.subtask_changes(&mut subtask));
        let mut unblocked = Vec::new();
        for mut other in siblings {
            let waits = other.blocked_reason == Some(BlockedReason::Dependency);
            if waits && waiting_status(&other.depends_on, &statuses).0 == SubtaskStatus::Ready {
                other.status = other.status.to(SubtaskStatus::Ready)?;
                other.blocked_reason = None;
                unblocked.push(other.id);
                changes.extend(self.subtask_changes(&mut other));
            }
        }
        if all_merged(statuses.values().copied()) {
            task.status = task.status.to(TaskStatus::Done)?;
        }
        // The task's version is counted up by every merge, so that of two last merges at once one sees the other.
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await?;
        subtask.version += 1;
        self.after_merge(&project, &subtask).await;
        for id in unblocked {
            if let Err(error) = self.settle_next(id).await {
                tracing::warn!(%error, subtask.id = %id, "a subtask could not start; it is tried again");
            }
        }
        Ok(subtask)
    }

    /// What follows a merge and may fail without undoing it.
    async fn after_merge(&self, project: &Project, subtask: &Subtask) {
        let Ok(repository) = self.repository(project) else {
            return;
        };
        if let Err(error) = repository.worktree_remove(subtask.id).await {
            tracing::warn!(%error, subtask.id = %subtask.id, "the worktree of a merged subtask is still there");
        }
        if !self.parts.work.push_to_origin {
            return;
        }
        match repository.publish(&project.default_branch, None).await {
            Ok(PublishOutcome::Published) => {}
            Ok(PublishOutcome::Skipped { reason }) => {
                tracing::warn!(project.id = %project.id, "merged work was not brought to origin: {reason}");
            }
            Err(error) => {
                tracing::warn!(%error, project.id = %project.id, "merged work was not brought to origin");
            }
        }
    }

    /// Another attempt with `reason` as its feedback, or the end if there were enough.
    async fn again(&self, mut subtask: Subtask, reason: String) -> Result<()> {
        let reason = super::tail(&reason).to_owned();
        if subtask.attempts >= self.parts.work.worker_attempts {
            let message = format!(
                "gave up after {} attempts; the last one: {reason}",
                subtask.attempts
            );
            let changes = self.block(subtask, message)?;
            return self.commit(changes).await;
        }
        let (project, task) = self.parents(&subtask).await?;
        if subtask.status != SubtaskStatus::InProgress {
            subtask.status = subtask.status.to(SubtaskStatus::InProgress)?;
        }
        subtask.attempts += 1;
        subtask.feedback = Some(reason.clone());
        subtask.error = Some(reason);
        let run = self.worker_run(&project, &task, &subtask).await?;
        subtask.run_id = Some(run.id);
        let mut changes = vec![Change::enqueue(run)];
        changes.extend(self.reopen(self.issue(project.id, &subtask.issue_id).await?));
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await
    }

    /// Blocks a subtask by failure; its worktree is kept for a look.
    pub(crate) fn block(&self, mut subtask: Subtask, message: String) -> Result<Vec<Change>> {
        if subtask.status == SubtaskStatus::Completed {
            subtask.status = subtask.status.to(SubtaskStatus::InProgress)?;
        }
        subtask.status = subtask.status.to(SubtaskStatus::Blocked)?;
        subtask.blocked_reason = Some(BlockedReason::Failure);
        subtask.error = Some(message);
        let keep = Duration::from_secs(self.parts.work.worktree_keep_seconds);
        subtask.worktree_expires_at = Some(self.now().plus(keep));
        Ok(self.subtask_changes(&mut subtask).to_vec())
    }

    /// Removes the worktrees of failed subtasks whose time is up. Returns how many.
    pub async fn expire_worktrees(&self) -> Result<usize> {
        let due = Filter::<Subtask>::by("status", SubtaskStatus::Blocked).and(
            "worktree_expires_at",
            ostler_store::Op::Le,
            self.now(),
        );
        let mut removed = 0;
        for mut subtask in self.parts.store.list(due).await? {
            let (project, _) = self.parents(&subtask).await?;
            self.repository(&project)?.worktree_remove(subtask.id).await?;
            subtask.worktree_expires_at = None;
            self.commit(vec![Change::update(&subtask)]).await?;
            removed += 1;
        }
        Ok(removed)
    }

    async fn parents(&self, subtask: &Subtask) -> Result<(Project, Task)> {
        let project = self.project_of(subtask.tenant_id, subtask.project_id).await?;
        let task = self.task_of(subtask.tenant_id, subtask.task_id).await?;
        Ok((project, task))
    }
}

fn conflict_text(project: &Project, files: &[String]) -> String {
    format!(
        "the branch conflicts with {branch} in: {}. Merge origin/{branch} into your branch, resolve the conflicts, run \
         the checks and commit.",
        files.join(", "),
        branch = project.default_branch
    )
}
