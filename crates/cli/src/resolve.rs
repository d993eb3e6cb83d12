//! Objects by name or by the end of their id. A whole id is taken as it is, without asking.
//!
//! The end and not the beginning: ids begin with the time at which they were made, so what was made one after the other
//! begins alike.

use crate::context::Session;
use crate::error::{CliError, Result};
use ostler_client::{PlanQuery, RunQuery};
use ostler_domain::{
    DepartmentId, PlanId, ProjectId, RoleId, RunId, SandboxId, SubtaskId, TaskId, TenantId, TokenId, UserId,
};
use std::fmt::Display;
use std::str::FromStr;

/// Shortest end of an id that is taken for one.
const MIN_END: usize = 4;
/// Runs and plans that are looked through.
const MAX_RUNS: u32 = 1000;
const SHOWN_CANDIDATES: usize = 5;

/// The one of `all` (ids with other names) that `text` names.
fn pick<T: Copy + Display>(
    what: &'static str,
    list: &'static str,
    text: &str,
    all: &[(T, Vec<String>)],
) -> Result<T> {
    let named: Vec<T> = all
        .iter()
        .filter(|(_, names)| names.iter().any(|name| name == text))
        .map(|(id, _)| *id)
        .collect();
    let found = if named.is_empty() && text.len() >= MIN_END {
        let ids = all.iter().map(|(id, _)| *id);
        ids.filter(|id| id.to_string().ends_with(text)).collect()
    } else {
        named
    };
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(CliError::NotFound {
            what,
            text: text.to_owned(),
            list,
        }),
        many => {
            let mut candidates: Vec<String> = many.iter().take(SHOWN_CANDIDATES).map(T::to_string).collect();
            if many.len() > SHOWN_CANDIDATES {
                candidates.push(format!("{} more", many.len() - SHOWN_CANDIDATES));
            }
            Err(CliError::Ambiguous {
                what,
                text: text.to_owned(),
                candidates: candidates.join(", "),
            })
        }
    }
}

/// The one that `text` names: itself an id, or one of `all` (ids with other names), which is asked for only then.
async fn find<T: Copy + Display + FromStr>(
    what: &'static str,
    list: &'static str,
    text: &str,
    all: impl Future<Output = Result<Vec<(T, Vec<String>)>>>,
) -> Result<T> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => pick(what, list, text, &all.await?),
    }
}

impl Session {
    /// A project by id, name, or the end of its id.
    pub(crate) async fn project_id(&self, text: &str) -> Result<ProjectId> {
        find("project", "project list", text, async {
            let all = self.client.projects().await?.into_iter();
            Ok(all.map(|one| (one.id, vec![one.name])).collect())
        })
        .await
    }

    /// A task by id or the end of its id.
    pub(crate) async fn task_id(&self, text: &str) -> Result<TaskId> {
        find("task", "task list", text, async {
            let mut all = Vec::new();
            for project in self.client.projects().await? {
                let tasks = self.client.tasks(project.id).await?;
                all.extend(tasks.into_iter().map(|task| (task.id, Vec::new())));
            }
            Ok(all)
        })
        .await
    }

    /// A subtask by id, branch, issue, or the end of its id.
    pub(crate) async fn subtask_id(&self, text: &str) -> Result<SubtaskId> {
        find("subtask", "subtask list -t TASK", text, async {
            let mut all = Vec::new();
            for project in self.client.projects().await? {
                for task in self.client.tasks(project.id).await? {
                    let subtasks = self.client.subtasks(task.id).await?;
                    all.extend(subtasks.into_iter().map(|s| (s.id, vec![s.branch, s.issue_id])));
                }
            }
            Ok(all)
        })
        .await
    }

    /// A run by id or the end of its id.
    pub(crate) async fn run_id(&self, text: &str) -> Result<RunId> {
        let query = RunQuery {
            limit: Some(MAX_RUNS),
            ..RunQuery::default()
        };
        find("run", "run list", text, async {
            let all = self.client.runs(query).await?.into_iter();
            Ok(all.map(|one| (one.id, Vec::new())).collect())
        })
        .await
    }

    /// A plan by id, the end of its id, or its name: the newest one of that name.
    pub(crate) async fn plan_id(&self, text: &str) -> Result<PlanId> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let named = PlanQuery {
            name: Some(text.to_owned()),
            limit: Some(1),
            ..PlanQuery::default()
        };
        if let Some(newest) = self.client.plans(&named).await?.first() {
            return Ok(newest.id);
        }
        let all = PlanQuery {
            limit: Some(MAX_RUNS),
            ..PlanQuery::default()
        };
        let all = self.client.plans(&all).await?.into_iter();
        let all: Vec<_> = all.map(|one| (one.id, Vec::new())).collect();
        pick("plan", "test list", text, &all)
    }

    /// An agent by id or the end of its id.
    pub(crate) async fn agent_id(&self, text: &str) -> Result<SandboxId> {
        find("agent", "agent list", text, async {
            let all = self.client.agents().await?.into_iter();
            Ok(all.map(|one| (one.id, Vec::new())).collect())
        })
        .await
    }

    /// Any sandbox by id or the end of its id.
    pub(crate) async fn sandbox_id(&self, text: &str) -> Result<SandboxId> {
        find("sandbox", "sandbox list", text, async {
            let all = self.client.sandboxes().await?.into_iter();
            Ok(all.map(|one| (one.id, Vec::new())).collect())
        })
        .await
    }

    /// A tenant by id, name, or the end of its id.
    pub(crate) async fn tenant_id(&self, text: &str) -> Result<TenantId> {
        find("tenant", "tenant list", text, async {
            let all = self.client.tenants().await?.into_iter();
            Ok(all.map(|one| (one.id, vec![one.name])).collect())
        })
        .await
    }

    /// A department by id, name, or the end of its id.
    pub(crate) async fn department_id(&self, text: &str) -> Result<DepartmentId> {
        find("department", "department list", text, async {
            let all = self.client.departments().await?.into_iter();
            Ok(all.map(|one| (one.id, vec![one.name])).collect())
        })
        .await
    }

    /// A user by id, name, or the end of its id.
    pub(crate) async fn user_id(&self, text: &str) -> Result<UserId> {
        find("user", "user list", text, async {
            let all = self.client.users().await?.into_iter();
            Ok(all.map(|one| (one.id, vec![one.name])).collect())
        })
        .await
    }

    /// A role by id, name, or the end of its id.
    pub(crate) async fn role_id(&self, text: &str) -> Result<RoleId> {
        find("role", "role list", text, async {
            let all = self.client.roles().await?.into_iter();
            Ok(all.map(|one| (one.id, vec![one.name])).collect())
        })
        .await
    }

    /// An API token by id, name, the beginning of its secret that lists show, or the end of its id.
    pub(crate) async fn token_id(&self, text: &str) -> Result<TokenId> {
        find("token", "token list", text, async {
            let all = self.client.tokens().await?.into_iter();
            let live = all.filter(|t| t.revoked_at.is_none());
            Ok(live.map(|t| (t.id, vec![t.name, t.prefix])).collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_before_ends_and_nothing_is_guessed() {
        let id = |low: u128| ProjectId::from_u128((1 << 100) + low);
        let (a, b, c) = (id(1), id(2), id((7 << 40) + 1));
        let all = [
            (a, vec!["shop".to_owned()]),
            (b, vec!["0001".to_owned()]),
            (c, Vec::new()),
        ];
        let pick = |text: &str| pick("project", "project list", text, &all);
        assert_eq!(pick("shop").unwrap(), a);
        assert_eq!(
            pick("0001").unwrap(),
            b,
            "a name that looks like the end of an id"
        );
        assert_eq!(pick("0002").unwrap(), b);
        assert_eq!(pick(&c.to_string()[4..]).unwrap(), c);
        for missing in ["sho", "", "2", "0003", "prj_"] {
            assert!(
                matches!(pick(missing), Err(CliError::NotFound { .. })),
                "{missing}"
            );
        }
        assert!(matches!(pick("00001"), Err(CliError::Ambiguous { .. })));
    }
}
