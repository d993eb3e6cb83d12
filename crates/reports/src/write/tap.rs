//! TAP 14.

use crate::error::WriteError;
use crate::model::{Case, Outcome, Property, Report, Suite};
use crate::record;
use std::io::Write;
use std::time::Duration;

/// Writes TAP 14: a subtest per suite that has cases, results of the one without a name on the first level, and whatever a
/// result line cannot say in a YAML block with the keys `case`, `classname`, `outcome`, `message`, `type`, `details`,
/// `duration_ms`, `stdout`, `stderr`, `properties` (pairs) and `reruns` (objects as in JSON lines). Source:
/// `testanything.org`, "TAP 14 specification".
///
/// A [`Outcome::Skipped`] of kind `todo` is a failed test with the directive `TODO`. The format has no place for the name of
/// the report and for output of the suite without a name.
pub fn write_tap(report: &Report, mut writer: impl Write) -> Result<(), WriteError> {
    let out = &mut writer;
    let (loose, named): (Vec<_>, Vec<_>) = report
        .suites
        .iter()
        .filter(|suite| !suite.cases.is_empty())
        .partition(|suite| suite.name.is_empty());
    let first: usize = loose.iter().map(|suite| suite.cases.len()).sum();
    writeln!(out, "TAP version 14\n1..{}", first + named.len())?;
    let mut number = 0;
    for case in loose.iter().flat_map(|suite| &suite.cases) {
        number += 1;
        one(out, "", number, case)?;
    }
    for suite in named {
        number += 1;
        subtest(out, number, suite)?;
    }
    Ok(())
}

fn subtest(out: &mut impl Write, number: usize, suite: &Suite) -> Result<(), WriteError> {
    writeln!(
        out,
        "# Subtest: {}\n    1..{}",
        escaped(&suite.name),
        suite.cases.len()
    )?;
    for (index, case) in suite.cases.iter().enumerate() {
        one(out, "    ", index + 1, case)?;
    }
    let bad = suite.cases.iter().any(|case| case.outcome.is_bad());
    writeln!(
        out,
        "{}ok {number} - {}",
        if bad { "not " } else { "" },
        escaped(&suite.name)
    )?;
    let mut block = Block::default();
    block.text("suite", (!is_plain(&suite.name)).then_some(&suite.name));
    block.duration(suite.duration);
    block.text("stdout", suite.stdout.as_ref());
    block.text("stderr", suite.stderr.as_ref());
    block.properties(&suite.properties)?;
    block.write(out, "")
}

fn one(out: &mut impl Write, indent: &str, number: usize, case: &Case) -> Result<(), WriteError> {
    let reason = case.outcome.reason();
    let todo = matches!(&case.outcome, Outcome::Skipped(reason) if reason.kind.as_deref() == Some("todo"));
    let not = if case.outcome.is_bad() || todo { "not " } else { "" };
    write!(out, "{indent}{not}ok {number} - {}", escaped(&case.name))?;
    let mut said = false;
    if let Outcome::Skipped(reason) = &case.outcome {
        let message = reason.message.as_deref().unwrap_or_default();
        said = reason
            .message
            .as_deref()
            .is_none_or(|message| is_plain(message) && !message.starts_with(':'));
        write!(
            out,
            " # {} {}",
            if todo { "TODO" } else { "SKIP" },
            escaped(message)
        )?;
    }
    writeln!(out)?;
    let mut block = Block::default();
    block.text("case", (!is_plain(&case.name)).then_some(&case.name));
    block.text("classname", case.class.as_ref());
    if let Outcome::Error(_) = case.outcome {
        block.line("outcome", "error");
    }
    if let Some(reason) = reason {
        block.text("message", reason.message.as_ref().filter(|_| !said));
        block.text("type", reason.kind.as_ref().filter(|_| !todo));
        block.text("details", reason.details.as_ref());
    }
    block.duration(case.duration);
    block.text("stdout", case.stdout.as_ref());
    block.text("stderr", case.stderr.as_ref());
    block.properties(&case.properties)?;
    if !case.reruns.is_empty() {
        block.line("reruns", &serde_json::to_string(&record::reruns(&case.reruns))?);
    }
    block.write(out, &format!("{indent}  "))
}

/// Whether a line can have the text so that readers get the same.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.chars().any(breaks)
}

/// Characters that end a line for someone, or that nobody can see.
fn breaks(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.trim().chars() {
        match character {
            '\\' | '#' => line.extend(['\\', character]),
            _ if breaks(character) => line.push(' '),
            _ => line.push(character),
        }
    }
    line.trim().to_owned()
}

/// A YAML block.
#[derive(Default)]
struct Block {
    lines: Vec<String>,
}

impl Block {
    fn line(&mut self, key: &str, value: &str) {
        self.lines.push(format!("{key}: {value}"));
    }

    /// Several lines as people want to read them, anything else as a JSON string, which YAML takes, too.
    fn text(&mut self, key: &str, value: Option<&String>) {
        let Some(value) = value else { return };
        let readable = value.contains('\n')
            && !value.starts_with('\n')
            && !value.ends_with('\n')
            && !value
                .chars()
                .any(|character| breaks(character) && !matches!(character, '\n' | '\t'));
        if readable {
            self.line(key, "|2-");
            self.lines
                .extend(value.split('\n').map(|line| format!("  {line}")));
        } else {
            self.line(key, &serde_json::Value::from(value.as_str()).to_string());
        }
    }

    fn duration(&mut self, duration: Option<Duration>) {
        if let Some(duration) = duration {
            self.line(
                "duration_ms",
                &format!(
                    "{}.{:06}",
                    duration.as_millis(),
                    duration.subsec_nanos() % 1_000_000
                ),
            );
        }
    }

    fn properties(&mut self, properties: &[Property]) -> Result<(), WriteError> {
        if !properties.is_empty() {
            self.line("properties", &serde_json::to_string(&record::pairs(properties))?);
        }
        Ok(())
    }

    fn write(self, out: &mut impl Write, indent: &str) -> Result<(), WriteError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        // Deeper than the result by two.
        let indent = if indent.is_empty() { "  " } else { indent };
        writeln!(out, "{indent}---")?;
        for line in self.lines {
            writeln!(out, "{indent}{line}")?;
        }
        writeln!(out, "{indent}...")?;
        Ok(())
    }
}
