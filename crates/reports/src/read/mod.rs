//! Readers, one per format.

mod json_lines;
mod junit;
mod libtest_json;
pub(crate) mod libtest_text;
mod tap;
pub(crate) mod tap_line;
mod yaml;

use crate::detect::Format;
use crate::limits::{Limits, Sink};
use crate::model::{Parsed, Report};

/// Reads a report. Every case that can be understood is in the result, also if the rest is broken; bytes that are no
/// UTF-8 are read as `U+FFFD`.
pub fn read(format: Format, bytes: &[u8], limits: &Limits) -> Parsed {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut sink = Sink::new(limits);
    let mut report = Report::default();
    match format {
        Format::Junit => junit::read(bytes, &mut report, &mut sink),
        Format::Tap => tap::read(bytes, tap_line::Dialect::Tap, &mut report, &mut sink),
        Format::Ktap => tap::read(bytes, tap_line::Dialect::Kernel, &mut report, &mut sink),
        Format::LibtestJson => libtest_json::read(bytes, &mut report, &mut sink),
        Format::LibtestText => libtest_text::read(bytes, &mut report, &mut sink),
        Format::JsonLines => json_lines::read(bytes, &mut report, &mut sink),
    }
    report.suites.retain(|suite| !suite.is_empty());
    report.warnings = sink.warnings;
    Parsed {
        report,
        error: sink.error,
    }
}

/// What a JSON error says, without the place that ours has already.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or(text.clone(), |(what, _)| what.to_owned())
}
