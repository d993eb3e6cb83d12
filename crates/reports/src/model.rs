//! What a report says, in the words of JUnit, which every tool of the field knows.

use std::time::Duration;

/// What was read, and why it is not all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Every case that could be read.
    pub report: crate::Report,
    /// The first reason why the report is not whole. With one, the report is no success, whatever its cases say.
    pub error: Option<crate::ReadError>,
}

/// The results of tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The name of the whole, if it has one.
    pub name: Option<String>,
    /// Suites in the order of the document. Nested ones are flat here, their names joined with `/`.
    pub suites: Vec<Suite>,
    /// What was odd, but did not keep a case from being understood; at most 100.
    pub warnings: Vec<Warning>,
}

/// Something odd in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line, from 1.
    pub line: usize,
    /// What is odd.
    pub message: String,
}

/// Cases that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suite {
    /// The name; empty if the format has none.
    pub name: String,
    /// How long all of it took.
    pub duration: Option<Duration>,
    /// Properties of the suite.
    pub properties: Vec<Property>,
    /// Standard output that belongs to no single case.
    pub stdout: Option<String>,
    /// Standard error that belongs to no single case.
    pub stderr: Option<String>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// One test and its result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Case {
    /// The name, as the runner writes it.
    pub name: String,
    /// The class of JUnit (`classname`): a class, a module or a test program.
    pub class: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Option<Duration>,
    /// Its standard output, if the report has it.
    pub stdout: Option<String>,
    /// Its standard error, if the report has it.
    pub stderr: Option<String>,
    /// Properties, and attributes that this model has no field for.
    pub properties: Vec<Property>,
    /// Tries that did not count. A case that passed and has some is flaky.
    pub reruns: Vec<Rerun>,
}

/// A try of a case that did not count, because the case was tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rerun {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Option<Duration>,
    /// Its standard output.
    pub stdout: Option<String>,
    /// Its standard error.
    pub stderr: Option<String>,
}

/// How a test ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    #[default]
    Passed,
    /// What it asserts does not hold.
    Failed(Reason),
    /// It was not run, or its failure is expected (`kind` is `todo`, `xfail` or alike then).
    Skipped(Reason),
    /// It could not be judged: its preparation failed, it crashed, its result is missing.
    Error(Reason),
}

impl Outcome {
    /// Whether it speaks against what is tested.
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::Error(_))
    }

    /// Why, unless it passed.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Outcome::Passed => None,
            Outcome::Failed(reason) | Outcome::Skipped(reason) | Outcome::Error(reason) => Some(reason),
        }
    }

    pub(crate) fn reason_mut(&mut self) -> Option<&mut Reason> {
        match self {
            Outcome::Passed => None,
            Outcome::Failed(reason) | Outcome::Skipped(reason) | Outcome::Error(reason) => Some(reason),
        }
    }

    /// `passed`, `failed`, `skipped` or `error`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
            Outcome::Error(_) => "error",
        }
    }
}

/// Why a test did not pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason {
    /// One line or a few.
    pub message: Option<String>,
    /// The `type` of JUnit: a class of exceptions, `pytest.xfail`, `timeout`.
    pub kind: Option<String>,
    /// Everything else: stack trace, diagnostics.
    pub details: Option<String>,
}

impl Reason {
    pub(crate) fn of(message: impl Into<String>) -> Self {
        Reason {
            message: Some(message.into()),
            ..Reason::default()
        }
    }
}

/// How many cases ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cases that passed, flaky ones among them.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that were skipped.
    pub skipped: usize,
    /// Cases that could not be judged.
    pub errors: usize,
    /// Cases that passed after a try that did not.
    pub flaky: usize,
}

impl Counts {
    /// All cases.
    pub fn total(&self) -> usize {
        self.passed + self.failed + self.skipped + self.errors
    }
}

impl Report {
    /// All cases with their suites, in order.
    pub fn cases(&self) -> impl Iterator<Item = (&Suite, &Case)> {
        self.suites
            .iter()
            .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)))
    }

    /// How many cases ended how.
    pub fn counts(&self) -> Counts {
        self.suites.iter().fold(Counts::default(), |mut all, suite| {
            let counts = suite.counts();
            all.passed += counts.passed;
            all.failed += counts.failed;
            all.skipped += counts.skipped;
            all.errors += counts.errors;
            all.flaky += counts.flaky;
            all
        })
    }
}

impl Suite {
    /// How many cases of the suite ended how.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for case in &self.cases {
            match case.outcome {
                Outcome::Passed => counts.passed += 1,
                Outcome::Failed(_) => counts.failed += 1,
                Outcome::Skipped(_) => counts.skipped += 1,
                Outcome::Error(_) => counts.errors += 1,
            }
            counts.flaky += usize::from(case.outcome == Outcome::Passed && !case.reruns.is_empty());
        }
        counts
    }

    /// Whether there is nothing to say about it.
    pub(crate) fn is_empty(&self) -> bool {
        self.cases.is_empty() && self.properties.is_empty() && self.stdout.is_none() && self.stderr.is_none()
    }
}
