//! What is known of a plan's tests, and what there is to say when more becomes known.
//!
//! Pure: views and the time go in, things to say come out. The same test may be told any number of times and in the wrong
//! order (an event after a look that was fresher); what was said is never said again.

use ostler_contracts::TestView;
use ostler_domain::{FailureClass, RunId, RunStatus, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a test ended, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Passed,
    /// Passed after a failure.
    Flaky,
    Failed,
    TimedOut,
    /// Failed, and that counts for nothing.
    Tolerated,
    Skipped,
    Cancelled,
    /// Nothing is known of what it tests: its sandbox or server went away.
    Lost,
}

impl Verdict {
    /// `None` while it has not ended.
    pub(super) fn of(test: &TestView) -> Option<Self> {
        Some(match test.status {
            RunStatus::Queued | RunStatus::Running => return None,
            RunStatus::Succeeded if test.flaky => Self::Flaky,
            RunStatus::Succeeded => Self::Passed,
            RunStatus::Skipped => Self::Skipped,
            RunStatus::Cancelled => Self::Cancelled,
            RunStatus::Failed | RunStatus::TimedOut | RunStatus::Lost if test.tolerated => Self::Tolerated,
            RunStatus::Lost => Self::Lost,
            RunStatus::Failed if test.failure == Some(FailureClass::Infrastructure) => Self::Lost,
            RunStatus::Failed => Self::Failed,
            RunStatus::TimedOut => Self::TimedOut,
        })
    }

    /// Whether its output is worth showing.
    pub(super) const fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Tolerated | Self::Lost)
    }
}

/// Something to say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// A test is being executed.
    Started(Box<TestView>),
    /// A test has ended for good, as the `done`th.
    Ended {
        test: Box<TestView>,
        verdict: Verdict,
        done: usize,
    },
    /// An attempt has failed, and another one follows.
    Retried(Box<TestView>),
    /// A test takes long, so far this long.
    Slow { name: String, elapsed: Duration },
}

impl Said {
    /// The run whose output explains it; `None` where there is nothing to explain.
    pub(super) fn failed_run(&self) -> Option<RunId> {
        match self {
            Self::Ended { test, verdict, .. } => verdict.is_bad().then_some(test.run_id),
            Self::Retried(test) => Some(test.run_id),
            Self::Started(_) | Self::Slow { .. } => None,
        }
    }
}

/// How many tests are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) passed: usize,
    /// Among those that passed.
    pub(super) flaky: usize,
    pub(super) failed: usize,
    pub(super) timed_out: usize,
    pub(super) tolerated: usize,
    pub(super) skipped: usize,
    pub(super) cancelled: usize,
    pub(super) lost: usize,
}

impl Counts {
    pub(super) fn ended(&self) -> usize {
        self.passed
            + self.failed
            + self.timed_out
            + self.tolerated
            + self.skipped
            + self.cancelled
            + self.lost
    }
}

/// The tests of one plan.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// How many there will be.
    total: usize,
    /// How many have ended for good.
    ended: usize,
    tests: BTreeMap<String, TestView>,
    /// Runs that did not count, since another one followed; in order.
    earlier: BTreeMap<String, Vec<TestView>>,
    /// Runs of which it was said how they ended.
    said: BTreeSet<(String, u32)>,
    /// Running tests, and how long they took when that was last said.
    slow: BTreeMap<String, Duration>,
}

impl Story {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total.max(self.tests.len())
    }

    /// In order of their names.
    pub(super) fn tests(&self) -> impl Iterator<Item = &TestView> {
        self.tests.values()
    }

    /// The runs of a test that did not count, as far as they were seen.
    pub(super) fn earlier(&self, name: &str) -> &[TestView] {
        self.earlier.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for test in self.tests.values() {
            let place = match Verdict::of(test) {
                None if test.status == RunStatus::Running => &mut counts.running,
                None => &mut counts.waiting,
                Some(_) if test.superseded => &mut counts.waiting,
                Some(Verdict::Passed) => &mut counts.passed,
                Some(Verdict::Flaky) => {
                    counts.flaky += 1;
                    &mut counts.passed
                }
                Some(Verdict::Failed) => &mut counts.failed,
                Some(Verdict::TimedOut) => &mut counts.timed_out,
                Some(Verdict::Tolerated) => &mut counts.tolerated,
                Some(Verdict::Skipped) => &mut counts.skipped,
                Some(Verdict::Cancelled) => &mut counts.cancelled,
                Some(Verdict::Lost) => &mut counts.lost,
            };
            *place += 1;
        }
        counts.waiting += self.total().saturating_sub(self.tests.len());
        counts
    }

    /// Whether every test has ended for good.
    pub(super) fn is_over(&self) -> bool {
        self.ended >= self.total()
    }

    /// A test is as this says, or was.
    pub(super) fn test_is(&mut self, test: TestView) -> Option<Said> {
        let mut running = false;
        if let Some(known) = self.tests.get(&test.name) {
            running = known.status == RunStatus::Running && known.ordinal == test.ordinal;
            let older = known.ordinal > test.ordinal;
            let ended = known.ordinal == test.ordinal && known.status.is_terminal();
            // An end is final, except that another attempt may come to follow it.
            if older && !test.superseded || ended && (!test.status.is_terminal() || known.superseded) {
                return None;
            }
            if older {
                return self.retried(test);
            }
        }
        if test.status != RunStatus::Running {
            self.slow.remove(&test.name);
        }
        self.tests.insert(test.name.clone(), test.clone());
        if test.status == RunStatus::Running && !running {
            return Some(Said::Started(Box::new(test)));
        }
        let verdict = Verdict::of(&test)?;
        if test.superseded {
            return self.retried(test);
        }
        if !self.first(&test) {
            return None;
        }
        self.ended += 1;
        Some(Said::Ended {
            test: Box::new(test),
            verdict,
            done: self.ended,
        })
    }

    fn retried(&mut self, test: TestView) -> Option<Said> {
        if !self.first(&test) {
            return None;
        }
        self.earlier
            .entry(test.name.clone())
            .or_default()
            .push(test.clone());
        Some(Said::Retried(Box::new(test)))
    }

    fn first(&mut self, test: &TestView) -> bool {
        self.said.insert((test.name.clone(), test.ordinal))
    }

    /// Tests that are running, those first that take longest, with how long they do.
    pub(super) fn running(&self, now: Timestamp) -> Vec<(&str, Duration)> {
        let running = self
            .tests
            .values()
            .filter(|test| test.status == RunStatus::Running);
        let mut running: Vec<_> = running
            .map(|test| (test.name.as_str(), elapsed(test, now)))
            .collect();
        running.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        running
    }

    /// Tests that have come to take a whole multiple of `period` since this was last asked.
    pub(super) fn slow(&mut self, now: Timestamp, period: Duration) -> Vec<Said> {
        let late: Vec<(String, Duration)> = self
            .running(now)
            .into_iter()
            .take_while(|(_, elapsed)| *elapsed >= period)
            .map(|(name, elapsed)| (name.to_owned(), elapsed))
            .collect();
        let mut said = Vec::new();
        for (name, elapsed) in late {
            let last = self.slow.entry(name.clone()).or_default();
            // The first time after one period, then after two, four, eight ...
            if *last == Duration::ZERO || elapsed >= last.saturating_mul(2) {
                *last = elapsed;
                said.push(Said::Slow { name, elapsed });
            }
        }
        said
    }
}

/// How long a test took, or has taken by now.
pub(super) fn elapsed(test: &TestView, now: Timestamp) -> Duration {
    match (test.started_at, test.finished_at, test.duration_us) {
        (Some(from), None, _) => now.since(from.0),
        (_, _, Some(microseconds)) => Duration::from_micros(microseconds),
        (Some(from), Some(to), None) => to.0.since(from.0),
        (None, ..) => Duration::ZERO,
    }
}
