//! How tasks and subtasks go on: what to do next, given what is stored.
//!
//! Every function here may be called at any time and any number of times. It reads, does what is missing (git
//! operations are idempotent), and commits the next state guarded by the versions it read, so that of two callers one
//! wins and the other looks again.

mod planner;
mod tested;
mod worker;

use crate::conflict::{is_lost_race, retry_on_conflict};
use crate::{Control, ControlError, Result};
use ostler_agents::{FeedbackPrompt, PlannerPrompt, WorkerPrompt};
use ostler_domain::{
    AgentSpec, NewRun, Project, Requirements, RunId, RunKind, RunSpec, Subtask, SubtaskId, SubtaskStatus,
    Task, TaskId, TaskStatus, WorkspaceSpec,
};
use ostler_forge::project_file::{FILE_NAME, ProjectFile};
use ostler_store::{AgentSession, Filter, StoreExt};
use std::pin::Pin;
use std::time::Duration;

/// Largest `ostler.toml`-derived or check-derived text that goes into a prompt.
const MAX_FEEDBACK: usize = 16 * 1024;

impl Control {
    /// Does the next step of everything that is under way; run at a period, it catches what a lost hint missed. Errors
    /// of one object do not keep others back; the object shows them. Returns how many objects were looked at.
    pub async fn settle_all(&self) -> Result<usize> {
        let tasks: Vec<Task> = self
            .parts
            .store
            .list(Filter::by("status", TaskStatus::Planning))
            .await?;
        let moving = [
            SubtaskStatus::InProgress,
            SubtaskStatus::Ready,
            SubtaskStatus::Completed,
        ];
        let subtasks: Vec<Subtask> = self
            .parts
            .store
            .list(Filter::all().within("status", moving))
            .await?;
        let count = tasks.len() + subtasks.len();
        for task in tasks {
            if let Err(error) = self.settle_task(task.id).await {
                self.note_task(task.id, &error).await;
            }
        }
        for subtask in subtasks {
            if let Err(error) = self.settle_subtask(subtask.id).await {
                self.note_subtask(subtask.id, &error).await;
            }
        }
        Ok(count)
    }

    /// Does the next step of a task, if there is one to do.
    pub async fn settle_task(&self, id: TaskId) -> Result<()> {
        retry_on_conflict!({
            match self.parts.store.get::<Task, _>(id).await? {
                Some(task) if task.status == TaskStatus::Planning => self.settle_planning(task).await,
                _ => Ok(()),
            }
        })
    }

    /// Does the next steps of a subtask, as far as there are any to do.
    pub async fn settle_subtask(&self, id: SubtaskId) -> Result<()> {
        retry_on_conflict!({
            let Some(subtask) = self.parts.store.get::<Subtask, _>(id).await? else {
                return Ok(());
            };
            let auto = match self.parts.store.get::<Task, _>(subtask.task_id).await? {
                Some(task) => task.auto,
                None => return Ok(()),
            };
            match subtask.status {
                SubtaskStatus::Ready if auto => self.begin_work(subtask).await.map(drop),
                SubtaskStatus::InProgress => self.settle_progress(subtask).await,
                SubtaskStatus::Completed if auto => self.merge(subtask, true).await,
                _ => Ok(()),
            }
        })
    }

    /// [`Self::settle_subtask`] for the steps that it leads to itself.
    pub(crate) fn settle_next(&self, id: SubtaskId) -> Pin<Box<dyn Future<Output = Result<()>> + Send + '_>> {
        Box::pin(self.settle_subtask(id))
    }

    /// Shows on a task why it does not go on; what is shown goes with its next step.
    pub(crate) async fn note_task(&self, id: TaskId, error: &ControlError) {
        tracing::warn!(%error, task.id = %id, "a task could not go on; it is tried again");
        let noted: Result<()> = retry_on_conflict!({
            let Some(mut task) = self.parts.store.get::<Task, _>(id).await? else {
                return Ok(());
            };
            let reason = Some(error.to_string());
            if is_lost_race(error) || task.status != TaskStatus::Planning || task.error == reason {
                return Ok(());
            }
            task.error = reason;
            self.commit(self.task_changes(&mut task).to_vec()).await
        });
        if let Err(error) = noted {
            tracing::warn!(%error, task.id = %id, "and the task does not show why");
        }
    }

    /// Shows on a subtask why it does not go on; what is shown goes with its next step.
    pub(crate) async fn note_subtask(&self, id: SubtaskId, error: &ControlError) {
        tracing::warn!(%error, subtask.id = %id, "a subtask could not go on; it is tried again");
        let noted: Result<()> = retry_on_conflict!({
            let Some(mut subtask) = self.parts.store.get::<Subtask, _>(id).await? else {
                return Ok(());
            };
            let moving = matches!(
                subtask.status,
                SubtaskStatus::Ready | SubtaskStatus::InProgress | SubtaskStatus::Completed
            );
            let reason = Some(error.to_string());
            if is_lost_race(error) || !moving || subtask.error == reason {
                return Ok(());
            }
            subtask.error = reason;
            self.commit(self.subtask_changes(&mut subtask).to_vec()).await
        });
        if let Err(error) = noted {
            tracing::warn!(%error, subtask.id = %id, "and the subtask does not show why");
        }
    }

    /// The checks that a branch's `ostler.toml` names.
    pub(crate) async fn project_file(&self, project: &Project, branch: &str) -> Result<ProjectFile> {
        let text = self.repository(project)?.file_at(branch, FILE_NAME).await?;
        Ok(ProjectFile::from_bytes(text.as_deref()).map_err(ostler_forge::ForgeError::from)?)
    }

    /// The session of a worker or planner that the next attempt should take up.
    async fn session(&self, subject: &str) -> Result<Option<String>> {
        let session: Option<AgentSession> = self
            .parts
            .store
            .first(Filter::by("subject", subject.to_owned()))
            .await?;
        Ok(session
            .filter(|s| self.now() < s.expires_at)
            .map(|s| s.agent_session))
    }

    fn agent_run(&self, project: &Project, task: &Task, kind: RunKind, attempt: u32, retry: bool) -> NewRun {
        let now = self.now();
        // The first attempt starts at once; the wait grows with the failures before this one.
        let wait = |failures| self.parts.work.backoff().delay(failures, rand::random());
        NewRun {
            id: RunId::new(),
            tenant_id: project.tenant_id,
            kind,
            project_id: Some(project.id),
            task_id: Some(task.id),
            subtask_id: None,
            plan_id: None,
            ordinal: attempt,
            requirements: self.parts.work.agent_requirements.clone(),
            priority: 0,
            max_attempts: self.parts.work.run_attempts,
            not_before: retry.then(|| now.plus(wait(attempt.saturating_sub(1).max(1)))),
            held: false,
            spec: RunSpec {
                timeout: Some(Duration::from_secs(self.parts.work.agent_timeout_seconds)),
                ..RunSpec::default()
            },
            created_at: now,
        }
    }

    fn planner_run(&self, project: &Project, task: &Task, epic: &str) -> Result<NewRun> {
        let kind = self.parts.kinds.get(&task.agent_kind)?;
        let prompt = self.parts.prompts.planner(&PlannerPrompt {
            title: &task.title,
            description: &task.description,
            project: &project.name,
            default_branch: &project.default_branch,
            epic,
            instruction_file: kind.instruction_file(),
            attempt: task.attempts,
            // Before the first epic there was no attempt that a planner could learn from.
            feedback: task.error.as_deref().filter(|_| task.epic.is_some()),
        })?;
        let mut run = self.agent_run(project, task, RunKind::Planner, task.attempts, task.attempts > 1);
        run.spec.agent = Some(AgentSpec {
            kind: task.agent_kind.clone(),
            prompt,
            resume: None,
        });
        run.spec.workspace = Some(WorkspaceSpec {
            project_id: project.id,
            branch: project.default_branch.clone(),
            head: None,
            write_back: false,
        });
        Ok(run)
    }

    async fn worker_run(&self, project: &Project, task: &Task, subtask: &Subtask) -> Result<NewRun> {
        let kind = self.parts.kinds.get(&task.agent_kind)?;
        // A broken file is the agent's to mend: it is told by the checks' step, not here.
        let file = self
            .project_file(project, &subtask.branch)
            .await
            .unwrap_or_default();
        let mut checks: Vec<String> = file.checks.into_iter().map(|check| check.command).collect();
        checks.extend(file.tests.map(|path| format!("# the tests of the plan {path}")));
        let resume = self.session(&subtask.id.to_string()).await?;
        let prompt = if resume.is_some() {
            self.parts.prompts.feedback(&FeedbackPrompt {
                title: &subtask.title,
                issue: &subtask.issue_id,
                branch: &subtask.branch,
                checks: &checks,
                feedback: subtask.feedback.as_deref(),
                attempt: subtask.attempts,
            })?
        } else {
            self.parts.prompts.worker(&WorkerPrompt {
                task_title: &task.title,
                title: &subtask.title,
                spec: &subtask.spec,
                plan: &subtask.plan,
                project: &project.name,
                default_branch: &project.default_branch,
                branch: &subtask.branch,
                issue: &subtask.issue_id,
                checks: &checks,
                instruction_file: kind.instruction_file(),
                attempt: subtask.attempts,
                feedback: subtask.feedback.as_deref(),
            })?
        };
        let mut run = self.agent_run(
            project,
            task,
            RunKind::Worker,
            subtask.attempts,
            subtask.attempts > 1,
        );
        run.subtask_id = Some(subtask.id);
        run.spec.agent = Some(AgentSpec {
            kind: task.agent_kind.clone(),
            prompt,
            resume,
        });
        run.spec.workspace = Some(WorkspaceSpec {
            project_id: project.id,
            branch: subtask.branch.clone(),
            head: None,
            write_back: true,
        });
        Ok(run)
    }

    /// What the sandboxes of checks must offer.
    fn check_requirements(&self, file: &ProjectFile) -> Requirements {
        let wanted = file.requirements.clone();
        let mut requirements: Requirements = self.parts.work.check_requirements.clone();
        requirements.pool = file.pool.clone().or(requirements.pool);
        requirements.image = wanted.image.or(requirements.image);
        requirements.cpus = wanted.cpus.or(requirements.cpus);
        requirements.memory_mb = wanted.memory_mb.or(requirements.memory_mb);
        requirements.disk_mb = wanted.disk_mb.or(requirements.disk_mb);
        requirements
    }

    fn check_run(&self, project: &Project, subtask: &Subtask, head: String, file: ProjectFile) -> NewRun {
        let settings = &self.parts.work;
        let requirements = self.check_requirements(&file);
        let timeout = file.checks.iter().map(|check| check.timeout).sum();
        let commands = file
            .checks
            .into_iter()
            .map(|check| ostler_domain::CommandSpec {
                argv: vec![
                    "timeout".into(),
                    "-k".into(),
                    "5".into(),
                    check.timeout.as_secs_f64().to_string(),
                ]
                .into_iter()
                .chain(["sh", "-c", &check.command].map(str::to_owned))
                .collect(),
                env: check.env,
                ..Default::default()
            })
            .collect();
        NewRun {
            id: RunId::new(),
            tenant_id: project.tenant_id,
            kind: RunKind::Check,
            project_id: Some(project.id),
            task_id: Some(subtask.task_id),
            subtask_id: Some(subtask.id),
            plan_id: None,
            ordinal: subtask.attempts,
            requirements,
            priority: 0,
            max_attempts: settings.run_attempts,
            not_before: None,
            held: false,
            spec: RunSpec {
                commands,
                workspace: Some(WorkspaceSpec {
                    project_id: project.id,
                    branch: subtask.branch.clone(),
                    head: Some(head),
                    write_back: false,
                }),
                timeout: Some(timeout),
                ..RunSpec::default()
            },
            created_at: self.now(),
        }
    }
}

/// The end of a text, which is where programs say what went wrong.
fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(MAX_FEEDBACK);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
