//! Whether a value is clearly larger than those before it.
//!
//! The median and the median absolute deviation from it, since single outliers, which every test has, do not move them.

use ostler_contracts::{TestChartPoint, TestTrend};
use ostler_domain::{Measure, RunStatus, TestRecord};

/// Values before one that it is compared with.
pub(super) const COMPARED: usize = 20;
/// With fewer than these nothing is said.
const ENOUGH: usize = 5;
/// How many standard deviations the newest must be above the median. The deviation of a normal distribution is 1.4826 times
/// the median absolute one.
const SIGMAS: f64 = 4.0;
const SIGMA: f64 = 1.4826;
/// And how much larger than the median, as a share of it: runs that hardly differ have a deviation of nearly nothing.
const SHARE: f64 = 0.1;

/// And how much larger at least, in the unit of the measure: what is that small is noise of the machine.
const fn noise(what: Measure) -> f64 {
    match what {
        // 50 ms.
        Measure::Duration | Measure::Cpu => 50_000.0,
        // 4 MiB.
        Measure::PeakMemory => 4_194_304.0,
    }
}

/// What was usual before a value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usual {
    median: f64,
    deviation: f64,
    count: usize,
    /// How far from the median is still usual.
    margin: f64,
}

impl Usual {
    /// Of values that come newest first; `None` without any.
    fn of(values: &[u64], what: Measure) -> Option<Self> {
        let values: Vec<f64> = values.iter().take(COMPARED).map(|value| *value as f64).collect();
        let median = middle(values.clone())?;
        let deviation = middle(values.iter().map(|value| (value - median).abs()).collect())?;
        Some(Self {
            median,
            deviation,
            count: values.len(),
            margin: (SIGMAS * SIGMA * deviation).max(SHARE * median).max(noise(what)),
        })
    }

    fn is_exceeded_by(&self, value: u64) -> bool {
        self.count >= ENOUGH && value as f64 > self.median + self.margin
    }
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

/// What was measured of the runs that passed, of these, which come newest first.
fn passed(records: &[TestRecord], what: Measure) -> Vec<(&TestRecord, u64)> {
    records
        .iter()
        .filter(|run| run.status == RunStatus::Succeeded)
        .map(|run| (run, run.measured(what)))
        .filter(|(_, value)| *value > 0)
        .collect()
}

/// The newest of the runs that passed, beside those before it.
pub(super) fn trend(records: &[TestRecord], what: Measure) -> Option<TestTrend> {
    let values: Vec<u64> = passed(records, what)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    let (latest, before) = values.split_first()?;
    let usual = Usual::of(before, what)?;
    Some(TestTrend {
        latest: *latest,
        median: usual.median,
        deviation: usual.deviation,
        count: usual.count as u32,
        regression: usual.is_exceeded_by(*latest),
    })
}

/// In what a run that passed is clearly worse than those before it, which come newest first.
pub(super) fn regressions(now: &TestRecord, before: &[TestRecord]) -> Vec<Measure> {
    let worse = |what: &Measure| {
        let values: Vec<u64> = passed(before, *what)
            .into_iter()
            .map(|(_, value)| value)
            .collect();
        let value = now.measured(*what);
        value > 0 && Usual::of(&values, *what).is_some_and(|usual| usual.is_exceeded_by(value))
    };
    if now.status != RunStatus::Succeeded {
        return Vec::new();
    }
    Measure::ALL.iter().copied().filter(worse).collect()
}

/// Each of the runs that passed beside those before it, oldest first. `records` come newest first; of the first `most`
/// there is a point.
pub(super) fn chart(records: &[TestRecord], what: Measure, most: usize) -> Vec<TestChartPoint> {
    let runs = passed(records, what);
    let values: Vec<u64> = runs.iter().map(|(_, value)| *value).collect();
    let mut points: Vec<TestChartPoint> = runs
        .iter()
        .enumerate()
        .take(most)
        .map(|(at, (run, value))| {
            let usual = Usual::of(&values[at + 1..], what);
            TestChartPoint {
                run_id: run.run_id,
                at: run.created_at.into(),
                value: *value,
                median: usual.map(|usual| usual.median),
                low: usual.map(|usual| (usual.median - usual.margin).max(0.0)),
                high: usual.map(|usual| usual.median + usual.margin),
                regression: usual.is_some_and(|usual| usual.is_exceeded_by(*value)),
            }
        })
        .collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::{PlanId, RunId, TenantId, Timestamp};

    const MS: i64 = 1000;

    fn record(milliseconds: i64, status: RunStatus) -> TestRecord {
        TestRecord {
            run_id: RunId::new(),
            tenant_id: TenantId::DEFAULT,
            key: "k".into(),
            plan_id: PlanId::new(),
            plan: "p".into(),
            name: "t".into(),
            ordinal: 1,
            status,
            tolerated: false,
            superseded: false,
            flaky: false,
            duration_us: milliseconds * MS,
            cpu_us: 0,
            peak_memory_bytes: 0,
            revision: None,
            created_at: Timestamp(milliseconds),
        }
    }

    fn passing(all: &[i64]) -> Vec<TestRecord> {
        all.iter()
            .map(|milliseconds| record(*milliseconds, RunStatus::Succeeded))
            .collect()
    }

    #[test]
    fn a_clear_rise_is_a_regression_and_one_outlier_before_it_hides_nothing() {
        let usual = [1000, 1010, 990, 50_000, 1000, 1020];
        let with = |latest: i64| {
            let values: Vec<i64> = [latest].into_iter().chain(usual).collect();
            trend(&passing(&values), Measure::Duration).unwrap()
        };
        let risen = with(1500);
        assert!(risen.regression && risen.count == 6, "{risen:?}");
        assert!((risen.median - 1_005_000.0).abs() < 1e-9, "{risen:?}");
        assert!(!with(1050).regression, "within a tenth");
        assert!(!with(500).regression, "faster is none");
        let before = passing(&usual);
        let slow = record(1500, RunStatus::Succeeded);
        assert_eq!(regressions(&slow, &before), [Measure::Duration]);
        assert!(regressions(&record(1050, RunStatus::Succeeded), &before).is_empty());
        assert!(regressions(&record(1500, RunStatus::Failed), &before).is_empty());
    }

    #[test]
    fn little_says_nothing() {
        let of = |values: &[i64]| trend(&passing(values), Measure::Duration);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[5]), None);
        assert!(!of(&[900, 100, 100, 100, 100]).unwrap().regression);
        assert!(of(&[900, 100, 100, 100, 100, 100]).unwrap().regression);
        assert!(!of(&[40, 5, 5, 5, 5, 5]).unwrap().regression, "some milliseconds");
    }

    #[test]
    fn a_chart_has_a_point_for_each_run_that_passed_with_what_was_usual_then() {
        let mut records = passing(&[1500, 1000, 1000, 1000, 1000, 1000, 1000]);
        records.insert(3, record(9000, RunStatus::Failed));
        let points = chart(&records, Measure::Duration, 100);
        assert_eq!(points.len(), 7);
        assert_eq!((points[0].median, points[0].regression), (None, false));
        let last = points.last().unwrap();
        assert!(last.regression && last.value == 1_500_000, "{last:?}");
        assert_eq!(
            (last.median, last.low, last.high),
            (Some(1e6), Some(9e5), Some(1.1e6))
        );
        assert!(points[..6].iter().all(|point| !point.regression));
        assert_eq!(chart(&records, Measure::Duration, 2).len(), 2);
        assert!(
            chart(&records, Measure::Cpu, 10).is_empty(),
            "nothing was measured"
        );
    }
}
