//! The plan of tests that a project's work must pass, after its checks.
//!
//! Which plan that is follows from what is stored: its id is made of the run that came before and the commit. So nothing else
//! remembers it, and these steps may be repeated like all others. A plan ends by [`Control::settle_plan`], which lets its
//! subtask go on.

use crate::plans::project::{plan_id, read, weakened};
use crate::{Control, ControlError, Result};
use ostler_contracts::PlanStatus;
use ostler_domain::{Project, Requirements, Subtask};
use ostler_forge::Repository;
use ostler_forge::project_file::ProjectFile;
use ostler_plans::Plan;
use std::collections::BTreeSet;

/// Largest plan that is read from a repository, bytes.
const MAX_PLAN: u64 = crate::MAX_PLAN as u64;

impl Control {
    /// Has the branch tested at `head`, where the project wants that; then opens the merge request.
    pub(super) async fn test_or_open(
        &self,
        mut subtask: Subtask,
        project: &Project,
        repository: &Repository,
        head: String,
    ) -> Result<()> {
        let file = match self.project_file(project, &head).await {
            Ok(file) => file,
            Err(error) => {
                return self
                    .again(subtask, format!("the project's checks cannot run: {error}"))
                    .await;
            }
        };
        let (Some(path), Some(before)) = (&file.tests, subtask.run_id) else {
            return self.open_merge_request(subtask, project, repository, head).await;
        };
        let id = plan_id(before, &head);
        let Some((plan, status)) = self.check_status(id).await? else {
            // One that was completed before is in progress again, whoever looks next.
            subtask.error = None;
            let changes = self.subtask_changes(&mut subtask).to_vec();
            self.commit(changes).await?;
            subtask.version += 1;
            // Of what the branch was before nobody wants to know any more.
            self.cancel_checks(&subtask, Some(id)).await?;
            let plan = match self.tests_of_branch(project, repository, &head, path).await? {
                Ok(plan) => plan,
                Err(why) => {
                    let why = format!("the project's tests cannot run: {why}");
                    return self.again(subtask, why).await;
                }
            };
            return match self.submit_check(id, plan, &subtask, project, &head).await {
                Err(error @ (ControlError::Plan(..) | ControlError::Unprocessable(_))) => {
                    self.again(subtask, format!("the project's tests cannot run: {error}"))
                        .await
                }
                done => done,
            };
        };
        match status {
            PlanStatus::Running => Ok(()),
            PlanStatus::Passed => self.open_merge_request(subtask, project, repository, head).await,
            PlanStatus::Cancelled => {
                let changes = self.block(subtask, format!("its tests were cancelled: {id}"))?;
                self.commit(changes).await
            }
            PlanStatus::Failed => {
                let failures = self.check_failures(&plan).await?;
                self.again(subtask, failures).await
            }
        }
    }

    /// The plan that a branch has, or why it is not executed. What is tested is the branch's to say, where is not: an agent
    /// wrote it, and another pool may hold more than agents are meant to see.
    async fn tests_of_branch(
        &self,
        project: &Project,
        repository: &Repository,
        head: &str,
        path: &str,
    ) -> Result<std::result::Result<Plan, String>> {
        let Some(bytes) = repository.file_up_to(head, path, MAX_PLAN).await? else {
            return Ok(Err(format!("ostler.toml names {path}, which is not there")));
        };
        let mut plan = match read(path, &bytes) {
            Ok(plan) => plan,
            Err(why) => return Ok(Err(why)),
        };
        let trusted = self
            .project_file(project, &project.default_branch)
            .await
            .unwrap_or_default();
        let usual = self.check_requirements(&trusted);
        let known: BTreeSet<Requirements> = self
            .trusted_tests(project, repository, &trusted)
            .await?
            .into_iter()
            .flat_map(|plan| plan.tests)
            .map(|test| test.requires)
            .collect();
        for test in &mut plan.tests {
            if test.requires == Requirements::default() {
                test.requires = usual.clone();
            } else if !known.contains(&test.requires) && test.requires != usual {
                return Ok(Err(format!(
                    "the test `{}` asks for a sandbox that no test on {} asks for; take out what it requires, or have a person \
                     add it there",
                    test.name, project.default_branch
                )));
            }
        }
        Ok(Ok(plan))
    }

    /// The plan of the default branch; none if it cannot be read.
    async fn trusted_tests(
        &self,
        project: &Project,
        repository: &Repository,
        file: &ProjectFile,
    ) -> Result<Option<Plan>> {
        let Some(path) = &file.tests else { return Ok(None) };
        let bytes = repository
            .file_up_to(&project.default_branch, path, MAX_PLAN)
            .await?;
        Ok(bytes.and_then(|bytes| read(path, &bytes).ok()))
    }

    /// A test of the default branch's plan that other work would not be held to any more.
    pub(super) async fn weakened_test(
        &self,
        project: &Project,
        repository: &Repository,
        before: &ProjectFile,
        after: &ProjectFile,
        head: &str,
    ) -> Result<Option<String>> {
        let Some(old) = self.trusted_tests(project, repository, before).await? else {
            return Ok(None);
        };
        let new = match &after.tests {
            None => None,
            Some(path) => {
                let bytes = repository.file_up_to(head, path, MAX_PLAN).await?;
                bytes.and_then(|bytes| read(path, &bytes).ok())
            }
        };
        Ok(match new {
            None => old.tests.first().map(|test| test.name.clone()),
            Some(new) => weakened(&old, &new),
        })
    }
}
