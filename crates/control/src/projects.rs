//! Projects.

use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, Project, ProjectId, Subtask, SubtaskStatus, slug};
use ostler_forge::Repository;
use ostler_store::{Change, Filter, RunFilter, StoreExt};
use serde_json::json;
use std::collections::BTreeSet;

/// What a clean-up removed.
#[derive(Debug, Default)]
pub struct Cleanup {
    /// Worktrees that no subtask needs any more.
    pub worktrees: Vec<String>,
    /// Branches of deleted or merged subtasks.
    pub branches: Vec<String>,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

impl Control {
    /// Adds a project: clones its source, then keeps its record. A clone without a record is taken over by the next try.
    pub async fn add_project(&self, caller: &Caller, source: &str, name: Option<&str>) -> Result<Project> {
        caller.require(Permission::ProjectsWrite)?;
        let source = self.parts.repositories.parse_source(source).await?;
        if source.local_path().is_some() {
            // A path of this machine may hold what belongs to others.
            caller.require(Permission::Admin)?;
        }
        let name = match name {
            None => slug(&source.name(), 60),
            Some(name) => name.trim().to_owned(),
        };
        if slug(&name, 60).is_empty() || name.chars().count() > 100 {
            return Err(ControlError::Invalid(
                "a project needs a name of 1 to 100 characters with a letter or digit; give one with --name"
                    .into(),
            ));
        }
        for (column, value) in [("name", &name), ("source", &source.to_string())] {
            let same = Filter::<Project>::by("tenant_id", caller.tenant_id).and(
                column,
                ostler_store::Op::Eq,
                value.clone(),
            );
            if let Some(project) = self.parts.store.first(same).await? {
                return Err(ControlError::Conflict(format!(
                    "the project {} ({}) has the same {column} already",
                    project.name, project.id
                )));
            }
        }
        let cloned = self
            .parts
            .repositories
            .repository(caller.tenant_id, &source)
            .clone_source(None, None)
            .await?;
        let project = Project {
            id: ProjectId::new(),
            tenant_id: caller.tenant_id,
            name,
            source: source.to_string(),
            default_branch: cloned.default_branch,
            next_subtask: 1,
            next_merge_request: 1,
            created_at: self.now(),
            version: 0,
        };
        let view = ostler_contracts::ProjectView::from(project.clone());
        let details = json!({ "name": project.name, "source": project.source });
        let by = self.acting(caller, "project.create", project.id, details);
        by.commit(vec![
            Change::insert(&project),
            self.event(project.tenant_id, "project.created", project.id, view),
        ])
        .await?;
        Ok(project)
    }

    /// The tenant's projects, by name.
    pub async fn projects(&self, caller: &Caller) -> Result<Vec<Project>> {
        caller.require(Permission::ProjectsRead)?;
        Ok(self
            .parts
            .store
            .list(Filter::by("tenant_id", caller.tenant_id).order_by("name"))
            .await?)
    }

    /// One project.
    pub async fn project(&self, caller: &Caller, id: ProjectId) -> Result<Project> {
        let project = self.project_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsRead)?;
        Ok(project)
    }

    /// Removes a project with its tasks, clone and worktrees. The place it was cloned from is not touched. Refused while
    /// runs of it are under way.
    pub async fn remove_project(&self, caller: &Caller, id: ProjectId) -> Result<()> {
        let project = self.project_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsWrite)?;
        for status in [
            ostler_domain::RunStatus::Running,
            ostler_domain::RunStatus::Queued,
        ] {
            let live = RunFilter {
                project_id: Some(id),
                status: Some(status),
                limit: 1,
                ..RunFilter::default()
            };
            if let Some(run) = self.parts.store.runs(live).await?.first() {
                return Err(ControlError::Conflict(format!(
                    "the run {} of this project is {status}; delete its tasks first, which ends their runs",
                    run.submitted.id
                )));
            }
        }
        // The files first: a record without files says what to remove, files without a record would be forgotten.
        self.repository(&project)?.remove().await?;
        let gone = self.event(
            project.tenant_id,
            "project.removed",
            project.id,
            serde_json::Value::Null,
        );
        let details = json!({ "name": project.name });
        let by = self.acting(caller, "project.remove", project.id, details);
        by.commit(vec![Change::delete(&project), gone]).await
    }

    /// Removes worktrees and branches that no subtask needs any more.
    pub async fn cleanup_project(&self, caller: &Caller, id: ProjectId) -> Result<Cleanup> {
        let project = self.project_of(caller.tenant_id, id).await?;
        caller.require(Permission::ProjectsWrite)?;
        self.note_act(caller, "project.clean_up", id, json!({ "name": project.name }))
            .await?;
        let repository = self.repository(&project)?;
        let subtasks: Vec<Subtask> = self.parts.store.list(Filter::by("project_id", id)).await?;
        let needed: BTreeSet<String> = subtasks
            .iter()
            .filter(|s| s.status != SubtaskStatus::Merged)
            .map(|s| s.id.to_string())
            .collect();
        let mut report = Cleanup::default();
        for worktree in repository.worktree_list().await? {
            let name = worktree
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if needed.contains(&name) {
                continue;
            }
            // A directory of another name is not ours to remove.
            let Ok(subtask) = name.parse() else { continue };
            match repository.worktree_remove(subtask).await {
                Ok(()) => report.worktrees.push(worktree.path.display().to_string()),
                Err(error) => report.failures.push(error.to_string()),
            }
        }
        for subtask in subtasks.iter().filter(|s| s.status == SubtaskStatus::Merged) {
            if repository.head_of(&subtask.branch).await?.is_none() {
                continue;
            }
            match repository.delete_branch(&subtask.branch).await {
                Ok(()) => report.branches.push(subtask.branch.clone()),
                Err(error) => report.failures.push(error.to_string()),
            }
        }
        repository.maintain().await?;
        Ok(report)
    }

    pub(crate) fn repository(&self, project: &Project) -> Result<Repository> {
        Ok(self.parts.repositories.of(project)?)
    }
}
