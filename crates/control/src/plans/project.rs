//! Plans as checks of a project's work: submitted by the server itself, on the branch of a subtask at one commit.

use super::PlanFormat;
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, LogStream, Result};
use ostler_contracts::PlanStatus;
use ostler_domain::{PlanId, Project, Run, RunId, RunStatus, Subtask, SubtaskId, TestPlan, Timestamp};
use ostler_plans::Plan;
use ostler_store::{Change, Filter, Op, RunFilter, StoreError, StoreExt};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The label by which a plan says whose work it tests.
const SUBTASK: &str = "subtask";
/// Failed tests that are named to whoever is to mend them, those of them whose output is shown, and how much of it, bytes.
const NAMED: usize = 20;
const SHOWN: usize = 3;
const OUTPUT: usize = 3000;

/// The id of the plan for what a subtask's run left at one commit: whoever looks finds it by this, and two who submit it at
/// the same time submit it once. It begins like the run's, and so with a time.
pub(crate) fn plan_id(before: RunId, head: &str) -> PlanId {
    const OWN: u32 = 80;
    let hash = Sha256::new()
        .chain_update(before.as_u128().to_be_bytes())
        .chain_update(head)
        .finalize();
    let number = hash
        .iter()
        .take(16)
        .fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let own = (1_u128 << OWN) - 1;
    PlanId::from_u128((before.as_u128() & !own) | (number & own))
}

/// Reads a plan that a repository has.
pub(crate) fn read(path: &str, bytes: &[u8]) -> std::result::Result<Plan, String> {
    let format = PlanFormat::from_file_name(path)
        .ok_or_else(|| format!("{path} must end with .toml, .yaml, .yml or .json"))?;
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{path} is not UTF-8 text"))?;
    Plan::parse(text, format).map_err(|errors| format!("{path} is no plan: {errors}"))
}

/// A test that `after` does not have as `before` has it.
pub(crate) fn weakened(before: &Plan, after: &Plan) -> Option<String> {
    let needs = |plan: &Plan, test: &ostler_plans::PlannedTest| -> Vec<String> {
        let names = test
            .needs
            .iter()
            .filter_map(|need| plan.tests.get(*need as usize));
        names.map(|need| need.name.clone()).collect()
    };
    let kept = |test: &ostler_plans::PlannedTest| {
        after
            .tests
            .iter()
            .filter(|other| other.name == test.name)
            .any(|other| {
                // Places in the list, and the identity of their histories, do not matter.
                let mut same = other.clone();
                (same.needs, same.key) = (test.needs.clone(), test.key.clone());
                same == *test && needs(before, test) == needs(after, other)
            })
    };
    let lost = before.tests.iter().find(|test| !kept(test));
    lost.map(|test| test.name.clone())
}

impl Control {
    /// Submits a plan as a check of a subtask's work at `head` of its branch. Plan and branch are those given, whatever the
    /// plan says. That it is there already is no error.
    pub(crate) async fn submit_check(
        &self,
        id: PlanId,
        mut plan: Plan,
        subtask: &Subtask,
        project: &Project,
        head: &str,
    ) -> Result<()> {
        let caller = Caller {
            tenant_id: subtask.tenant_id,
            ..Caller::administrator()
        };
        self.divide(subtask.tenant_id, &mut plan).await?;
        plan.labels.insert(SUBTASK.to_owned(), subtask.id.to_string());
        let record = TestPlan {
            id,
            tenant_id: subtask.tenant_id,
            name: plan.name,
            project_id: Some(project.id),
            branch: Some(subtask.branch.clone()),
            fail_fast: plan.fail_fast,
            max_parallel: plan.max_parallel,
            labels: plan.labels,
            tests: plan.tests.len() as u32,
            ordered: plan.tests.iter().any(|test| !test.needs.is_empty()),
            cancel_requested: false,
            created_by: None,
            created_at: self.now(),
            finished_at: None,
            first_event: 0,
            version: 0,
        };
        let names: Vec<String> = plan.tests.iter().map(|test| test.name.clone()).collect();
        let head = head.to_owned();
        let runs = (0_u32..)
            .zip(plan.tests)
            .map(|(index, test)| self.test_run(&record, index, test, &names, Some(&head)))
            .collect();
        match self.begin_plan(&caller, record, runs).await {
            Ok(_) | Err(ControlError::Store(StoreError::Duplicate { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How the plan of a check stands; `None` if it was never submitted.
    pub(crate) async fn check_status(&self, id: PlanId) -> Result<Option<(TestPlan, PlanStatus)>> {
        let Some(plan) = self.parts.store.get::<TestPlan, _>(id).await? else {
            return Ok(None);
        };
        let status = match plan.finished_at {
            None => PlanStatus::Running,
            Some(_) => self.plan_counters(&plan).await?.status(),
        };
        Ok(Some((plan, status)))
    }

    /// What did not pass of a plan, with the end of what the first ones wrote, for whoever is to mend it.
    pub(crate) async fn check_failures(&self, plan: &TestPlan) -> Result<String> {
        let mut failed: Vec<Run> = Vec::new();
        let mut more = 0;
        self.each_run(plan, RunFilter::default(), |run| {
            let bad = matches!(
                run.status,
                RunStatus::Failed | RunStatus::TimedOut | RunStatus::Lost
            );
            let tolerated = run
                .submitted
                .spec
                .test
                .as_ref()
                .is_some_and(|test| test.is_tolerated());
            if bad && !tolerated {
                if failed.len() < NAMED {
                    failed.push(run);
                } else {
                    more += 1;
                }
            }
        })
        .await?;
        let mut text = format!("tests of the plan {} did not pass:", plan.name);
        for run in &failed {
            let name = run
                .submitted
                .spec
                .test
                .as_ref()
                .map_or("", |test| test.name.as_str());
            let why = run
                .outcome
                .error
                .as_deref()
                .unwrap_or_else(|| run.status.as_str());
            let _ = write!(text, "\n- `{name}`: {why}");
        }
        if more > 0 {
            let _ = write!(text, "\n- and {more} more");
        }
        for run in failed.iter().take(SHOWN) {
            let name = run
                .submitted
                .spec
                .test
                .as_ref()
                .map_or("", |test| test.name.as_str());
            let output = self.last_output(run);
            if !output.trim().is_empty() {
                let _ = write!(
                    text,
                    "\n\nThe end of what `{name}` wrote:\n\n{}",
                    output.trim_end()
                );
            }
        }
        Ok(text)
    }

    /// The end of what a run wrote, if its log is on this server.
    fn last_output(&self, run: &Run) -> String {
        let mut output = Vec::new();
        let Ok(Some(mut reader)) = self.parts.logs.reader(run.submitted.id) else {
            return String::new();
        };
        while let Ok(batch) = reader.next_batch() {
            if batch.is_empty() {
                break;
            }
            let own = batch
                .into_iter()
                .filter(|record| matches!(record.stream, LogStream::Stdout | LogStream::Stderr));
            output.extend(own.flat_map(|record| record.bytes));
            if output.len() > 2 * OUTPUT {
                output.drain(..output.len() - OUTPUT);
            }
        }
        let start = output.len().saturating_sub(OUTPUT);
        String::from_utf8_lossy(&output[start..]).into_owned()
    }

    /// Cancels the plans that test a subtask's work, but for one.
    pub(crate) async fn cancel_checks(&self, subtask: &Subtask, but: Option<PlanId>) -> Result<()> {
        let open = Filter::<TestPlan>::by("project_id", subtask.project_id).and(
            "finished_at",
            Op::Eq,
            None::<Timestamp>,
        );
        let name = subtask.id.to_string();
        for plan in self.parts.store.list(open).await? {
            if plan.labels.get(SUBTASK) != Some(&name) || Some(plan.id) == but || plan.created_by.is_some() {
                continue;
            }
            let id = plan.id;
            let requested: Result<()> = retry_on_conflict!({
                match self.parts.store.get::<TestPlan, _>(id).await? {
                    Some(mut plan) if !plan.cancel_requested && plan.finished_at.is_none() => {
                        plan.cancel_requested = true;
                        self.commit(vec![Change::update(&plan)]).await
                    }
                    _ => Ok(()),
                }
            });
            requested?;
            self.plan_moved(id);
        }
        Ok(())
    }
}

/// Whose work a plan tests.
pub(super) fn tested(plan: &TestPlan) -> Option<SubtaskId> {
    plan.labels.get(SUBTASK)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        read("plan.toml", text.as_bytes()).unwrap()
    }

    const TWO: &str =
        "name = 'p'\n[[tests]]\nname = 'a'\nrun = 'x'\n[[tests]]\nname = 'b'\nrun = 'y'\nneeds = ['a']\n";

    #[test]
    fn a_plan_is_weakened_by_what_it_loses_not_by_what_it_gains() {
        let before = plan(TWO);
        let more = format!("{}[[tests]]\nname = '0'\nrun = 'z'\n", TWO.replace("'p'", "'q'"));
        assert_eq!(weakened(&before, &plan(&more)), None);
        for (less, lost) in [
            (TWO.replace("'x'", "'true'"), "a"),
            (TWO.replace("run = 'y'", "run = 'y'\nquarantined = true"), "b"),
            (TWO.replace("needs = ['a']", ""), "b"),
            (TWO.replace("name = 'b'", "name = 'c'"), "b"),
        ] {
            assert_eq!(weakened(&before, &plan(&less)).as_deref(), Some(lost), "{less}");
        }
    }

    #[test]
    fn what_is_no_plan_is_told_with_its_place() {
        let error = read("t.toml", b"name = 'p'\n[[tests]]\nname = 'a'\nrum = 'x'\n").unwrap_err();
        assert!(
            error.starts_with("t.toml is no plan: ") && error.contains("rum"),
            "{error}"
        );
        assert!(read("plan", b"").unwrap_err().contains(".yaml"));
    }

    #[test]
    fn the_same_work_at_the_same_commit_has_the_same_plan() {
        let run = RunId::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        assert_eq!(plan_id(run, "a"), plan_id(run, "a"));
        assert_ne!(plan_id(run, "a"), plan_id(run, "b"));
        assert_eq!(plan_id(run, "a").as_u128() >> 80, run.as_u128() >> 80);
    }
}
