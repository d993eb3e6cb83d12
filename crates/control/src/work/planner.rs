//! How a task is planned.

use crate::{Control, Result};
use ostler_agents::split_body;
use ostler_domain::{
    DependencyType, Issue, IssueStatus, IssueType, Project, Subtask, SubtaskId, Task, TaskStatus,
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
        let run = match task.run_id {
            Some(id) => self.parts.store.run(id).await?,
            None => None,
        };
        let Some(run) = run else {
            return self.plan_once(&project, task).await;
        };
        if !run.status.is_terminal() {
            return Ok(());
        }
        if run.cancel_requested {
            return self
                .give_up_planning(task, "the planner's run was cancelled".into())
                .await;
        }
        let issues: Vec<Issue> = self
            .parts
            .store
            .list(Filter::by("project_id", project.id))
            .await?;
        let fault = match Plan::read(&issues, task.epic.as_deref().unwrap_or_default()) {
            Ok(plan) => return self.activate(&project, task, plan).await,
            Err(fault) => match run.outcome.error {
                Some(error) => format!("{fault}: {error}"),
                None => fault,
            },
        };
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

    /// Puts the attempt that the task is at on the queue, with an open epic.
    async fn plan_once(&self, project: &Project, mut task: Task) -> Result<()> {
        let known = match &task.epic {
            Some(epic) => self.issue(project.id, epic).await?,
            None => None,
        };
        let (epic, mut changes) = match known {
            Some(epic) => (epic.id.clone(), Vec::from_iter(self.reopen(Some(epic)))),
            // None was made yet, or a planner has deleted it.
            None => {
                self.new_issue(project, task.id, IssueType::Epic, &task.title)
                    .await?
            }
        };
        let run = self.planner_run(project, &task, &epic)?;
        task.epic = Some(epic);
        task.run_id = Some(run.id);
        if task.attempts == 1 {
            // What came before a new count of attempts is told to the planner, and is over.
            task.error = None;
        }
        changes.push(Change::enqueue(run));
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await
    }

    async fn give_up_planning(&self, mut task: Task, message: String) -> Result<()> {
        task.status = task.status.to(TaskStatus::PlanningFailed)?;
        task.error = Some(message);
        self.commit(self.task_changes(&mut task).to_vec()).await
    }

    /// Makes subtasks of the issues under the epic.
    async fn activate(&self, project: &Project, mut task: Task, plan: Plan<'_>) -> Result<()> {
        let Plan {
            epic,
            parts,
            edges,
            order,
        } = plan;
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
        let body = split_body(&epic.description);
        task.spec = body.spec;
        task.plan = if epic.design.is_empty() {
            body.plan
        } else {
            epic.design.clone()
        };
        task.status = task.status.to(TaskStatus::Active)?;
        task.error = None;
        // First, so that of two tasks that take the same numbers at once the second is a lost race.
        changes.insert(0, Change::update(&project));
        changes.extend(self.task_changes(&mut task));
        self.commit(changes).await?;
        if task.auto {
            for id in ids.values() {
                if let Err(error) = self.settle_next(*id).await {
                    self.note_subtask(*id, &error).await;
                }
            }
        }
        Ok(())
    }
}

/// A plan that can be carried out.
struct Plan<'a> {
    epic: &'a Issue,
    /// The issues that become subtasks: what is open under the epic.
    parts: BTreeMap<&'a str, &'a Issue>,
    /// What of `parts` each of them waits for.
    edges: BTreeMap<String, BTreeSet<String>>,
    /// Each after what it waits for.
    order: Vec<String>,
}

impl<'a> Plan<'a> {
    /// The plan under an epic, or why there is none.
    fn read(issues: &'a [Issue], epic: &str) -> Result<Self, String> {
        let Some(epic) = issues.iter().find(|issue| issue.id == epic) else {
            return Err(format!("the epic {epic} was deleted"));
        };
        if epic.status != IssueStatus::Closed {
            return Err(format!("the planner ended without closing the epic {}", epic.id));
        }
        let parents: BTreeMap<&str, &str> = issues
            .iter()
            .filter_map(|issue| Some((issue.id.as_str(), issue.parent()?)))
            .collect();
        let open = issues.iter().filter(|issue| issue.status != IssueStatus::Closed);
        let (direct, deeper): (Vec<_>, Vec<_>) = open
            .filter(|issue| is_below(&parents, &issue.id, &epic.id))
            .partition(|issue| issue.parent() == Some(&epic.id) && issue.issue_type != IssueType::Epic);
        if !deeper.is_empty() {
            let deeper: Vec<&str> = deeper.iter().map(|issue| issue.id.as_str()).collect();
            return Err(format!(
                "only issues directly under the epic {} can be worked on, and none of them may be an epic; move or close \
                 {}",
                epic.id,
                deeper.join(", ")
            ));
        }
        let parts: BTreeMap<&str, &Issue> = direct
            .into_iter()
            .map(|issue| (issue.id.as_str(), issue))
            .collect();
        if parts.is_empty() {
            return Err(format!(
                "the planner closed the epic {} without open issues under it",
                epic.id
            ));
        }
        let blockers = |issue: &Issue| {
            let blocking = issue
                .dependencies
                .iter()
                .filter(|d| d.kind == DependencyType::Blocks);
            blocking
                .filter(|d| parts.contains_key(d.depends_on.as_str()))
                .map(|d| d.depends_on.clone())
                .collect()
        };
        let edges: BTreeMap<String, BTreeSet<String>> = parts
            .values()
            .map(|issue| (issue.id.clone(), blockers(issue)))
            .collect();
        let order =
            dependency_order(&edges).map_err(|cycle| format!("the plan cannot be carried out: {cycle}"))?;
        Ok(Self {
            epic,
            parts,
            edges,
            order,
        })
    }
}

/// Whether one of an issue's ancestors is that one.
fn is_below(parents: &BTreeMap<&str, &str>, issue: &str, ancestor: &str) -> bool {
    let up = std::iter::successors(parents.get(issue), |parent| parents.get(**parent));
    // Parents that form a cycle end after as many steps as there are.
    up.take(parents.len()).any(|parent| *parent == ancestor)
}
