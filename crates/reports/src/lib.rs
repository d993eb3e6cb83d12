//! Reports of tests: what other runners write is read into cases, and cases are written for other tools.
//!
//! One program that runs a whole suite is one run for the scheduler, yet many tests for a person. Its report says which.
//! Everything here is pure: bytes in, a [`Report`] out, so that it can be tested with any bytes at all. What is read comes
//! out of sandboxes and is hostile: fields, cases and depth are limited ([`Limits`]), no input makes a reader panic or
//! take more than linear time, and no entity is ever expanded.
//!
//! **Nothing is lost.** A report that breaks off (its program crashed, the kernel panicked) still has cases in front of
//! the break: [`Parsed`] has both the cases and the error. Whoever sums up must look at the error, too: a report that is
//! not whole is no success, however many of its cases passed.
//!
//! ```
//! use ostler_reports::{Format, Limits, detect, read, write_junit};
//!
//! let output = b"TAP version 14\n1..3\nok 1 - parses\nnot ok 2 - adds\n";
//! let parsed = read(Format::Tap, output, &Limits::default());
//! assert_eq!(detect(output), Some(Format::Tap));
//! assert_eq!(parsed.report.counts().failed, 1);
//! assert_eq!(parsed.error.unwrap().to_string(), "line 2, column 1: 3 tests were planned, 2 ran");
//! let mut xml = Vec::new();
//! write_junit(&parsed.report, &mut xml)?;
//! # Ok::<(), ostler_reports::WriteError>(())
//! ```

mod detect;
mod error;
mod limits;
mod model;
mod read;
mod record;
mod shard;
mod text;
mod write;

pub use detect::{Format, detect};
pub use error::{Problem, ReadError, WriteError};
pub use limits::Limits;
pub use model::{Case, Counts, Outcome, Parsed, Property, Reason, Report, Rerun, Suite, Warning};
pub use read::read;
pub use shard::shards;
pub use write::json_lines::{write_json_line, write_json_lines};
pub use write::junit::write_junit;
pub use write::tap::write_tap;
