//! JUnit XML, with the elements that quick-junit, surefire and Jenkins agree on.
//!
//! Written by hand, not with quick-junit: that one drops tabs from every string, loses the rest of a text after an
//! unfinished terminal command, lets `U+FFFE` through, which is no XML, and writes new lines in attributes so that readers
//! make spaces of them. It reads what is written here in the tests.

use crate::error::WriteError;
use crate::model::{Case, Counts, Outcome, Property, Reason, Report, Rerun};
use crate::text::without_commands;
use std::io::Write;
use std::time::Duration;

/// Writes JUnit XML. Commands for terminals and characters that XML 1.0 cannot have are left out; seconds have nine digits
/// at most. What of the source a model has no place for (time stamps) is a property already.
pub fn write_junit(report: &Report, mut writer: impl Write) -> Result<(), WriteError> {
    let out = &mut writer;
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    write!(out, "<testsuites")?;
    if let Some(name) = &report.name {
        attribute(out, "name", name)?;
    }
    counts(out, report.counts())?;
    writeln!(out, ">")?;
    for suite in &report.suites {
        write!(out, "  <testsuite")?;
        attribute(out, "name", &suite.name)?;
        counts(out, suite.counts())?;
        time(out, suite.duration)?;
        writeln!(out, ">")?;
        properties(out, "    ", &suite.properties)?;
        for case in &suite.cases {
            one(out, case)?;
        }
        stream(out, "    ", "system-out", suite.stdout.as_deref())?;
        stream(out, "    ", "system-err", suite.stderr.as_deref())?;
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")?;
    Ok(())
}

fn one(out: &mut impl Write, case: &Case) -> Result<(), WriteError> {
    write!(out, "    <testcase")?;
    attribute(out, "name", &case.name)?;
    if let Some(class) = &case.class {
        attribute(out, "classname", class)?;
    }
    time(out, case.duration)?;
    let Case {
        outcome,
        stdout,
        stderr,
        reruns,
        ..
    } = case;
    let plain = *outcome == Outcome::Passed && reruns.is_empty() && case.properties.is_empty();
    if plain && stdout.is_none() && stderr.is_none() {
        writeln!(out, "/>")?;
        return Ok(());
    }
    writeln!(out, ">")?;
    properties(out, "      ", &case.properties)?;
    let (element, word) = match outcome {
        Outcome::Passed => (None, "flaky"),
        Outcome::Failed(reason) => (Some(("failure", reason)), "rerun"),
        Outcome::Skipped(reason) => (Some(("skipped", reason)), "rerun"),
        Outcome::Error(reason) => (Some(("error", reason)), "rerun"),
    };
    if let Some((element, reason)) = element {
        write!(out, "      <{element}")?;
        reasons(out, reason)?;
        match &reason.details {
            Some(details) => {
                write!(out, ">")?;
                text(out, details)?;
                writeln!(out, "</{element}>")?;
            }
            None => writeln!(out, "/>")?,
        }
    }
    for rerun in reruns {
        again(out, word, rerun)?;
    }
    stream(out, "      ", "system-out", stdout.as_deref())?;
    stream(out, "      ", "system-err", stderr.as_deref())?;
    writeln!(out, "    </testcase>")?;
    Ok(())
}

fn again(out: &mut impl Write, word: &str, rerun: &Rerun) -> Result<(), WriteError> {
    // There is no element for a try that passed or was skipped, and no tool does that.
    let kind = if matches!(rerun.outcome, Outcome::Error(_)) {
        "Error"
    } else {
        "Failure"
    };
    write!(out, "      <{word}{kind}")?;
    time(out, rerun.duration)?;
    let reason = rerun.outcome.reason();
    if let Some(reason) = reason {
        reasons(out, reason)?;
    }
    write!(out, ">")?;
    if let Some(details) = reason.and_then(|reason| reason.details.as_deref()) {
        write!(out, "<stackTrace>")?;
        text(out, details)?;
        write!(out, "</stackTrace>")?;
    }
    for (element, content) in [("system-out", &rerun.stdout), ("system-err", &rerun.stderr)] {
        if let Some(content) = content {
            write!(out, "<{element}>")?;
            text(out, content)?;
            write!(out, "</{element}>")?;
        }
    }
    writeln!(out, "</{word}{kind}>")?;
    Ok(())
}

fn reasons(out: &mut impl Write, reason: &Reason) -> Result<(), WriteError> {
    for (name, value) in [("message", &reason.message), ("type", &reason.kind)] {
        if let Some(value) = value {
            attribute(out, name, value)?;
        }
    }
    Ok(())
}

fn counts(out: &mut impl Write, counts: Counts) -> Result<(), WriteError> {
    let Counts {
        failed,
        skipped,
        errors,
        ..
    } = counts;
    let tests = counts.total();
    write!(
        out,
        r#" tests="{tests}" failures="{failed}" errors="{errors}" skipped="{skipped}""#
    )?;
    Ok(())
}

fn time(out: &mut impl Write, duration: Option<Duration>) -> Result<(), WriteError> {
    if let Some(duration) = duration {
        let digits = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
        // Milliseconds at least, as readers expect.
        let short = digits.trim_end_matches('0');
        let least = digits.len() - 6;
        write!(out, r#" time="{}""#, &digits[..short.len().max(least)])?;
    }
    Ok(())
}

fn properties(out: &mut impl Write, indent: &str, properties: &[Property]) -> Result<(), WriteError> {
    if properties.is_empty() {
        return Ok(());
    }
    writeln!(out, "{indent}<properties>")?;
    for property in properties {
        write!(out, "{indent}  <property")?;
        attribute(out, "name", &property.name)?;
        attribute(out, "value", &property.value)?;
        writeln!(out, "/>")?;
    }
    writeln!(out, "{indent}</properties>")?;
    Ok(())
}

fn stream(
    out: &mut impl Write,
    indent: &str,
    element: &str,
    content: Option<&str>,
) -> Result<(), WriteError> {
    if let Some(content) = content {
        write!(out, "{indent}<{element}>")?;
        text(out, content)?;
        writeln!(out, "</{element}>")?;
    }
    Ok(())
}

fn attribute(out: &mut impl Write, name: &str, value: &str) -> Result<(), WriteError> {
    write!(out, " {name}=\"")?;
    escaped(out, value, true)?;
    write!(out, "\"")?;
    Ok(())
}

fn text(out: &mut impl Write, content: &str) -> Result<(), WriteError> {
    escaped(out, content, false)
}

/// `within` an attribute every white space but the plain one is written as a reference: readers make spaces of it otherwise.
fn escaped(out: &mut impl Write, content: &str, within: bool) -> Result<(), WriteError> {
    let content = without_commands(content);
    let mut kept = String::with_capacity(content.len());
    for character in content.chars() {
        match character {
            '&' => kept.push_str("&amp;"),
            '<' => kept.push_str("&lt;"),
            '>' => kept.push_str("&gt;"),
            '"' if within => kept.push_str("&quot;"),
            '\n' if within => kept.push_str("&#10;"),
            '\t' if within => kept.push_str("&#9;"),
            '\r' => kept.push_str("&#13;"),
            '\n' | '\t' => kept.push(character),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
            _ => kept.push(character),
        }
    }
    out.write_all(kept.as_bytes())?;
    Ok(())
}
