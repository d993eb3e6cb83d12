//! How a subtask is worked on, checked and merged.

use crate::conflict::{is_lost_race, retry_on_conflict};
use crate::{Control, ControlError, Result};
use ostler_domain::{
    BlockedReason, IssueStatus, IssueType, MergeRequest, MergeRequestId, MergeRequestStatus, Project, Run,
    RunId, RunKind, RunStatus, Subtask, SubtaskId, SubtaskStatus, Task, TaskStatus, all_merged,
    waiting_status,
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
        if repository.head_of(&subtask.branch).await?.is_none() {
            // A worktree that is left of a branch that somebody deleted would be taken as it is.
            repository.worktree_remove(subtask.id).await?;
        }
        repository
            .worktree_add(subtask.id, &subtask.branch, &project.default_branch)
            .await?;
        subtask.blocked_reason = None;
        subtask.attempts = 1;
        subtask.feedback = None;
        subtask.error = None;
        subtask.worktree_expires_at = None;
        let mut changes = self.claim_issue(&project, &mut subtask).await?;
        let run = self.worker_run(&project, &task, &subtask).await?;
        subtask.run_id = Some(run.id);
        changes.push(Change::enqueue(run));
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await?;
        subtask.version += 1;
        Ok(subtask)
    }

    /// Makes the subtask's issue one that its worker can close. An agent may have closed or deleted it.
    async fn claim_issue(&self, project: &Project, subtask: &mut Subtask) -> Result<Vec<Change>> {
        let Some(mut issue) = self.issue(project.id, &subtask.issue_id).await? else {
            let (id, changes) = self
                .new_issue(project, subtask.task_id, IssueType::Task, &subtask.title)
                .await?;
            subtask.issue_id = id;
            return Ok(changes);
        };
        issue.status = IssueStatus::InProgress;
        issue.assignee = Some(format!("worker-{}", subtask.number));
        issue.closed_at = None;
        issue.close_reason = None;
        issue.updated_at = self.now();
        Ok(vec![Change::update(&issue)])
    }

    /// The next step of a subtask in progress.
    pub(super) async fn settle_progress(&self, subtask: Subtask) -> Result<()> {
        let run = match subtask.run_id {
            Some(id) => self.parts.store.run(id).await?,
            None => None,
        };
        match run {
            Some(run) if !run.status.is_terminal() => Ok(()),
            // Also one that came to its end while it was told to: nobody wants to go on from there.
            Some(run) if run.cancel_requested => {
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
        let head = repository.head_of(&subtask.branch).await?;
        let commits = match &head {
            Some(head) => repository.log(&project.default_branch, head).await?,
            None => Vec::new(),
        };
        if commits.is_empty() {
            let mut reason = format!(
                "the issue {} was closed, but nothing is committed on the branch",
                subtask.issue_id
            );
            if let Some(error) = &run.outcome.error {
                reason = format!("{reason}: {error}");
            }
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
        let Some(mut head) = repository.head_of(&subtask.branch).await? else {
            let reason = format!("its branch {} is gone", subtask.branch);
            let changes = self.block(subtask, reason)?;
            return self.commit(changes).await;
        };
        match repository
            .update_branch(&subtask.branch, &project.default_branch)
            .await?
        {
            UpdateOutcome::UpToDate => {}
            UpdateOutcome::Updated { commit } => head = commit,
            UpdateOutcome::Conflict { files } => {
                return self.again(subtask, conflict_text(project, &files)).await;
            }
        }
        let mut file = match self.project_file(project, &head).await {
            Ok(file) => file,
            Err(error) => {
                return self
                    .again(subtask, format!("the project's checks cannot run: {error}"))
                    .await;
            }
        };
        // What is checked is the branch's to say, where is not: an agent wrote it, and another pool may hold more than
        // agents are meant to see. A file that is broken on the default branch chooses nothing.
        let trusted = self
            .project_file(project, &project.default_branch)
            .await
            .unwrap_or_default();
        (file.pool, file.requirements) = (trusted.pool, trusted.requirements);
        if file.checks.is_empty() {
            return self.test_or_open(subtask, project, repository, head).await;
        }
        let run = self.check_run(project, &subtask, head, file);
        subtask.run_id = Some(run.id);
        subtask.error = None;
        let mut changes = vec![Change::enqueue(run)];
        changes.extend(self.subtask_changes(&mut subtask));
        self.commit(changes).await
    }

    async fn after_checks(&self, subtask: Subtask, run: &Run) -> Result<()> {
        let (project, _) = self.parents(&subtask).await?;
        let repository = self.repository(&project)?;
        match run.status {
            RunStatus::Succeeded => {
                let workspace = run.submitted.spec.workspace.as_ref();
                let checked = workspace.and_then(|workspace| workspace.head.clone());
                let head = repository.head_of(&subtask.branch).await?;
                match head.filter(|head| checked.as_ref() == Some(head)) {
                    Some(head)
                        if !repository
                            .is_behind(&subtask.branch, &project.default_branch)
                            .await? =>
                    {
                        self.test_or_open(subtask, &project, &repository, head).await
                    }
                    // The branch, or the target, has moved while they ran: then the result is checked again.
                    _ => self.check_or_open(subtask, &project, &repository).await,
                }
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
    pub(super) async fn open_merge_request(
        &self,
        mut subtask: Subtask,
        project: &Project,
        repository: &Repository,
        head: String,
    ) -> Result<()> {
        let commits = repository.log(&project.default_branch, &head).await?;
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

    /// Merges the merge request of a completed subtask; a conflict goes back to a worker. What is not what was checked
    /// is checked first: for `checked_only`, which is how it goes on by itself, also when the target has moved since.
    pub(crate) async fn merge(&self, mut subtask: Subtask, checked_only: bool) -> Result<()> {
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
        if checked_only && let Some(check) = self.weakened_check(&project, &request.head).await? {
            let reason = format!(
                "its branch changes the check `{check}` or takes it out, so it is not merged by itself: look at its diff, \
                 and merge it by hand"
            );
            if subtask.error.as_ref() != Some(&reason) {
                subtask.error = Some(reason);
                self.commit(self.subtask_changes(&mut subtask).to_vec()).await?;
            }
            return Ok(());
        }
        let message = format!("{} (!{})\n\n{}", request.title, request.number, request.body);
        let (source, target, head) = (&request.source_branch, &request.target_branch, &request.head);
        let outcome = if checked_only {
            repository
                .merge_up_to_date(source, target, &message, head)
                .await?
        } else {
            repository.merge(source, target, &message, Some(head)).await?
        };
        match outcome {
            MergeOutcome::Merged { commit } => request.merge_commit = Some(commit),
            MergeOutcome::NothingToMerge => {}
            MergeOutcome::Conflict { files } => {
                return self.again(subtask, conflict_text(&project, &files)).await;
            }
            MergeOutcome::HeadMoved { .. } | MergeOutcome::Behind => {
                subtask.status = subtask.status.to(SubtaskStatus::InProgress)?;
                return self.check_or_open(subtask, &project, &repository).await;
            }
        }
        // Before it is noted: a server that is killed in between merges, which then does nothing, and publishes again.
        let unpublished = self.publish(&project, &repository).await;
        request.status = MergeRequestStatus::Merged;
        request.closed_at = Some(self.now());
        self.conclude(subtask, request, unpublished).await
    }

    /// A check of the default branch that other work would not be held to any more.
    async fn weakened_check(&self, project: &Project, head: &str) -> Result<Option<String>> {
        // A file that is broken on the default branch holds nobody to anything.
        let before = self.project_file(project, &project.default_branch).await;
        let after = self.project_file(project, head).await?;
        let before = before.unwrap_or_default();
        let mut lost = before.checks.iter().filter(|check| !after.checks.contains(check));
        if let Some(check) = lost.next() {
            return Ok(Some(check.name.clone()));
        }
        let repository = self.repository(project)?;
        self.weakened_test(project, &repository, &before, &after, head)
            .await
    }

    /// Brings merged work to where the project was cloned from. Gives the reason if that cannot be done.
    async fn publish(&self, project: &Project, repository: &Repository) -> Option<String> {
        if !self.parts.work.push_to_origin {
            return None;
        }
        let reason = match repository.publish(&project.default_branch, None).await {
            Ok(PublishOutcome::Published) => return None,
            Ok(PublishOutcome::Skipped { reason }) => reason,
            Err(error) => error.to_string(),
        };
        tracing::warn!(project.id = %project.id, "merged work was not brought to origin: {reason}");
        Some(format!("merged work was not brought to origin: {reason}"))
    }

    /// Notes a merge: the subtask is merged, what waited for it may start, the task may be done.
    /// `trouble` is shown on the task.
    pub(crate) async fn conclude(
        &self,
        mut subtask: Subtask,
        request: MergeRequest,
        trouble: Option<String>,
    ) -> Result<()> {
        let (project, mut task) = self.parents(&subtask).await?;
        subtask.status = subtask.status.to(SubtaskStatus::Merged)?;
        subtask.error = None;
        subtask.worktree_expires_at = Some(self.now());
        task.error = trouble;
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
        // One that is done already means that this merge was noted by somebody else, which the commit will find.
        if task.status == TaskStatus::Active && all_merged(statuses.values().copied()) {
            task.status = task.status.to(TaskStatus::Done)?;
        }
        // The task's version is counted up by every merge, so that of two last merges at once one sees the other.
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await?;
        subtask.version += 1;
        if let Err(error) = self.expire_worktree(&project, subtask).await {
            tracing::warn!(%error, "the worktree of a merged subtask is still there; it is tried again");
        }
        for id in unblocked {
            if let Err(error) = self.settle_next(id).await {
                self.note_subtask(id, &error).await;
            }
        }
        Ok(())
    }

    /// Another attempt with `reason` as its feedback, or the end if there were enough.
    pub(super) async fn again(&self, mut subtask: Subtask, reason: String) -> Result<()> {
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
        let mut changes = self.claim_issue(&project, &mut subtask).await?;
        let run = self.worker_run(&project, &task, &subtask).await?;
        subtask.run_id = Some(run.id);
        changes.push(Change::enqueue(run));
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

    /// Ends the work on a subtask in progress: where something runs, its end is requested, and the rest follows from
    /// that end.
    pub(crate) async fn stop_work(&self, id: SubtaskId, reason: &str) -> Result<()> {
        // A second time, because a run may end by itself while its end is requested.
        for _ in 0..2 {
            let stopped: Result<Option<RunId>> = retry_on_conflict!({
                let subtask = self.parts.store.get::<Subtask, _>(id).await?;
                let Some(subtask) = subtask.filter(|s| s.status == SubtaskStatus::InProgress) else {
                    return Ok(None);
                };
                let run = match subtask.run_id {
                    Some(id) => self.parts.store.run(id).await?,
                    None => None,
                };
                let live = run
                    .filter(|run| !run.status.is_terminal())
                    .map(|run| run.submitted.id);
                self.commit(match live {
                    // The update is a guard: another run may have taken this one's place.
                    Some(run) => vec![Change::CancelRun(run), Change::update(&subtask)],
                    None => self.block(subtask, reason.to_owned())?,
                })
                .await?;
                Ok(live)
            });
            let Some(run) = stopped? else { break };
            let run = self.parts.store.run(run).await?;
            if run.is_none_or(|run| run.cancel_requested) {
                break;
            }
        }
        if let Some(subtask) = self.parts.store.get::<Subtask, _>(id).await? {
            self.cancel_checks(&subtask, None).await?;
        }
        self.settle_subtask(id).await
    }

    /// Removes the worktrees of failed and merged subtasks whose time is up. Returns how many.
    pub async fn expire_worktrees(&self) -> Result<usize> {
        let due = Filter::<Subtask>::all().and("worktree_expires_at", ostler_store::Op::Le, self.now());
        let mut removed = 0;
        for subtask in self.parts.store.list(due).await? {
            let (project, _) = self.parents(&subtask).await?;
            let id = subtask.id;
            match self.expire_worktree(&project, subtask).await {
                Ok(()) => removed += 1,
                // Somebody else is at it, or the next round is.
                Err(error) if is_lost_race(&error) => {}
                Err(error) => tracing::warn!(%error, subtask.id = %id, "an old worktree is still there"),
            }
        }
        Ok(removed)
    }

    async fn expire_worktree(&self, project: &Project, mut subtask: Subtask) -> Result<()> {
        self.repository(project)?.worktree_remove(subtask.id).await?;
        subtask.worktree_expires_at = None;
        self.commit(vec![Change::update(&subtask)]).await
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
