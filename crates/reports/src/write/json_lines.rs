//! JSON lines: one object per case.

use crate::error::WriteError;
use crate::model::{Case, Report};
use crate::record::Record;
use std::io::Write;

/// Writes one object per case, each on a line of its own. Fields, absent where there is nothing to say:
///
/// | field | |
/// |---|---|
/// | `suite`, `class`, `name` | names; `name` is always there |
/// | `outcome` | `passed`, `failed`, `skipped` or `error`; always there |
/// | `message`, `type`, `details` | why it did not pass |
/// | `time` | seconds |
/// | `stdout`, `stderr` | its output |
/// | `properties` | list of pairs of name and value |
/// | `reruns` | tries that did not count: objects with the fields from `outcome` to `stderr` |
///
/// Fields may be added, but are never renamed. Output and properties of suites are not in this format.
pub fn write_json_lines(report: &Report, mut writer: impl Write) -> Result<(), WriteError> {
    for (suite, case) in report.cases() {
        write_json_line(&suite.name, case, &mut writer)?;
    }
    Ok(())
}

/// Writes one line of [`write_json_lines`], for whoever has cases one by one.
pub fn write_json_line(suite: &str, case: &Case, mut writer: impl Write) -> Result<(), WriteError> {
    serde_json::to_writer(&mut writer, &Record::of(suite, case))?;
    writer.write_all(b"\n")?;
    Ok(())
}
