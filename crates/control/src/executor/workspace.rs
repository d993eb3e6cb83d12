//! The files that a run works on: in as a git bundle before its programs start, out as one after they have ended.

use super::attempt::{Attempt, Interrupt};
use ostler_domain::{CommandSpec, Project, RunKind, SubtaskId, WorkspaceSpec};
use ostler_forge::{ForgeError, Repository};
use std::collections::BTreeMap;

/// Where bundles lie in the workspace, out of the way of its files.
const BUNDLE_IN: &str = ".git/ostler-in.bundle";
const BUNDLE_OUT: &str = ".git/ostler-out.bundle";
/// Largest bundle out of a sandbox, in bytes; the repository checks its own, lower or equal, limit.
const MAX_BUNDLE: u64 = 2 << 30;

/// Makes a repository of the bundle. May be repeated. Arguments: branch, and the commit of it that is checked out, where
/// that is not its last.
const SET_UP: &str = r#"
set -e
command -v git >/dev/null || { echo "git is not installed in this sandbox; use an image that has it" >&2; exit 127; }
git init -q .
git symbolic-ref HEAD "refs/heads/$1"
git fetch -q --update-head-ok .git/ostler-in.bundle '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
git checkout -q -f --no-track -B "$1" "${2:-refs/remotes/origin/$1}"
git config user.email >/dev/null || git config user.email agent@ostler.invalid
git config user.name >/dev/null || git config user.name "Ostler agent"
rm -f .git/ostler-in.bundle
"#;

/// Commits what was left uncommitted, unless something stands half-finished, and makes a bundle if the branch has new
/// commits. Arguments: branch, message.
const COLLECT: &str = r#"
set -e
rm -f .git/ostler-out.bundle
if [ "$(git symbolic-ref -q --short HEAD)" = "$1" ]; then
  if [ -n "$(git ls-files -u | head -n 1)" ]; then
    echo "conflicts are unresolved; what is uncommitted stays behind" >&2
  elif [ -n "$(git status --porcelain | head -n 1)" ]; then
    git add -A
    git -c core.hooksPath=/dev/null commit -q --no-verify -m "$2"
  fi
else
  echo "the branch $1 is not checked out; only what is committed on it is kept" >&2
fi
if [ -n "$(git rev-list -n 1 "refs/remotes/origin/$1..refs/heads/$1")" ]; then
  git bundle create -q .git/ostler-out.bundle "refs/heads/$1" "^refs/remotes/origin/$1"
fi
"#;

fn script(text: &str, arguments: &[&str]) -> CommandSpec {
    let fixed = ["sh", "-c", text, "sh"];
    CommandSpec {
        argv: fixed
            .iter()
            .chain(arguments)
            .map(|&word| word.to_owned())
            .collect(),
        // What a person has set up for git in the sandbox's image must not hold these steps up.
        env: BTreeMap::from([("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned())]),
        ..CommandSpec::default()
    }
}

impl Attempt<'_> {
    /// Brings the branch into the sandbox, once.
    pub(super) async fn bring_in(&mut self, spec: &WorkspaceSpec, index: u32) -> Result<(), Interrupt> {
        if !self.is_known(index) {
            let (project, repository) = self.project(spec).await?;
            if self.run.submitted.kind == RunKind::Planner {
                repository
                    .sync(&project.default_branch, None)
                    .await
                    .map_err(|error| not_prepared(&error))?;
            }
            let bundle = repository
                .bundle_create(&spec.branch, &project.default_branch)
                .await
                .map_err(|error| not_prepared(&error))?;
            let path = format!("{}/{BUNDLE_IN}", self.place.workspace);
            self.guest.upload(bundle.path(), &path, false).await?;
        }
        let mut arguments = vec![spec.branch.as_str()];
        if self.run.submitted.kind == RunKind::Test {
            // All tests of a plan see the same.
            arguments.extend(spec.head.as_deref());
        }
        let ended = self.program(index, &script(SET_UP, &arguments), None).await?;
        match ended.fault() {
            None => Ok(()),
            Some(fault) => Err(Interrupt::Failed(format!(
                "the workspace could not be set up: {fault}\n{}",
                ended.tail()
            ))),
        }
    }

    /// Takes what was committed on the branch out of the sandbox; gives the branch's head, if there is something new.
    pub(super) async fn bring_out(
        &mut self,
        spec: &WorkspaceSpec,
        index: u32,
    ) -> Result<Option<String>, Interrupt> {
        let Some(subtask) = self.run.submitted.subtask_id else {
            return Ok(None);
        };
        let message = format!("Work left uncommitted by attempt {}", self.run.submitted.ordinal);
        let collect = script(COLLECT, &[&spec.branch, &message]);
        let ended = self.program(index, &collect, None).await?;
        if let Some(fault) = ended.fault() {
            return Err(Interrupt::Failed(format!(
                "the work could not be collected: {fault}\n{}",
                ended.tail()
            )));
        }
        let (project, repository) = self.project(spec).await?;
        self.import(&repository, subtask, &spec.branch, &project.default_branch)
            .await
    }

    async fn import(
        &self,
        repository: &Repository,
        subtask: SubtaskId,
        branch: &str,
        default: &str,
    ) -> Result<Option<String>, Interrupt> {
        let failed =
            |error: ForgeError| Interrupt::Failed(format!("the work could not be taken over: {error}"));
        let place = repository.bundle_place().await.map_err(failed)?;
        let path = format!("{}/{BUNDLE_OUT}", self.place.workspace);
        match self.guest.download(&path, &[], place.path(), MAX_BUNDLE).await {
            Ok(_) => {}
            // Nothing new was committed.
            Err(crate::guest::GuestError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        repository
            .bundle_import(subtask, branch, default, place.path())
            .await
            .map(Some)
            .map_err(failed)
    }

    async fn project(&self, spec: &WorkspaceSpec) -> Result<(Project, Repository), Interrupt> {
        let control = &self.executor.control;
        let project = control
            .project_of(self.run.submitted.tenant_id, spec.project_id)
            .await
            .map_err(|error| Interrupt::Failed(error.to_string()))?;
        let repository = control
            .repository(&project)
            .map_err(|error| Interrupt::Failed(error.to_string()))?;
        Ok((project, repository))
    }
}

fn not_prepared(error: &ForgeError) -> Interrupt {
    let reason = format!("the workspace could not be prepared: {error}");
    match error {
        // Another server of this database has it, perhaps, and may take the run.
        ForgeError::NotCloned { .. } => Interrupt::Lost {
            reason,
            started: true,
        },
        _ => Interrupt::Failed(reason),
    }
}
