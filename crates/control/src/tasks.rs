//! Tasks.

use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, ProjectId, RunId, Subtask, SubtaskStatus, Task, TaskId, TaskStatus};
use ostler_store::{Change, Filter, RunFilter, StoreExt};
use serde_json::json;

/// What a person wants.
#[derive(Debug, Clone, Default)]
pub struct NewTask {
    /// Title, 1 to 200 characters.
    pub title: String,
    /// In words; at most 256 KiB.
    pub description: String,
    /// Agent kind; the default of the settings when absent.
    pub agent_kind: Option<String>,
    /// Whether it goes on by itself.
    pub auto: bool,
}

const MAX_DESCRIPTION: usize = 256 * 1024;

impl Control {
    /// Creates a task and puts its planner on the queue. The project is synchronised first; if that fails, nothing is
    /// created.
    pub async fn create_task(&self, caller: &Caller, project: ProjectId, new: NewTask) -> Result<Task> {
        let project = self.project_of(caller.tenant_id, project).await?;
        caller.require(Permission::ProjectsWrite)?;
        let title = new.title.trim().to_owned();
        if title.is_empty() || title.chars().count() > 200 || title.contains(char::is_control) {
            return Err(ControlError::Invalid(
                "a task needs a title of 1 to 200 characters on one line".into(),
            ));
        }
        if new.description.len() > MAX_DESCRIPTION {
            return Err(ControlError::Invalid(
                "the description is longer than 256 KiB".into(),
            ));
        }
        let agent_kind = new
            .agent_kind
            .unwrap_or_else(|| self.parts.work.agent_kind.clone());
        let kind = self.parts.kinds.get(&agent_kind)?;
        if kind.program().is_none() {
            return Err(ControlError::Unprocessable(format!(
                "the agent kind {agent_kind} has no program yet: {}",
                kind.install_hint()
            )));
        }
        self.repository(&project)?
            .sync(&project.default_branch, None)
            .await?;
        let id = TaskId::new();
        let now = self.now();
        let mut task = Task {
            id,
            tenant_id: project.tenant_id,
            project_id: project.id,
            title,
            description: new.description,
            agent_kind,
            auto: new.auto,
            status: TaskStatus::Planning,
            epic: None,
            spec: String::new(),
            plan: String::new(),
            attempts: 1,
            run_id: None,
            error: None,
            created_at: now,
            updated_at: now,
            version: 0,
        };
        let inserted = Change::insert(&task);
        let view = ostler_contracts::TaskView::from(task.clone());
        let details = json!({ "project": task.project_id, "agent_kind": task.agent_kind, "auto": task.auto });
        let by = self.acting(caller, "task.create", id, details);
        by.commit(vec![
            inserted,
            self.event(task.tenant_id, "task.created", id, view),
        ])
        .await?;
        // The epic belongs to the task, so it comes second; a crash between the two is mended by settling.
        self.settle_or_note(id).await;
        if let Some(stored) = self.parts.store.get(id).await? {
            task = stored;
        }
        Ok(task)
    }

    /// The tasks of a project, newest first.
    pub async fn tasks(&self, caller: &Caller, project: ProjectId) -> Result<Vec<Task>> {
        let project = self.project_of(caller.tenant_id, project).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(self
            .parts
            .store
            .list(Filter::by("project_id", project.id).order_by_desc("created_at"))
            .await?)
    }

    /// One task.
    pub async fn task(&self, caller: &Caller, id: TaskId) -> Result<Task> {
        let task = self.task_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(task)
    }

    /// Plans a task again whose planning has failed, with a new count of attempts. The planner is told why the last
    /// one failed.
    pub async fn retry_planning(&self, caller: &Caller, id: TaskId) -> Result<Task> {
        let task = retry_on_conflict!({
            let mut task = self.task_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            task.status = task.status.to(TaskStatus::Planning)?;
            let project = self.project_of(task.tenant_id, task.project_id).await?;
            self.repository(&project)?
                .sync(&project.default_branch, None)
                .await?;
            task.attempts = 1;
            task.run_id = None;
            let by = self.acting(caller, "task.retry_planning", id, ());
            by.commit(self.task_changes(&mut task).to_vec()).await?;
            Ok(task)
        })?;
        self.settle_or_note(id).await;
        Ok(self.parts.store.get(id).await?.unwrap_or(task))
    }

    /// Ends what runs for a task. What was in progress is blocked by failure, a planning has failed; both can be tried
    /// again. Nothing of the task starts or is merged by itself any more.
    pub async fn kill_task(&self, caller: &Caller, id: TaskId) -> Result<Task> {
        retry_on_conflict!({
            let mut task = self.task_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            task.auto = false;
            let mut changes = Vec::new();
            if task.status == TaskStatus::Planning {
                let live = self.live_runs(id).await?;
                if live.is_empty() {
                    task.status = task.status.to(TaskStatus::PlanningFailed)?;
                    task.error = Some("it was killed".into());
                }
                changes.extend(live.into_iter().map(Change::CancelRun));
            }
            changes.extend(self.task_changes(&mut task));
            self.acting(caller, "task.kill", id, ()).commit(changes).await
        })?;
        for subtask in self
            .parts
            .store
            .list(Filter::<Subtask>::by("task_id", id))
            .await?
        {
            if subtask.status == SubtaskStatus::InProgress {
                self.stop_work(subtask.id, "its task was killed").await?;
            }
        }
        self.settle_or_note(id).await;
        self.task_of(caller.tenant_id, id).await
    }

    /// Ends all runs of a task, then removes it with its subtasks, issues, merge requests and worktrees.
    pub async fn delete_task(&self, caller: &Caller, id: TaskId) -> Result<()> {
        let (project, subtasks) = retry_on_conflict!({
            let task = self.task_of(caller.tenant_id, id).await?;
            caller.require(Permission::ProjectsWrite)?;
            let project = self.project_of(task.tenant_id, task.project_id).await?;
            let subtasks: Vec<Subtask> = self.parts.store.list(Filter::by("task_id", id)).await?;
            let runs = self.live_runs(id).await?;
            let mut changes: Vec<Change> = runs.into_iter().map(Change::CancelRun).collect();
            // The updates are guards: whoever puts a run on the queue changes the task or a subtask with it, and a run
            // that came after the list was read would be left over.
            changes.push(Change::update(&task));
            changes.extend(subtasks.iter().map(Change::update));
            changes.push(Change::delete(&task));
            changes.push(self.event(task.tenant_id, "task.deleted", id, serde_json::Value::Null));
            let by = self.acting(caller, "task.delete", id, json!({ "project": task.project_id }));
            by.commit(changes).await?;
            Ok((project, subtasks))
        })?;
        let repository = self.repository(&project)?;
        for subtask in subtasks {
            // What cannot be removed now is removed by the project's clean-up.
            if let Err(error) = repository.worktree_remove(subtask.id).await {
                tracing::warn!(%error, subtask.id = %subtask.id, "the worktree of a deleted subtask is still there");
            }
        }
        Ok(())
    }

    /// The next step of a task that is kept already: what hinders it is shown on it, and it is tried again.
    async fn settle_or_note(&self, id: TaskId) {
        if let Err(error) = self.settle_task(id).await {
            self.note_task(id, &error).await;
        }
    }

    async fn live_runs(&self, task: TaskId) -> Result<Vec<RunId>> {
        let mut ids = Vec::new();
        for status in [
            ostler_domain::RunStatus::Queued,
            ostler_domain::RunStatus::Running,
        ] {
            let filter = RunFilter {
                task_id: Some(task),
                status: Some(status),
                limit: 1000,
                ..RunFilter::default()
            };
            ids.extend(
                self.parts
                    .store
                    .runs(filter)
                    .await?
                    .into_iter()
                    .map(|run| run.submitted.id),
            );
        }
        Ok(ids)
    }
}
