//! What became of a test over time: how it ended, how long it took, and whether it is flaky.

use super::trend::{COMPARED, chart, regressions, trend};
use crate::{Caller, Control, Result};
use ostler_contracts::{FlakyTest, TestChart, TestHistory, TestHistoryRun};
use ostler_domain::{Measure, Permission, QuarantinedTest, RunStatus, TestRecord, Timestamp};
use ostler_plans::test_key;
use ostler_store::{Filter, Op, StoreExt};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// Of which test the history is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestIdentity {
    /// By its key.
    Key(String),
    /// By the names of its plan and of itself.
    Names {
        /// Name of the plan.
        plan: String,
        /// Name of the test.
        test: String,
    },
}

impl TestIdentity {
    pub(super) fn key(self) -> String {
        match self {
            Self::Key(key) => key,
            Self::Names { plan, test } => test_key(&plan, &test),
        }
    }
}

/// Most runs of one answer.
const MAX_RUNS: u32 = 1000;
/// Ends that are looked at for flaky tests, and tests that are told.
const MAX_FLAKY_ENDS: u32 = 10_000;
const MAX_FLAKY_TESTS: usize = 100;
/// Runs of a flaky test that say how often it fails.
const LAST: u32 = 50;

impl Control {
    /// How runs of a test ended, newest first; of one that was never executed there are none.
    pub async fn test_history(
        &self,
        caller: &Caller,
        test: TestIdentity,
        limit: Option<u32>,
    ) -> Result<TestHistory> {
        caller.require(Permission::RunsRead)?;
        let key = test.key();
        let limit = limit.unwrap_or(100).clamp(1, MAX_RUNS);
        let records = self.last_records(caller, key.clone(), limit).await?;
        let quarantined = self.quarantined(caller).await?.contains(&key);
        Ok(history(key, quarantined, &records))
    }

    /// One measure of the runs of a test that passed, oldest first, each beside what was usual before it.
    pub async fn test_chart(
        &self,
        caller: &Caller,
        test: TestIdentity,
        measure: Measure,
        limit: Option<u32>,
    ) -> Result<TestChart> {
        caller.require(Permission::RunsRead)?;
        let key = test.key();
        let limit = limit.unwrap_or(100).clamp(1, MAX_RUNS);
        let more = limit.saturating_add(COMPARED as u32);
        let records = self.last_records(caller, key.clone(), more).await?;
        Ok(TestChart {
            key,
            measure,
            points: chart(&records, measure, limit as usize),
        })
    }

    /// In what a run that has just ended is clearly worse than those before it.
    pub(super) async fn regressions_of(&self, ended: &TestRecord) -> Result<Vec<Measure>> {
        if ended.status != RunStatus::Succeeded {
            return Ok(Vec::new());
        }
        let before = Filter::<TestRecord>::by("tenant_id", ended.tenant_id)
            .and("key", Op::Eq, ended.key.clone())
            .order_by_desc("created_at")
            .limit(2 * COMPARED as u32);
        Ok(regressions(ended, &self.parts.store.list(before).await?))
    }

    async fn last_records(&self, caller: &Caller, key: String, limit: u32) -> Result<Vec<TestRecord>> {
        let records = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
            .and("key", Op::Eq, key)
            .order_by_desc("created_at")
            .limit(limit);
        Ok(self.parts.store.list(records).await?)
    }

    /// Keys of the tests that are in quarantine.
    async fn quarantined(&self, caller: &Caller) -> Result<HashSet<String>> {
        let listed = Filter::<QuarantinedTest>::by("tenant_id", caller.tenant_id);
        let listed = self.parts.store.list(listed).await?;
        Ok(listed.into_iter().map(|test| test.key).collect())
    }

    /// Tests that within the last `days` (30 when absent) passed only when they were tried again, or both passed and failed
    /// on one commit; the flakiest first.
    pub async fn flaky_tests(&self, caller: &Caller, days: Option<u32>) -> Result<Vec<FlakyTest>> {
        caller.require(Permission::RunsRead)?;
        let days = u64::from(days.unwrap_or(30).clamp(1, 3650));
        let since = self.now().minus(Duration::from_secs(days * 24 * 3600));
        let recent = |filter: Filter<TestRecord>| {
            filter
                .and("created_at", Op::Gt, since)
                .order_by_desc("created_at")
                .limit(MAX_FLAKY_ENDS)
        };
        let own = || Filter::<TestRecord>::by("tenant_id", caller.tenant_id);
        let flaky = recent(own().and("flaky", Op::Eq, true));
        let mut tests: BTreeMap<String, Found> = BTreeMap::new();
        for end in self.parts.store.list(flaky).await? {
            // The newest comes first and is kept.
            tests
                .entry(end.key.clone())
                .or_insert_with(|| Found::of(end))
                .flaky += 1;
        }
        let failed = recent(
            own()
                .within("status", [RunStatus::Failed, RunStatus::TimedOut])
                .and("revision", Op::Ne, None::<String>),
        );
        let mut failures: BTreeMap<String, (TestRecord, BTreeSet<String>)> = BTreeMap::new();
        for end in self.parts.store.list(failed).await? {
            let Some(revision) = end.revision.clone() else {
                continue;
            };
            let test = failures
                .entry(end.key.clone())
                .or_insert_with(|| (end, BTreeSet::new()));
            test.1.insert(revision);
        }
        for (key, (end, revisions)) in failures {
            let both = self.passed_on(caller, &key, &revisions, since).await?;
            if both > 0 {
                tests.entry(key).or_insert_with(|| Found::of(end)).both = both;
            }
        }
        let mut tests: Vec<Found> = tests.into_values().collect();
        tests.sort_by_key(|test| (std::cmp::Reverse(test.flaky + test.both), test.end.name.clone()));
        tests.truncate(MAX_FLAKY_TESTS);
        let quarantined = self.quarantined(caller).await?;
        let mut found = Vec::with_capacity(tests.len());
        for Found { end, flaky, both } in tests {
            let last = self.last_records(caller, end.key.clone(), LAST).await?;
            let executed = || last.iter().filter(|run| was_executed(run.status));
            found.push(FlakyTest {
                flaky,
                both,
                failed: executed()
                    .filter(|run| run.status != RunStatus::Succeeded)
                    .count() as u32,
                runs: executed().count() as u32,
                last_at: end.created_at.into(),
                tolerated: last.first().is_some_and(|run| run.tolerated),
                quarantined: quarantined.contains(&end.key),
                key: end.key,
                plan: end.plan,
                name: end.name,
            });
        }
        Ok(found)
    }

    /// On how many of these commits a test passed.
    async fn passed_on(
        &self,
        caller: &Caller,
        key: &str,
        revisions: &BTreeSet<String>,
        since: Timestamp,
    ) -> Result<u32> {
        let passed = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
            .and("key", Op::Eq, key.to_owned())
            .and("created_at", Op::Gt, since)
            .and("status", Op::Eq, RunStatus::Succeeded)
            .order_by_desc("created_at")
            .limit(MAX_FLAKY_ENDS);
        let passed = self.parts.store.list(passed).await?;
        let passed: HashSet<String> = passed.into_iter().filter_map(|run| run.revision).collect();
        Ok(revisions.iter().filter(|one| passed.contains(*one)).count() as u32)
    }
}

/// A test that seems to be flaky, by its newest end of that kind.
struct Found {
    end: TestRecord,
    /// Passes after a failure in the same plan.
    flaky: u32,
    /// Commits with both outcomes.
    both: u32,
}

impl Found {
    const fn of(end: TestRecord) -> Self {
        Self {
            end,
            flaky: 0,
            both: 0,
        }
    }
}

fn was_executed(status: RunStatus) -> bool {
    matches!(
        status,
        RunStatus::Succeeded | RunStatus::Failed | RunStatus::TimedOut
    )
}

/// The history of these runs, newest first.
fn history(key: String, quarantined: bool, records: &[TestRecord]) -> TestHistory {
    let executed = records.iter().filter(|run| was_executed(run.status)).count();
    let passed = records.iter().filter(|run| run.status == RunStatus::Succeeded);
    TestHistory {
        key,
        pass_rate: (executed > 0).then(|| passed.count() as f64 / executed as f64),
        flaky: records.iter().any(|run| run.flaky),
        quarantined,
        duration: trend(records, Measure::Duration),
        cpu: trend(records, Measure::Cpu),
        peak_memory: trend(records, Measure::PeakMemory),
        runs: records
            .iter()
            .map(|run| TestHistoryRun {
                run_id: run.run_id,
                plan_id: run.plan_id,
                plan: run.plan.clone(),
                name: run.name.clone(),
                ordinal: run.ordinal,
                status: run.status,
                flaky: run.flaky,
                duration_us: run.measured(Measure::Duration),
                cpu_us: run.measured(Measure::Cpu),
                peak_memory_bytes: run.measured(Measure::PeakMemory),
                revision: run.revision.clone(),
                at: run.created_at.into(),
            })
            .collect(),
    }
}
