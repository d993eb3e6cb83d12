//! Why a report is not whole, and why one could not be written.

/// Where and why a report is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ReadError {
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else was expected here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The number of tests is not the one that was announced.
    #[error("{planned} tests were planned, {ran} ran")]
    Plan {
        /// Tests that were announced.
        planned: usize,
        /// Tests that have a result.
        ran: usize,
    },
    /// The test program gave up (`Bail out!`).
    #[error("the test program gave up: {reason}")]
    BailOut {
        /// What it said, perhaps nothing.
        reason: String,
    },
    /// There is more than a reader takes; what came before it was read.
    #[error("more than {most} {what}: raise the limit or split the report")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is read.
        most: usize,
    },
}

impl Problem {
    pub(crate) fn expected(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Problem::Unexpected {
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The writer did not take it.
    #[error("the report could not be written: {0}")]
    Io(#[from] std::io::Error),
    /// A record could not be put into JSON.
    #[error("a case could not be put into JSON: {0}")]
    Json(#[from] serde_json::Error),
}
