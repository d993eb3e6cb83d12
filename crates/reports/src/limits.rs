//! How much of a report is read, and the book-keeping of it.

use crate::error::{Problem, ReadError};
use crate::model::Warning;
use crate::text;

/// Warnings that are kept of one report: the first ones say what is wrong with a tool, the others repeat it.
const MAX_WARNINGS: usize = 100;

/// How much of a report is read. Reports come out of sandboxes; without limits one of them could fill the memory of the
/// server, since an empty case takes some 300 bytes here and three bytes (`ok⏎`) in TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Cases in a report. The largest suites that are in one report (LLVM, Chromium) have about 100,000; the default is
    /// five times that, some 150 MB.
    pub cases: usize,
    /// Suites in a report, 50,000 by default: each can have a name of `name` bytes for a few bytes of input.
    pub suites: usize,
    /// Bytes of one output or message; what is beyond is cut off with a warning. 1 MiB by default: a person reads no
    /// more, and the log of the run has all.
    pub field: usize,
    /// Bytes of one name; cut off with a warning. 1 KiB by default; names of nested suites contain those of their parents.
    pub name: usize,
    /// Suites or subtests within one another, 64 by default; real ones have up to about five.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            cases: 500_000,
            suites: 50_000,
            field: 1 << 20,
            name: 1 << 10,
            depth: 64,
        }
    }
}

/// What every reader keeps while it reads.
pub(crate) struct Sink<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) error: Option<ReadError>,
    cases: usize,
    suites: usize,
}

/// A limit was reached: stop reading. The error is in the sink.
pub(crate) struct Full;

impl<'a> Sink<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Sink {
            limits,
            warnings: Vec::new(),
            error: None,
            cases: 0,
            suites: 0,
        }
    }

    pub(crate) fn warn(&mut self, line: usize, message: impl Into<String>) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(Warning {
                line,
                message: message.into(),
            });
        }
    }

    /// Only the first error is kept: later ones follow from it.
    pub(crate) fn fail(&mut self, line: usize, column: usize, problem: Problem) {
        self.error.get_or_insert(ReadError {
            line,
            column,
            problem,
        });
    }

    pub(crate) fn one_case(&mut self, line: usize) -> Result<(), Full> {
        self.cases += 1;
        if self.cases > self.limits.cases {
            self.fail(
                line,
                1,
                Problem::Limit {
                    what: "cases",
                    most: self.limits.cases,
                },
            );
            return Err(Full);
        }
        Ok(())
    }

    pub(crate) fn one_suite(&mut self, line: usize) -> Result<(), Full> {
        self.suites += 1;
        if self.suites > self.limits.suites {
            self.fail(
                line,
                1,
                Problem::Limit {
                    what: "suites",
                    most: self.limits.suites,
                },
            );
            return Err(Full);
        }
        Ok(())
    }

    pub(crate) fn name(&mut self, line: usize, name: &str) -> String {
        let kept = text::clip(name, self.limits.name);
        if kept.len() < name.len() {
            self.warn(
                line,
                format!("a name of {} bytes was cut off after {}", name.len(), kept.len()),
            );
        }
        kept.to_owned()
    }

    pub(crate) fn field(&mut self, line: usize, value: &str) -> String {
        let mut kept = String::new();
        self.append(line, &mut kept, value);
        kept
    }

    /// The name of a nested suite.
    pub(crate) fn path(&mut self, line: usize, parent: &str, name: &str) -> String {
        match (parent.is_empty(), name.is_empty()) {
            (true, _) => self.name(line, name),
            (false, true) => parent.to_owned(),
            (false, false) => {
                let name = text::clip(name, self.limits.name);
                self.name(line, &format!("{parent}/{name}"))
            }
        }
    }

    pub(crate) fn append(&mut self, line: usize, kept: &mut String, more: &str) {
        if more.is_empty() {
            return;
        }
        let room = self.limits.field.saturating_sub(kept.len());
        let fits = text::clip(more, room);
        kept.push_str(fits);
        // Said once per field: what comes after finds no room at all.
        if fits.len() < more.len() && (room > 0 || kept.is_empty()) {
            self.warn(line, format!("a field was cut off after {} bytes", kept.len()));
        }
    }
}
