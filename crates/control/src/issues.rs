//! The issue graph of a project, and the `bd` command that agents use on it.

use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{
    Issue, IssueStatus, IssueType, Permission, Project, ProjectId, Run, RunId, RunKind, TaskId,
};
use ostler_forge::issues::{self, Graph, Invocation, Output, SystemIds};
use ostler_store::{Change, Filter, KeptReply, StoreError, StoreExt};
use serde_json::json;

/// A call of `bd` from inside a sandbox.
#[derive(Debug, Clone, Default)]
pub struct ToolCall {
    /// The words after the program's name.
    pub argv: Vec<String>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// Whether JSON goes into an envelope.
    pub json_envelope: bool,
    /// The caller's own id of this call: the same id again gets the same answer without a second effect.
    pub request_id: Option<String>,
}

/// What the call printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolReply {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

impl From<Output> for ToolReply {
    fn from(output: Output) -> Self {
        Self {
            stdout: output.stdout,
            stderr: output.stderr,
            code: output.code,
        }
    }
}

impl From<KeptReply> for ToolReply {
    fn from(kept: KeptReply) -> Self {
        Self {
            stdout: kept.stdout,
            stderr: kept.stderr,
            code: kept.code,
        }
    }
}

impl Control {
    /// The issues of a project, by id.
    pub async fn issues(&self, caller: &Caller, project: ProjectId) -> Result<Vec<Issue>> {
        let project = self.project_of(caller.tenant_id, project).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(self
            .parts
            .store
            .list(Filter::by("project_id", project.id))
            .await?)
    }

    /// Carries out a `bd` command on behalf of a run: its project's graph, with the run's task for what is new.
    pub async fn bd(&self, run: &Run, call: &ToolCall) -> Result<ToolReply> {
        let submitted = &run.submitted;
        let Some(project) = submitted.project_id else {
            return Err(ControlError::Unprocessable(
                "this run belongs to no project, so it has no issues; `bd` works in runs of tasks".into(),
            ));
        };
        let project = self.project_of(submitted.tenant_id, project).await?;
        let actor = match submitted.kind {
            RunKind::Planner => "planner".to_owned(),
            _ => format!("worker-{}", submitted.id),
        };
        let keep = call.request_id.as_ref().map(|request| KeptReply {
            id: format!("{}:{request}", submitted.id),
            tenant_id: submitted.tenant_id,
            run_id: submitted.id,
            stdout: String::new(),
            stderr: String::new(),
            code: 0,
            created_at: self.now(),
        });
        // For a planner, closing the epic says that the plan is complete, so its parts are open then.
        let planning = submitted.kind == RunKind::Planner;
        retry_on_conflict!({
            if let Some(keep) = &keep
                && let Some(kept) = self.parts.store.get::<KeptReply, _>(keep.id.clone()).await?
            {
                return Ok(kept.into());
            }
            let (reply, mut changes) = self
                .on_graph(&project, submitted.task_id, &actor, planning, call)
                .await?;
            if changes.is_empty() {
                return Ok(reply);
            }
            changes.extend(keep.clone().map(|keep| {
                Change::insert(&KeptReply {
                    stdout: reply.stdout.clone(),
                    stderr: reply.stderr.clone(),
                    code: reply.code,
                    ..keep
                })
            }));
            let verb = call.argv.first();
            let details = json!({ "command": verb, "task": submitted.task_id });
            let by = self.acting(run, "issue.change", project.id, details);
            match by.commit(changes).await {
                // The same call came twice at once, and the other one was first: its answer counts.
                Err(ControlError::Store(StoreError::Duplicate { table, .. })) if table == "kept_replies" => {
                    let id = keep.as_ref().map(|keep| keep.id.clone()).unwrap_or_default();
                    let first: Option<KeptReply> = self.parts.store.get(id).await?;
                    Ok(first.map_or(reply, ToolReply::from))
                }
                // Two new issues got the same id at once: another one is made.
                Err(ControlError::Store(StoreError::Duplicate { table, .. })) if table == "issues" => {
                    Err(StoreError::Conflict {
                        table: "issues",
                        key: String::new(),
                    }
                    .into())
                }
                other => other.map(|()| reply),
            }
        })
    }

    /// Forgets what the commands of a run were answered; for when it has ended.
    pub(crate) async fn forget_replies(&self, run: RunId) -> Result<()> {
        let kept: Vec<KeptReply> = self.parts.store.list(Filter::by("run_id", run)).await?;
        if kept.is_empty() {
            return Ok(());
        }
        self.commit(kept.iter().map(Change::delete).collect()).await
    }

    /// A new issue of a task: its id, and what makes it once it is committed.
    pub(crate) async fn new_issue(
        &self,
        project: &Project,
        task: TaskId,
        kind: IssueType,
        title: &str,
    ) -> Result<(String, Vec<Change>)> {
        let argv = ["create", "--silent", "-t", kind.as_str(), "--", title]
            .map(str::to_owned)
            .to_vec();
        let call = ToolCall {
            argv,
            ..ToolCall::default()
        };
        let (reply, changes) = self.on_graph(project, Some(task), "ostler", true, &call).await?;
        if reply.code == 0 {
            return Ok((reply.stdout.trim().to_owned(), changes));
        }
        Err(ControlError::Unprocessable(format!(
            "an issue for \"{title}\" could not be made: {}",
            reply.stderr.trim()
        )))
    }

    /// An issue of a project.
    pub(crate) async fn issue(&self, project: ProjectId, id: &str) -> Result<Option<Issue>> {
        let filter = Filter::by("project_id", project).and("id", ostler_store::Op::Eq, id.to_owned());
        Ok(self.parts.store.first(filter).await?)
    }

    /// The change that opens an issue again, if it is closed.
    pub(crate) fn reopen(&self, issue: Option<Issue>) -> Option<Change> {
        let mut issue = issue.filter(|issue| issue.status == IssueStatus::Closed)?;
        issue.status = IssueStatus::InProgress;
        issue.closed_at = None;
        issue.close_reason = None;
        issue.updated_at = self.now();
        Some(Change::update(&issue))
    }

    /// What a command says and would change.
    async fn on_graph(
        &self,
        project: &Project,
        task: Option<TaskId>,
        actor: &str,
        epics_close_freely: bool,
        call: &ToolCall,
    ) -> Result<(ToolReply, Vec<Change>)> {
        let all: Vec<Issue> = self
            .parts
            .store
            .list(Filter::by("project_id", project.id))
            .await?;
        let prefix = &self.parts.work.issue_prefix;
        let mut graph =
            Graph::new(prefix, project.tenant_id, project.id, all).epics_close_freely(epics_close_freely);
        let invocation = Invocation {
            argv: call.argv.clone(),
            stdin: call.stdin.clone(),
            actor: actor.to_owned(),
            task,
            now: self.now(),
            json_envelope: call.json_envelope,
            ..Invocation::default()
        };
        let output = issues::execute(&mut graph, &invocation, &mut SystemIds);
        let changes = graph
            .take_changes()
            .iter()
            .map(|change| match change {
                issues::Change::Inserted(issue) => Change::insert(issue),
                issues::Change::Changed(issue) => Change::update(issue),
                issues::Change::Deleted(issue) => Change::delete(issue),
            })
            .collect();
        Ok((output.into(), changes))
    }
}
