//! What became of a test over time: how it ended, how long it took, and whether it is flaky.

use crate::{Caller, Control, Result};
use ostler_contracts::{FlakyTest, TestHistory, TestHistoryRun, TestTrend};
use ostler_domain::{Permission, RunStatus, TestRecord};
use ostler_plans::test_key;
use ostler_store::{Filter, Op, StoreExt};
use std::collections::BTreeMap;
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

/// Most runs of one answer.
const MAX_RUNS: u32 = 1000;
/// Runs before the newest that it is compared with.
const COMPARED: usize = 50;
/// With fewer than these nothing is said.
const ENOUGH: usize = 5;
/// How many standard deviations the newest must be above the median. The deviation of a normal distribution is 1.4826 times
/// the median absolute one.
const SIGMAS: f64 = 4.0;
const SIGMA: f64 = 1.4826;
/// And how much larger than the median, as a share of it: runs that hardly differ have a deviation of nearly nothing.
const SHARE: f64 = 0.1;
/// Flaky ends that are looked at, and tests that are told.
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
        let key = match test {
            TestIdentity::Key(key) => key,
            TestIdentity::Names { plan, test } => test_key(&plan, &test),
        };
        let limit = limit.unwrap_or(100).clamp(1, MAX_RUNS);
        Ok(history(
            key.clone(),
            &self.last_records(caller, key, limit).await?,
        ))
    }

    async fn last_records(&self, caller: &Caller, key: String, limit: u32) -> Result<Vec<TestRecord>> {
        let records = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
            .and("key", Op::Eq, key)
            .order_by_desc("created_at")
            .limit(limit);
        Ok(self.parts.store.list(records).await?)
    }

    /// Tests that passed only when they were tried again within the last `days` (30 when absent), the flakiest first.
    pub async fn flaky_tests(&self, caller: &Caller, days: Option<u32>) -> Result<Vec<FlakyTest>> {
        caller.require(Permission::RunsRead)?;
        let days = u64::from(days.unwrap_or(30).clamp(1, 3650));
        let since = self.now().minus(Duration::from_secs(days * 24 * 3600));
        let flaky = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
            .and("flaky", Op::Eq, true)
            .and("created_at", Op::Gt, since)
            .order_by_desc("created_at")
            .limit(MAX_FLAKY_ENDS);
        let mut tests: BTreeMap<String, (TestRecord, u32)> = BTreeMap::new();
        for end in self.parts.store.list(flaky).await? {
            // The newest comes first and is kept.
            tests.entry(end.key.clone()).or_insert((end, 0)).1 += 1;
        }
        let mut tests: Vec<(TestRecord, u32)> = tests.into_values().collect();
        tests.sort_by_key(|(end, times)| (std::cmp::Reverse(*times), end.name.clone()));
        tests.truncate(MAX_FLAKY_TESTS);
        let mut found = Vec::with_capacity(tests.len());
        for (end, flaky) in tests {
            let last = self.last_records(caller, end.key.clone(), LAST).await?;
            let executed = || last.iter().filter(|run| was_executed(run.status));
            found.push(FlakyTest {
                flaky,
                failed: executed()
                    .filter(|run| run.status != RunStatus::Succeeded)
                    .count() as u32,
                runs: executed().count() as u32,
                last_at: end.created_at.into(),
                tolerated: last.first().is_some_and(|run| run.tolerated),
                key: end.key,
                plan: end.plan,
                name: end.name,
            });
        }
        Ok(found)
    }
}

fn was_executed(status: RunStatus) -> bool {
    matches!(
        status,
        RunStatus::Succeeded | RunStatus::Failed | RunStatus::TimedOut
    )
}

fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// The history of these runs, newest first.
fn history(key: String, records: &[TestRecord]) -> TestHistory {
    let executed = records.iter().filter(|run| was_executed(run.status)).count();
    let passed: Vec<&TestRecord> = records
        .iter()
        .filter(|run| run.status == RunStatus::Succeeded)
        .collect();
    let series = |value: fn(&TestRecord) -> i64| {
        let values = passed.iter().map(|run| positive(value(run)));
        trend(&values.filter(|value| *value > 0).collect::<Vec<_>>())
    };
    TestHistory {
        key,
        pass_rate: (executed > 0).then(|| passed.len() as f64 / executed as f64),
        flaky: records.iter().any(|run| run.flaky),
        duration: series(|run| run.duration_us),
        cpu: series(|run| run.cpu_us),
        peak_memory: series(|run| run.peak_memory_bytes),
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
                duration_us: positive(run.duration_us),
                cpu_us: positive(run.cpu_us),
                peak_memory_bytes: positive(run.peak_memory_bytes),
                at: run.created_at.into(),
            })
            .collect(),
    }
}

/// The newest of these values, which come newest first, beside those before it.
fn trend(values: &[u64]) -> Option<TestTrend> {
    let (latest, before) = values.split_first()?;
    let before: Vec<f64> = before.iter().take(COMPARED).map(|value| *value as f64).collect();
    let median = middle(before.clone())?;
    let deviation = middle(before.iter().map(|value| (value - median).abs()).collect())?;
    let bound = median + (SIGMAS * SIGMA * deviation).max(SHARE * median);
    Some(TestTrend {
        latest: *latest,
        median,
        deviation,
        count: before.len() as u32,
        regression: before.len() >= ENOUGH && *latest as f64 > bound,
    })
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(half - 1)?, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_rise_is_a_regression_and_one_outlier_before_it_hides_nothing() {
        let usual = [100, 101, 99, 5000, 100, 102];
        let with = |latest: u64| {
            let values: Vec<u64> = [latest].into_iter().chain(usual).collect();
            trend(&values).unwrap()
        };
        let risen = with(150);
        assert!(risen.regression && risen.count == 6, "{risen:?}");
        assert!((risen.median - 100.5).abs() < 1e-9, "{risen:?}");
        assert!(!with(105).regression, "within a tenth");
        assert!(!with(50).regression, "faster is none");
    }

    #[test]
    fn little_says_nothing() {
        assert_eq!(trend(&[]), None);
        assert_eq!(trend(&[5]), None);
        assert!(!trend(&[900, 100, 100, 100, 100]).unwrap().regression);
        assert!(trend(&[900, 100, 100, 100, 100, 100]).unwrap().regression);
    }
}
