//! What follows from the end of a run of a test, and is committed with it.

use super::run_id;
use crate::Control;
use ostler_contracts::TestView;
use ostler_domain::{FailureClass, NewRun, Run, RunOutcome, RunStatus, TestRecord, TestSpec, Timestamp};
use ostler_store::{Change, FinishRun};

impl Control {
    /// Completes the end of an attempt at a run: for a test of a plan, with its retry, its row of the history and the event.
    pub(crate) async fn follow_up(&self, run: &Run, end: &mut FinishRun) {
        let Some(test) = &run.submitted.spec.test else {
            return;
        };
        let again = retry(run, test, end.status, &end.outcome, end.at);
        let result = end.outcome.test.get_or_insert_default();
        result.superseded |= again.is_some();
        if matches!(end.status, RunStatus::Failed | RunStatus::TimedOut) {
            result.failure.get_or_insert(FailureClass::Test);
        }
        let mut ended = Run {
            status: end.status,
            finished_at: Some(end.at),
            outcome: end.outcome.clone(),
            ..run.clone()
        };
        if let Some(record) = record(&ended, self.now()) {
            match self.regressions_of(&record).await {
                Ok(found) => {
                    end.outcome.test.get_or_insert_default().regressions = found;
                    ended.outcome.clone_from(&end.outcome);
                }
                // A comment on the result, which is not to wait for it.
                Err(error) => {
                    tracing::warn!(%error, run.id = %end.id, "a test is not compared with its history");
                }
            }
        }
        end.then.extend(again.map(Change::enqueue));
        end.then.extend(self.told(&ended));
    }

    /// The end of a run of a test, told: a row of the history, and the event for those who follow the plan.
    pub(super) fn told(&self, run: &Run) -> Vec<Change> {
        let Some(record) = record(run, self.now()) else {
            return Vec::new();
        };
        let plan = record.plan_id;
        let view = TestView::from_run(run, record.created_at);
        vec![
            Change::insert(&record),
            self.event(record.tenant_id, "test.finished", plan, view),
        ]
    }
}

/// The next run of a test after one that failed by a fault of the test; `None` when it is not tried again.
fn retry(
    run: &Run,
    test: &TestSpec,
    status: RunStatus,
    outcome: &RunOutcome,
    at: Timestamp,
) -> Option<NewRun> {
    let plan = run.submitted.plan_id?;
    let failed = matches!(status, RunStatus::Failed | RunStatus::TimedOut);
    let class = outcome.test.as_ref().and_then(|result| result.failure);
    let by_itself = matches!(class, None | Some(FailureClass::Test));
    let ordinal = run.submitted.ordinal;
    if !failed || !by_itself || run.cancel_requested || ordinal > test.retries {
        return None;
    }
    let wait = std::time::Duration::from_millis(test.retry_delay_ms);
    Some(NewRun {
        id: run_id(plan, &test.key, ordinal + 1),
        ordinal: ordinal + 1,
        not_before: (!wait.is_zero()).then(|| at.plus(wait)),
        held: false,
        created_at: at,
        ..run.submitted.clone()
    })
}

/// The row of the history; `None` for what is no test of a plan.
fn record(run: &Run, now: Timestamp) -> Option<TestRecord> {
    let submitted = &run.submitted;
    let test = submitted.spec.test.as_ref()?;
    let result = run.outcome.test.as_deref();
    let metrics = result.and_then(|result| result.metrics).unwrap_or_default();
    let at = run.finished_at.unwrap_or(now);
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Some(TestRecord {
        run_id: submitted.id,
        tenant_id: submitted.tenant_id,
        key: test.key.clone(),
        plan_id: submitted.plan_id?,
        plan: test.plan.clone(),
        name: test.name.clone(),
        ordinal: submitted.ordinal,
        status: run.status,
        tolerated: test.is_tolerated(),
        superseded: result.is_some_and(|result| result.superseded),
        flaky: is_flaky(run),
        duration_us: number(TestView::duration(run, at).unwrap_or_default()),
        cpu_us: number(metrics.cpu_user_us.saturating_add(metrics.cpu_system_us)),
        peak_memory_bytes: number(metrics.peak_memory_bytes),
        revision: submitted
            .spec
            .workspace
            .as_ref()
            .and_then(|workspace| workspace.head.clone()),
        created_at: at,
    })
}

/// Whether it passed after an earlier run of it in the same plan had failed.
fn is_flaky(run: &Run) -> bool {
    run.status == RunStatus::Succeeded && run.submitted.ordinal > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::{PlanId, RunId, TenantId, TestResult};

    fn run(retries: u32, ordinal: u32) -> Run {
        let submitted: NewRun = serde_json::from_value(serde_json::json!({
            "id": RunId::new(), "tenant_id": TenantId::DEFAULT, "kind": "test", "project_id": null, "task_id": null,
            "subtask_id": null, "plan_id": PlanId::new(), "ordinal": ordinal, "requirements": {}, "priority": 3,
            "max_attempts": 5, "not_before": null, "held": true, "created_at": 5,
            "spec": { "test": { "name": "t", "key": "k", "retries": retries, "retry_delay_ms": 2000 } },
        }))
        .unwrap();
        Run {
            submitted,
            seq: 1,
            status: RunStatus::Running,
            attempt: 1,
            cancel_requested: false,
            server_id: None,
            sandbox_id: None,
            started_at: Some(Timestamp(10)),
            finished_at: None,
            outcome: RunOutcome::default(),
        }
    }

    fn again(run: &Run, status: RunStatus, class: Option<FailureClass>) -> Option<NewRun> {
        let test = run.submitted.spec.test.as_deref().unwrap();
        let outcome = RunOutcome {
            test: Some(Box::new(TestResult {
                failure: class,
                ..TestResult::default()
            })),
            ..RunOutcome::default()
        };
        retry(run, test, status, &outcome, Timestamp(100))
    }

    #[test]
    fn only_failures_of_the_test_itself_are_tried_again_and_only_so_often() {
        let first = run(1, 1);
        let next = again(&first, RunStatus::Failed, None).unwrap();
        assert_eq!((next.ordinal, next.priority, next.held), (2, 3, false));
        assert_eq!(next.not_before, Some(Timestamp(2_000_100)));
        assert_eq!(
            Some(next),
            again(&first, RunStatus::Failed, Some(FailureClass::Test))
        );
        assert!(again(&first, RunStatus::TimedOut, None).is_some());
        for status in [RunStatus::Succeeded, RunStatus::Cancelled, RunStatus::Lost] {
            assert_eq!(again(&first, status, None), None, "{status}");
        }
        for class in [FailureClass::Infrastructure, FailureClass::Job, FailureClass::Bug] {
            assert_eq!(again(&first, RunStatus::Failed, Some(class)), None, "{class}");
        }
        assert_eq!(
            again(&run(1, 2), RunStatus::Failed, None),
            None,
            "it was the last one"
        );
        assert_eq!(again(&run(0, 1), RunStatus::Failed, None), None);
        let cancelled = Run {
            cancel_requested: true,
            ..run(1, 1)
        };
        assert_eq!(again(&cancelled, RunStatus::Failed, None), None);
    }
}
