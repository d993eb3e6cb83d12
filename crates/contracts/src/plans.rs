//! Plans of tests.
//!
//! A plan is sent as its text (`application/toml`, `application/yaml` or `application/json`), so that there is no type for
//! it here: the room `plans` reads it, and has its JSON Schema.

use crate::{PoolVerdict, Time};
use ostler_domain::{
    CaseCounts, FailureClass, KernelEnd, Measure, PlanId, ProjectId, QuarantinedTest, Run, RunId, RunStatus,
    SandboxId, TestMetrics, Timestamp, UserId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How a plan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanStatus {
    /// Some of its tests have not ended.
    Running,
    /// All of its tests ended, and none failed but those whose failure is tolerated.
    Passed,
    /// All of its tests ended, and some failed.
    Failed,
    /// All of its tests ended, none failed, and some were cancelled.
    Cancelled,
}

impl PlanStatus {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many tests of a plan are in which state: each test counts once, by its latest run. Exact at the moment of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PlanCounters {
    /// Wait for their turn.
    pub queued: u32,
    /// Wait for tests that they need, or for room in the plan's `max_parallel`.
    pub held: u32,
    /// Are being executed.
    pub running: u32,
    /// Passed.
    pub succeeded: u32,
    /// Failed.
    pub failed: u32,
    /// Were ended by their time-out.
    pub timed_out: u32,
    /// Were cancelled.
    pub cancelled: u32,
    /// Were never started, since a test that they need did not pass.
    pub skipped: u32,
    /// Were given up, since their sandboxes or servers went away too often.
    pub lost: u32,
    /// Of those that failed, were timed out or lost: whose failure counts for nothing (`quarantined`, `allow_failure`).
    pub tolerated: u32,
}

impl PlanCounters {
    /// Tests that have not ended.
    pub const fn live(&self) -> u32 {
        self.queued + self.held + self.running
    }

    /// Tests that failed in whatever way, and whose failure counts.
    pub const fn failures(&self) -> u32 {
        (self.failed + self.timed_out + self.lost).saturating_sub(self.tolerated)
    }

    /// What they say of the plan.
    pub const fn status(&self) -> PlanStatus {
        if self.live() > 0 {
            PlanStatus::Running
        } else if self.failures() > 0 {
            PlanStatus::Failed
        } else if self.cancelled > 0 {
            PlanStatus::Cancelled
        } else {
            PlanStatus::Passed
        }
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Id.
    #[schema(value_type = String)]
    pub id: PlanId,
    /// Name; part of the identity of its tests.
    pub name: String,
    /// How it stands, as the counters say.
    pub status: PlanStatus,
    /// How many tests are in which state.
    pub counters: PlanCounters,
    /// How many tests it has.
    pub tests: u32,
    /// The project whose workspace its tests get.
    #[schema(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// The branch of that project.
    pub branch: Option<String>,
    /// Whether the first failure cancels what did not begin.
    pub fail_fast: bool,
    /// How many of its tests may run at a time.
    pub max_parallel: Option<u32>,
    /// Words about the plan.
    pub labels: BTreeMap<String, String>,
    /// Whether its end was requested.
    pub cancel_requested: bool,
    /// Who submitted it.
    #[schema(value_type = Option<String>)]
    pub created_by: Option<UserId>,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When its last test ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Time>,
}

/// A test of a plan, by its latest run. Its log is that of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestView {
    /// The latest run of the test.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Position of that run in the order of submission, to page on.
    pub seq: i64,
    /// Name; unique in the plan.
    pub name: String,
    /// Identity across plans of the same name, for history.
    pub key: String,
    /// Place in the plan, from 0.
    pub index: u32,
    /// queued, running, succeeded, failed, timed_out, cancelled, lost or skipped.
    #[schema(value_type = String)]
    pub status: RunStatus,
    /// Whether it waits for tests that it needs, or for room in the plan's `max_parallel`.
    pub held: bool,
    /// Which run of the test this is, from 1; more than 1 after retries.
    pub ordinal: u32,
    /// How often that run was started; more than once only when a sandbox or server went away.
    pub attempt: u32,
    /// Whether another run of the same test takes the place of this one.
    pub superseded: bool,
    /// Whether it passed after an earlier run of it in this plan had failed.
    pub flaky: bool,
    /// Whether its failure counts for nothing.
    pub tolerated: bool,
    /// Names of the tests that must have passed before.
    pub needs: Vec<String>,
    /// Words for filters.
    pub tags: Vec<String>,
    /// Microseconds that it took, or has taken so far.
    pub duration_us: Option<u64>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// Whose fault its failure is: infrastructure, job, test or bug.
    #[schema(value_type = Option<String>)]
    pub failure: Option<FailureClass>,
    /// How its kernel ended, for a test that boots one.
    #[schema(value_type = Option<String>)]
    pub kernel_end: Option<KernelEnd>,
    /// What it used; times in microseconds, sizes in bytes.
    #[schema(value_type = Option<Object>)]
    pub metrics: Option<TestMetrics>,
    /// Cases of its reports, counted: passed, failed, skipped, errors.
    #[schema(value_type = Option<Object>)]
    pub cases: Option<CaseCounts>,
    /// Files that were kept.
    pub artifacts: u32,
    /// What is not as it should be although it does not change the outcome.
    pub problems: Vec<String>,
    /// In what it was clearly worse than the runs of it that passed before: duration, cpu, peak_memory.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub regressions: Vec<Measure>,
    /// The commit of the plan's project that it gets.
    #[serde(default)]
    pub revision: Option<String>,
    /// The sandbox that executes or executed it.
    #[schema(value_type = Option<String>)]
    pub sandbox_id: Option<SandboxId>,
    /// When the run was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it was last started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Time>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Time>,
}

/// A mistake in the text of a plan: an element of `details.errors` of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanMistake {
    /// Line in the text, from 1; 0 where it has none.
    pub line: u32,
    /// Column in that line, in characters, from 1; 0 where it has none.
    pub column: u32,
    /// The field, such as `tests[3].timeout`; empty for the text as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where something can be said.
    pub suggestion: Option<String>,
}

/// `details` of a refused plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanMistakes {
    /// In the order of the text.
    pub errors: Vec<PlanMistake>,
    /// Whether there may be more than these.
    pub more: bool,
}

/// Executes tests of a plan again, as a new plan of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RerunPlan {
    /// Only those that did not pass. What they need and did pass is not executed again.
    pub failed: bool,
}

/// What a plan waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanExplanation {
    /// How it stands.
    pub status: PlanStatus,
    /// In one sentence.
    pub summary: String,
    /// What its tests wait for, the reason that most of them have first.
    pub waiting: Vec<PlanWait>,
}

/// Tests of a plan that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanWait {
    /// How many.
    pub tests: u32,
    /// One of them, by name.
    pub example: String,
    /// What for.
    pub reason: String,
    /// Pool by pool: what it lacks, or that it is busy. Empty for tests that are held.
    pub pools: Vec<PoolVerdict>,
}

/// How runs of one test ended, in this plan and earlier ones of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestHistory {
    /// Identity of the test.
    pub key: String,
    /// Its runs, newest first.
    pub runs: Vec<TestHistoryRun>,
    /// Of those that were executed to their end, the share that passed; `None` without any.
    pub pass_rate: Option<f64>,
    /// Whether any of them passed only when it was tried again.
    pub flaky: bool,
    /// Whether it is in quarantine: in plans that are submitted now, its failures count for nothing.
    #[serde(default)]
    pub quarantined: bool,
    /// Wall time of those that passed, microseconds.
    pub duration: Option<TestTrend>,
    /// Processor time of those that passed, microseconds.
    pub cpu: Option<TestTrend>,
    /// Most memory in use of those that passed, bytes.
    pub peak_memory: Option<TestTrend>,
}

/// One run of a test in its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestHistoryRun {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// The plan.
    #[schema(value_type = String)]
    pub plan_id: PlanId,
    /// Name of the plan.
    pub plan: String,
    /// Name of the test.
    pub name: String,
    /// Which run of the test in its plan, from 1.
    pub ordinal: u32,
    /// How it ended.
    #[schema(value_type = String)]
    pub status: RunStatus,
    /// Whether it passed after an earlier run of it in the same plan had failed.
    pub flaky: bool,
    /// Wall time, microseconds.
    pub duration_us: u64,
    /// Processor time, microseconds; 0 where nothing measured it.
    pub cpu_us: u64,
    /// Most memory in use at a time, bytes; 0 where nothing measured it.
    pub peak_memory_bytes: u64,
    /// The commit of the plan's project that it ran on.
    #[serde(default)]
    pub revision: Option<String>,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
}

/// The latest value of a series beside those before it. The median and the median absolute deviation from it are not moved by
/// single outliers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestTrend {
    /// The newest value.
    pub latest: u64,
    /// Median of those before it.
    pub median: f64,
    /// Median absolute deviation of those before it.
    pub deviation: f64,
    /// How many there are before it.
    pub count: u32,
    /// Whether the newest is clearly larger than those before it. Never with fewer than five.
    pub regression: bool,
}

/// One measure of the runs of a test that passed, for a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestChart {
    /// Identity of the test.
    pub key: String,
    /// What was measured: duration or cpu, microseconds; or peak_memory, bytes.
    #[schema(value_type = String)]
    pub measure: Measure,
    /// Oldest first.
    pub points: Vec<TestChartPoint>,
}

/// One run of a test in a chart, beside what was usual before it: the median and a band around it that is as wide as
/// values scatter. What lies above the band is a regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestChartPoint {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// The value.
    pub value: u64,
    /// Median of the values before it, at most twenty; `null` for the first.
    pub median: Option<f64>,
    /// Lower end of the band.
    pub low: Option<f64>,
    /// Upper end of the band.
    pub high: Option<f64>,
    /// Whether it is clearly larger than those before it. Never with fewer than five.
    pub regression: bool,
}

/// A test whose failures count for nothing in plans that are submitted while it is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuarantinedTestView {
    /// Identity of the test.
    pub key: String,
    /// Name of its plan.
    pub plan: String,
    /// Name of the test.
    pub name: String,
    /// Why; may be empty.
    pub reason: String,
    /// Who put it there.
    #[schema(value_type = Option<String>)]
    pub created_by: Option<UserId>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
}

impl From<QuarantinedTest> for QuarantinedTestView {
    fn from(test: QuarantinedTest) -> Self {
        Self {
            key: test.key,
            plan: test.plan,
            name: test.name,
            reason: test.reason,
            created_by: test.created_by,
            created_at: test.created_at.into(),
        }
    }
}

/// Puts a test in quarantine: the one with this key, which must have been executed before, or the one with these names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuarantineTest {
    /// Identity of the test.
    pub key: Option<String>,
    /// Name of its plan.
    pub plan: Option<String>,
    /// Name of the test.
    pub test: Option<String>,
    /// Why, at most 4096 bytes.
    pub reason: String,
}

/// A single case of a test's reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaseView {
    /// The suite that it belongs to; empty if the report has none.
    pub suite: String,
    /// Its class, module or program.
    pub class: Option<String>,
    /// Its name.
    pub name: String,
    /// passed, failed, skipped or error.
    pub outcome: String,
    /// Whether it passed after a try that did not.
    pub flaky: bool,
    /// Why it did not pass, in a line or a few.
    pub message: Option<String>,
    /// A class of reasons, such as that of an exception.
    pub kind: Option<String>,
    /// Everything else that is known of it, such as a stack trace.
    pub details: Option<String>,
    /// How long it took, microseconds.
    pub duration_us: Option<u64>,
    /// Its standard output.
    pub stdout: Option<String>,
    /// Its standard error.
    pub stderr: Option<String>,
}

/// A test that passed only when it was tried again, or both passed and failed on one commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlakyTest {
    /// Identity of the test.
    pub key: String,
    /// Name of its plan.
    pub plan: String,
    /// Name of the test.
    pub name: String,
    /// How often it passed only when it was tried again, within the time asked for.
    pub flaky: u32,
    /// On how many commits it both passed and failed, within that time.
    #[serde(default)]
    pub both: u32,
    /// Of its last runs (at most 50) how many failed.
    pub failed: u32,
    /// How many these last runs are.
    pub runs: u32,
    /// When it was last flaky.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Time,
    /// Whether its latest plan has it in quarantine or allows its failure.
    pub tolerated: bool,
    /// Whether it is in quarantine.
    #[serde(default)]
    pub quarantined: bool,
}

impl TestView {
    /// Microseconds that a run of a test took, or has taken so far at `now`; `None` when it never began.
    pub fn duration(run: &Run, now: Timestamp) -> Option<u64> {
        let measured = run.outcome.test.as_ref().and_then(|result| result.metrics);
        if let Some(metrics) = measured.filter(|metrics| metrics.wall_us > 0) {
            return Some(metrics.wall_us);
        }
        let end = run.finished_at.unwrap_or(now);
        let took = end.since(run.started_at?);
        Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
    }

    /// A run of a test. What is no test has no name.
    pub fn from_run(run: &Run, now: Timestamp) -> Self {
        let submitted = &run.submitted;
        let test = submitted.spec.test.as_deref().cloned().unwrap_or_default();
        let tolerated = test.is_tolerated();
        let result = run.outcome.test.as_deref().cloned().unwrap_or_default();
        Self {
            run_id: submitted.id,
            seq: run.seq,
            name: test.name,
            key: test.key,
            index: test.index,
            status: run.status,
            held: run.status == RunStatus::Queued && submitted.held,
            ordinal: submitted.ordinal,
            attempt: run.attempt,
            superseded: result.superseded,
            flaky: run.status == RunStatus::Succeeded && submitted.ordinal > 1,
            tolerated,
            needs: test.needs,
            tags: test.tags,
            duration_us: Self::duration(run, now),
            exit_code: run.outcome.exit_code,
            signal: run.outcome.signal,
            error: run.outcome.error.clone(),
            // What was given up was never the test's own fault.
            failure: result
                .failure
                .or((run.status == RunStatus::Lost).then_some(FailureClass::Infrastructure)),
            kernel_end: result.kernel_end,
            metrics: result.metrics,
            cases: result.cases,
            artifacts: result.artifacts,
            problems: result.problems,
            regressions: result.regressions,
            revision: submitted
                .spec
                .workspace
                .as_ref()
                .and_then(|workspace| workspace.head.clone()),
            sandbox_id: run.sandbox_id,
            created_at: submitted.created_at.into(),
            started_at: run.started_at.map(Into::into),
            finished_at: run.finished_at.map(Into::into),
        }
    }
}
