//! Reading plans and their tests, cancelling them, and executing them again.

use super::{CHUNK, PAGE, run_id};
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::{PlanCounters, PlanStatus, PlanView, TestView};
use ostler_domain::{NewRun, Permission, PlanId, ProjectId, Run, RunStatus, TestPlan, TestRecord, Timestamp};
use ostler_store::{Change, Filter, Op, RunFilter, StoreExt};
use std::collections::HashSet;

/// Which plans are wanted, newest first.
#[derive(Debug, Clone, Default)]
pub struct PlanQuery {
    /// Only of this name.
    pub name: Option<String>,
    /// Only of this project.
    pub project_id: Option<ProjectId>,
    /// Only those that stand like this.
    pub status: Option<PlanStatus>,
    /// Only those submitted before this one.
    pub before: Option<PlanId>,
    /// At most this many; 50 when absent, 1000 at most.
    pub limit: Option<u32>,
}

/// Which tests of a plan are wanted, the last one that was submitted first.
#[derive(Debug, Clone, Default)]
pub struct TestQuery {
    /// Only in this state.
    pub status: Option<RunStatus>,
    /// Earlier runs of tests that were tried again, too.
    pub superseded: bool,
    /// Only those whose run was submitted before the one with this number.
    pub before_seq: Option<i64>,
    /// At most this many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
}

impl Control {
    /// One plan.
    pub async fn plan(&self, caller: &Caller, id: PlanId) -> Result<PlanView> {
        let plan = self.plan_of(caller, id).await?;
        self.plan_view(plan).await
    }

    /// Plans of the tenant.
    pub async fn plans(&self, caller: &Caller, query: PlanQuery) -> Result<Vec<PlanView>> {
        caller.require(Permission::RunsRead)?;
        let limit = query.limit.unwrap_or(50).clamp(1, PAGE);
        let mut before = query.before;
        let mut views = Vec::new();
        loop {
            let mut filter = Filter::<TestPlan>::by("tenant_id", caller.tenant_id)
                .order_by_desc("id")
                .limit(limit);
            if let Some(name) = &query.name {
                filter = filter.and("name", Op::Eq, name.clone());
            }
            if let Some(project) = query.project_id {
                filter = filter.and("project_id", Op::Eq, project);
            }
            if let Some(before) = before {
                filter = filter.and("id", Op::Lt, before);
            }
            filter = match query.status {
                Some(PlanStatus::Running) => filter.and("finished_at", Op::Eq, None::<Timestamp>),
                Some(_) => filter.and("finished_at", Op::Ne, None::<Timestamp>),
                None => filter,
            };
            let plans: Vec<TestPlan> = self.parts.store.list(filter).await?;
            let full = plans.len() == limit as usize;
            before = plans.last().map(|plan| plan.id);
            for plan in plans {
                let view = self.plan_view(plan).await?;
                if query.status.is_none_or(|status| status == view.status) {
                    views.push(view);
                }
            }
            if !full || views.len() >= limit as usize {
                views.truncate(limit as usize);
                return Ok(views);
            }
        }
    }

    /// Tests of a plan, each by its latest run.
    pub async fn plan_tests(&self, caller: &Caller, id: PlanId, query: TestQuery) -> Result<Vec<TestView>> {
        let plan = self.plan_of(caller, id).await?;
        let filter = RunFilter {
            tenant_id: Some(plan.tenant_id),
            plan_id: Some(plan.id),
            latest_only: !query.superseded,
            status: query.status,
            before_seq: query.before_seq,
            limit: query.limit.unwrap_or(100).clamp(1, PAGE),
            ..RunFilter::default()
        };
        let runs = self.parts.store.runs(filter).await?;
        let now = self.now();
        Ok(runs.iter().map(|run| TestView::from_run(run, now)).collect())
    }

    /// The tests of a plan that are being executed, at most 1000.
    pub async fn plan_running(&self, caller: &Caller, id: PlanId) -> Result<Vec<TestView>> {
        let running = TestQuery {
            status: Some(RunStatus::Running),
            limit: Some(PAGE),
            ..TestQuery::default()
        };
        self.plan_tests(caller, id, running).await
    }

    /// Whether a plan has ended, and its last event was written.
    pub async fn plan_has_ended(&self, caller: &Caller, id: PlanId) -> Result<bool> {
        Ok(self.plan_of(caller, id).await?.finished_at.is_some())
    }

    /// Where the events of a plan begin.
    pub async fn plan_events_from(&self, caller: &Caller, id: PlanId) -> Result<i64> {
        Ok(self.plan_of(caller, id).await?.first_event)
    }

    /// Cancels what of a plan has not ended; asking twice, or too late, is no error.
    pub async fn cancel_plan(&self, caller: &Caller, id: PlanId) -> Result<PlanView> {
        self.plan_of(caller, id).await?;
        caller.require(Permission::TestsWrite)?;
        let by = self.acting(caller, "plan.cancel", id, ());
        let requested: Result<()> = retry_on_conflict!({
            let mut plan = self.plan_of(caller, id).await?;
            if plan.cancel_requested || plan.finished_at.is_some() {
                return Ok(());
            }
            plan.cancel_requested = true;
            by.commit(vec![Change::update(&plan)]).await
        });
        requested?;
        // What was requested goes on by itself, should this fail.
        self.settle_plan(id).await?;
        self.plan(caller, id).await
    }

    /// Executes tests of a plan that has ended again, as a new plan of the same name: all, or those that did not pass. What
    /// they need and is not executed again did pass.
    pub async fn rerun_plan(&self, caller: &Caller, id: PlanId, failed: bool) -> Result<PlanView> {
        let old = self.plan_of(caller, id).await?;
        caller.require(Permission::TestsWrite)?;
        if failed && old.finished_at.is_none() {
            return Err(ControlError::Conflict(
                "the plan is still being executed; wait for its end, or cancel it".into(),
            ));
        }
        let mut runs = Vec::new();
        self.each_run(&old, RunFilter::default(), |run| {
            if !failed || run.status != RunStatus::Succeeded {
                runs.push(run.submitted);
            }
        })
        .await?;
        if runs.is_empty() {
            return Err(ControlError::Unprocessable(
                "every test of the plan has passed, so that there is nothing to execute again".into(),
            ));
        }
        let mut plan = TestPlan {
            id: PlanId::new(),
            tests: runs.len() as u32,
            cancel_requested: false,
            created_by: caller.user_id,
            created_at: self.now(),
            finished_at: None,
            version: 0,
            ..old
        };
        plan.labels.insert("rerun-of".to_owned(), id.to_string());
        let runs = again(&plan, runs);
        plan.ordered = runs.iter().any(|run| {
            let test = run.spec.test.as_ref();
            test.is_some_and(|test| !test.needs.is_empty())
        });
        self.begin_plan(caller, plan, runs).await
    }

    /// A plan of the caller's tenant.
    pub(super) async fn plan_of(&self, caller: &Caller, id: PlanId) -> Result<TestPlan> {
        let plan = self.owned("plan", caller.tenant_id, id).await?;
        caller.require(Permission::RunsRead)?;
        Ok(plan)
    }

    pub(super) async fn plan_view(&self, plan: TestPlan) -> Result<PlanView> {
        let counters = self.plan_counters(&plan).await?;
        // The end is told once everything about it is written.
        let status = match plan.finished_at {
            None => PlanStatus::Running,
            Some(_) => counters.status(),
        };
        Ok(PlanView {
            id: plan.id,
            name: plan.name,
            status,
            counters,
            tests: plan.tests,
            project_id: plan.project_id,
            branch: plan.branch,
            fail_fast: plan.fail_fast,
            max_parallel: plan.max_parallel,
            labels: plan.labels,
            cancel_requested: plan.cancel_requested,
            created_by: plan.created_by,
            created_at: plan.created_at.into(),
            finished_at: plan.finished_at.map(Into::into),
        })
    }

    /// How many tests are in which state.
    pub(super) async fn plan_counters(&self, plan: &TestPlan) -> Result<PlanCounters> {
        let store = &self.parts.store;
        let counts = store.plan_counters(plan.id).await?;
        let of = |status| {
            let count = counts.get(&status).copied().unwrap_or_default();
            u32::try_from(count).unwrap_or_default()
        };
        let queued = of(RunStatus::Queued);
        let held = match queued {
            0 => 0,
            _ => u32::try_from(store.plan_held(plan.id).await?)
                .unwrap_or_default()
                .min(queued),
        };
        let mut counters = PlanCounters {
            queued: queued - held,
            held,
            running: of(RunStatus::Running),
            succeeded: of(RunStatus::Succeeded),
            failed: of(RunStatus::Failed),
            timed_out: of(RunStatus::TimedOut),
            cancelled: of(RunStatus::Cancelled),
            skipped: of(RunStatus::Skipped),
            lost: of(RunStatus::Lost),
            tolerated: 0,
        };
        let failures = counters.failures();
        if failures > 0 {
            let tolerated = Filter::<TestRecord>::by("plan_id", plan.id)
                .and("tolerated", Op::Eq, true)
                .and("superseded", Op::Eq, false)
                .within(
                    "status",
                    [RunStatus::Failed, RunStatus::TimedOut, RunStatus::Lost],
                );
            let found = store.list(tolerated).await?.len();
            counters.tolerated = u32::try_from(found).unwrap_or(u32::MAX).min(failures);
        }
        Ok(counters)
    }

    /// Calls `each` for the latest runs of the tests of a plan that `filter` describes besides, in the order of submission.
    pub(super) async fn each_run(
        &self,
        plan: &TestPlan,
        filter: RunFilter,
        mut each: impl FnMut(Run),
    ) -> Result<()> {
        let mut after = 0;
        loop {
            let filter = RunFilter {
                plan_id: Some(plan.id),
                latest_only: true,
                after_seq: Some(after),
                limit: PAGE,
                ..filter.clone()
            };
            let page = self.parts.store.runs(filter).await?;
            let full = page.len() == PAGE as usize;
            after = page.last().map_or(after, |run| run.seq);
            page.into_iter().for_each(&mut each);
            if !full {
                return Ok(());
            }
        }
    }

    /// Commits changes some at a time: each stands for itself.
    pub(super) async fn commit_each(&self, mut changes: Vec<Change>) -> Result<()> {
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHUNK));
            self.commit(std::mem::replace(&mut changes, rest)).await?;
        }
        Ok(())
    }
}

/// The runs of a new plan from those of an old one, in the order of the plan. What they need and is not among them is
/// needed no more.
fn again(plan: &TestPlan, mut old: Vec<NewRun>) -> Vec<NewRun> {
    let place = |run: &NewRun| run.spec.test.as_ref().map_or(0, |test| test.index);
    old.sort_by_key(place);
    let names: HashSet<String> = old
        .iter()
        .filter_map(|run| run.spec.test.as_ref().map(|test| test.name.clone()))
        .collect();
    let mut new = Vec::with_capacity(old.len());
    for (index, mut run) in (0..).zip(old) {
        let Some(test) = &mut run.spec.test else { continue };
        test.needs.retain(|need| names.contains(need));
        test.index = index;
        run.id = run_id(plan.id, &test.key, 1);
        run.plan_id = Some(plan.id);
        run.ordinal = 1;
        run.not_before = None;
        run.created_at = plan.created_at;
        new.push(run);
    }
    new
}
