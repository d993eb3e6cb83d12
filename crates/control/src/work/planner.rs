//! How a task is planned.

use crate::{Control, Result};
use ostler_agents::split_body;
use ostler_domain::{
    DependencyType, Issue, IssueStatus, IssueType, Project, RunStatus, Subtask, SubtaskId, Task, TaskStatus,
    branch_name, dependency_order, waiting_status,
};
use ostler_store::{Change, Filter, StoreExt};
use std::collections::{BTreeMap, BTreeSet};

/// Room between two subtasks on the board, so that one can be put between them.
const POSITION_STEP: i64 = 1000;

impl Control {
    /// The next step of a task in `planning`.
    pub(super) async fn settle_planning(&self, mut task: Task) -> Result<()> {
        let project = self.project_of(task.tenant_id, task.project_id).await?;
        let Some(epic) = task.epic.clone() else {
            let epic = self.create_epic(&project, task.id, &task.title).await?;
            task.epic = Some(epic);
            self.commit(self.task_changes(&mut task).to_vec()).await?;
            task.version += 1;
            return self.plan_once(&project, task).await;
        };
        let Some(run_id) = task.run_id else {
            return self.plan_once(&project, task).await;
        };
        let Some(run) = self.parts.store.run(run_id).await? else {
            return self.plan_once(&project, task).await;
        };
        if !run.status.is_terminal() {
            return Ok(());
        }
        let issues: Vec<Issue> = self
            .parts
            .store
            .list(Filter::by("project_id", project.id))
            .await?;
        let fault = match plan_fault(&issues, &epic) {
            None => return self.activate(&project, task, &epic, issues).await,
            Some(fault) => run
                .outcome
                .error
                .map_or_else(|| fault.clone(), |error| format!("{fault}: {error}")),
        };
        if run.status == RunStatus::Cancelled {
            return self
                .give_up_planning(task, "the planner's run was cancelled".into())
                .await;
        }
        if task.attempts >= self.parts.work.planner_attempts {
            let message = format!(
                "the planner gave up after {} attempts; the last one: {fault}",
                task.attempts
            );
            return self.give_up_planning(task, message).await;
        }
        task.attempts += 1;
        task.error = Some(super::tail(&fault).to_owned());
        self.plan_once(&project, task).await
    }

    /// Puts the attempt that the task is at on the queue.
    async fn plan_once(&self, project: &Project, mut task: Task) -> Result<()> {
        let epic = task.epic.clone().unwrap_or_default();
        let run = self.planner_run(project, &task, &epic)?;
        task.run_id = Some(run.id);
        let mut changes = vec![Change::enqueue(run)];
        changes.extend(self.reopen(self.issue(project.id, &epic).await?));
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await
    }

    async fn give_up_planning(&self, mut task: Task, message: String) -> Result<()> {
        task.status = task.status.to(TaskStatus::PlanningFailed)?;
        task.error = Some(message);
        self.commit(self.task_changes(&mut task).to_vec()).await
    }

    /// Makes subtasks of the issues under the epic.
    async fn activate(
        &self,
        project: &Project,
        mut task: Task,
        epic: &str,
        issues: Vec<Issue>,
    ) -> Result<()> {
        let parts: BTreeMap<&str, &Issue> = parts(&issues, epic)
            .map(|issue| (issue.id.as_str(), issue))
            .collect();
        let edges: BTreeMap<String, BTreeSet<String>> = parts
            .values()
            .map(|issue| (issue.id.clone(), blockers(issue, &parts)))
            .collect();
        let order = match dependency_order(&edges) {
            Ok(order) => order,
            Err(cycle) => {
                return self
                    .give_up_planning(task, format!("the plan cannot be carried out: {cycle}"))
                    .await;
            }
        };
        let ids: BTreeMap<&str, SubtaskId> = parts.keys().map(|id| (*id, SubtaskId::new())).collect();
        let now = self.now();
        let mut project = project.clone();
        let mut changes = Vec::new();
        for (index, issue_id) in order.iter().enumerate() {
            let Some(issue) = parts.get(issue_id.as_str()) else {
                continue;
            };
            let depends_on: Vec<SubtaskId> = edges[issue_id]
                .iter()
                .filter_map(|other| ids.get(other.as_str()).copied())
                .collect();
            let (status, blocked_reason) = waiting_status(&depends_on, &BTreeMap::new());
            let body = split_body(&issue.description);
            let number = project.next_subtask;
            project.next_subtask += 1;
            let subtask = Subtask {
                id: ids[issue_id.as_str()],
                tenant_id: task.tenant_id,
                project_id: project.id,
                task_id: task.id,
                issue_id: issue_id.clone(),
                number,
                title: issue.title.clone(),
                spec: body.spec,
                plan: if issue.design.is_empty() {
                    body.plan
                } else {
                    issue.design.clone()
                },
                position: (index as i64 + 1) * POSITION_STEP,
                status,
                blocked_reason,
                depends_on,
                branch: branch_name(number, &issue.title),
                attempts: 0,
                run_id: None,
                feedback: None,
                error: None,
                merge_request_id: None,
                worktree_expires_at: None,
                created_at: now,
                updated_at: now,
                version: 0,
            };
            changes.push(Change::insert(&subtask));
            let view = ostler_contracts::SubtaskView::from(subtask.clone());
            changes.push(self.event(task.tenant_id, "subtask.created", subtask.id, view));
        }
        if let Some(epic) = issues.iter().find(|issue| issue.id == epic) {
            let body = split_body(&epic.description);
            task.spec = body.spec;
            task.plan = if epic.design.is_empty() {
                body.plan
            } else {
                epic.design.clone()
            };
        }
        task.status = task.status.to(TaskStatus::Active)?;
        task.error = None;
        changes.push(Change::update(&project));
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await?;
        if task.auto {
            for id in ids.values() {
                // What fails here is tried again by the next round, and the subtask shows why.
                if let Err(error) = self.settle_next(*id).await {
                    tracing::warn!(%error, subtask.id = %id, "a subtask could not start; it is tried again");
                }
            }
        }
        Ok(())
    }
}

/// The issues that become subtasks.
fn parts<'a>(issues: &'a [Issue], epic: &'a str) -> impl Iterator<Item = &'a Issue> {
    issues.iter().filter(move |issue| {
        issue.parent() == Some(epic)
            && issue.issue_type != IssueType::Epic
            && issue.status != IssueStatus::Closed
    })
}

/// What of `parts` an issue waits for.
fn blockers(issue: &Issue, parts: &BTreeMap<&str, &Issue>) -> BTreeSet<String> {
    issue
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyType::Blocks && parts.contains_key(d.depends_on.as_str()))
        .map(|d| d.depends_on.clone())
        .collect()
}

/// Why the issue graph is not a finished plan; `None` when it is one.
fn plan_fault(issues: &[Issue], epic: &str) -> Option<String> {
    let Some(found) = issues.iter().find(|issue| issue.id == epic) else {
        return Some(format!("the epic {epic} is gone"));
    };
    if found.status != IssueStatus::Closed {
        return Some(format!("the planner ended without closing the epic {epic}"));
    }
    if parts(issues, epic).next().is_none() {
        return Some(format!(
            "the planner closed the epic {epic} without open issues under it"
        ));
    }
    None
}
