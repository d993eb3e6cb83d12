//! What whoever submits a plan chooses besides its text.

use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{NewRun, Project, QuarantinedTest};
use ostler_plans::Plan;
use ostler_store::{Filter, StoreExt};
use std::collections::{BTreeMap, HashSet};

/// Longest value of an environment variable that a program can be started with, bytes.
const MAX_VALUE: usize = 100 << 10;

/// What whoever submits a plan chooses besides its text; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanChoices {
    /// Whether the first failure cancels what did not begin; as the text says when absent.
    pub fail_fast: Option<bool>,
    /// Only tests whose name contains one of these, with what they need; all when empty.
    pub only: Vec<String>,
    /// Environment variables of all tests; they come before those of the text.
    pub env: BTreeMap<String, String>,
    /// The commit of the plan's branch that its tests get; what the branch is at when absent.
    pub revision: Option<String>,
}

impl PlanChoices {
    /// Makes them part of a plan.
    pub(super) fn apply(&self, plan: &mut Plan) -> Result<()> {
        if let Some(fail_fast) = self.fail_fast {
            plan.fail_fast = fail_fast;
        }
        if !self.only.is_empty() && !plan.select(&self.only) {
            return Err(ControlError::Unprocessable(format!(
                "no test of the plan has a name that contains {}",
                quoted(&self.only)
            )));
        }
        if self.revision.is_some() && plan.project.is_none() {
            return Err(ControlError::Unprocessable(
                "a commit means nothing for a plan without `project`".into(),
            ));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(|c: char| c == '=' || c.is_control()) {
                return Err(ControlError::Unprocessable(format!(
                    "`{name}` is no name of an environment variable"
                )));
            }
            if name.starts_with("OSTLER_SHARD_") {
                return Err(ControlError::Unprocessable(format!("`{name}` is set by Ostler")));
            }
            if value.contains('\0') || value.len() > MAX_VALUE {
                return Err(ControlError::Unprocessable(format!(
                    "the value of `{name}` contains a NUL character or is longer than {} KiB",
                    MAX_VALUE >> 10
                )));
            }
            for test in &mut plan.tests {
                test.env.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }
}

fn quoted(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("`{text}`")).collect();
    quoted.join(" or ")
}

impl Control {
    /// The commit that all tests of a plan get, so that none of them sees what is pushed while others run.
    pub(super) async fn revision(
        &self,
        project: &Project,
        branch: &str,
        wanted: Option<&str>,
    ) -> Result<String> {
        let repository = self.repository(project)?;
        if let Err(error) = repository.sync(branch, None).await {
            // A branch of Ostler's own is nowhere else, and what is here can be tested while its origin is away.
            tracing::debug!(%error, project.id = %project.id, branch, "a branch is tested as it was last seen");
        }
        Ok(repository.commit_of(branch, wanted.unwrap_or(branch)).await?)
    }

    /// Marks the tests that are in quarantine.
    pub(super) async fn mark_quarantined(&self, caller: &Caller, runs: &mut [NewRun]) -> Result<()> {
        let listed = Filter::<QuarantinedTest>::by("tenant_id", caller.tenant_id);
        let listed = self.parts.store.list(listed).await?;
        if listed.is_empty() {
            return Ok(());
        }
        let keys: HashSet<&str> = listed.iter().map(|test| test.key.as_str()).collect();
        for test in runs.iter_mut().filter_map(|run| run.spec.test.as_mut()) {
            test.quarantined |= keys.contains(test.key.as_str());
        }
        Ok(())
    }
}
