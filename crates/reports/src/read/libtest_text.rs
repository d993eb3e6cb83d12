//! What libtest writes for people: a line per test, then what the failed ones printed.

use crate::error::Problem;
use crate::limits::{Full, Sink};
use crate::model::{Case, Outcome, Property, Reason, Report, Suite};
use crate::text;
use std::collections::HashMap;
use std::time::Duration;

/// Whether only libtest writes such a line.
pub(crate) fn is_mark(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| {
        planned(line).is_some() || test_line(line).is_some_and(|(_, rest)| result(rest).is_some())
    })
}

fn planned(line: &str) -> Option<usize> {
    let (count, unit) = line.strip_prefix("running ")?.split_once(' ')?;
    if unit == "test" || unit == "tests" {
        count.parse().ok()
    } else {
        None
    }
}

/// `test NAME ... REST`. A name may have ` ... ` in it, a result may not, yet what a test prints may.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ").or_else(|| {
        // Nothing after it: the test has not ended, or prints to the terminal.
        Some((line.strip_prefix("test ")?.strip_suffix(" ...")?, ""))
    })?;
    (!name.starts_with("result: ")).then_some((name, rest))
}

struct Ended {
    outcome: Outcome,
    duration: Option<Duration>,
    properties: Vec<Property>,
}

fn result(rest: &str) -> Option<Ended> {
    let rest = rest.trim_end();
    let (rest, duration) = match rest.strip_suffix("s>").and_then(|rest| rest.rsplit_once(" <")) {
        Some((rest, time)) => (rest, text::seconds(time)),
        None => (rest, None),
    };
    let ended = |outcome| {
        Some(Ended {
            outcome,
            duration,
            properties: Vec::new(),
        })
    };
    match rest {
        "ok" => return ended(Outcome::Passed),
        "FAILED" => return ended(Outcome::Failed(Reason::default())),
        "ignored" => return ended(Outcome::Skipped(Reason::default())),
        "FAILED (allowed)" => {
            let kind = Some("allowed_failure".to_owned());
            return ended(Outcome::Skipped(Reason {
                kind,
                ..Reason::default()
            }));
        }
        "FAILED (time limit exceeded)" => {
            let kind = Some("time limit exceeded".to_owned());
            return ended(Outcome::Failed(Reason {
                kind,
                ..Reason::default()
            }));
        }
        _ => {}
    }
    if let Some(why) = rest.strip_prefix("ignored, ") {
        return ended(Outcome::Skipped(Reason::of(why)));
    }
    let (median, deviation) = rest.strip_prefix("bench:")?.trim().split_once(" ns/iter (+/- ")?;
    let deviation = deviation.split(')').next()?;
    let property = |name: &str, value: &str| Property {
        name: name.into(),
        value: value.replace(',', ""),
    };
    Some(Ended {
        outcome: Outcome::Passed,
        duration,
        properties: vec![property("median", median), property("deviation", deviation)],
    })
}

/// What a person wants to read first of what a failed test printed.
pub(crate) fn message(output: &str) -> Option<String> {
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if let Some((_, place)) = line.split_once(" panicked at ") {
            // Before Rust 1.73 the message stood between quotes on this line.
            let said = if place.ends_with(':') {
                lines.next().unwrap_or(place)
            } else {
                place
            };
            return Some(text::clip(said, 4096).to_owned());
        }
        if line.starts_with("Error: ") || line.starts_with("note: test did not panic") {
            return Some(text::clip(line, 4096).to_owned());
        }
    }
    None
}

/// One program's tests.
#[derive(Default)]
struct Run {
    suite: usize,
    line: usize,
    planned: usize,
    ran: usize,
    /// Failed tests and whether their output was seen.
    failed: HashMap<String, (usize, bool)>,
    /// A test whose result has not come yet.
    pending: Option<(String, usize, String)>,
    /// Whether the part with the output of failed tests has begun.
    outputs: bool,
    /// The case whose output this is.
    output: Option<(usize, String)>,
    /// Whether the last line that was not empty names a failed test, as only the final list does.
    listed: bool,
}

struct State<'a, 'b> {
    report: &'a mut Report,
    sink: &'a mut Sink<'b>,
    run: Option<Run>,
    next: String,
    any: bool,
}

pub(crate) fn read(bytes: &[u8], report: &mut Report, sink: &mut Sink<'_>) {
    let mut state = State {
        report,
        sink,
        run: None,
        next: String::new(),
        any: false,
    };
    let mut last = 1;
    for (line, content) in text::lines(bytes) {
        last = line;
        if state.line(line, &String::from_utf8_lossy(content)).is_err() {
            return;
        }
    }
    if state.close(false).is_ok() && !state.any {
        state.sink.fail(
            last,
            1,
            Problem::expected("`running N tests`", "no line like this"),
        );
    }
}

impl State<'_, '_> {
    fn line(&mut self, line: usize, content: &str) -> Result<(), Full> {
        if self.run.as_ref().is_some_and(|run| run.outputs) {
            return self.output(line, content);
        }
        if let Some(count) = planned(content) {
            // A test that prints such a line (it runs cargo itself) is told apart by what is still missing here.
            if self.run.as_ref().is_none_or(|run| run.pending.is_none()) {
                self.close(false)?;
                let name = std::mem::take(&mut self.next);
                let suite = self.suite(line, &name)?;
                self.run = Some(Run {
                    suite,
                    line,
                    planned: count,
                    ..Run::default()
                });
                self.any = true;
                return Ok(());
            }
        }
        if self.run.is_none() {
            self.title(content);
            if test_line(content).is_none() {
                return Ok(());
            }
            let suite = self.suite(line, "")?;
            self.run = Some(Run {
                suite,
                line,
                ..Run::default()
            });
            self.any = true;
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        if let Some((_, _, printed)) = &mut run.pending {
            if let Some(ended) = result(content) {
                return self.ended(line, ended);
            }
            if test_line(content).is_none() && !content.starts_with("test result: ") {
                self.sink.append(line, printed, content);
                self.sink.append(line, printed, "\n");
                return Ok(());
            }
            self.unfinished(line)?;
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        if let Some((name, rest)) = test_line(content) {
            run.pending = Some((name.to_owned(), line, String::new()));
            if let Some(ended) = result(rest) {
                return self.ended(line, ended);
            }
            if let Some((_, _, printed)) = &mut run.pending
                && !rest.is_empty()
            {
                self.sink.append(line, printed, rest);
                self.sink.append(line, printed, "\n");
            }
            return Ok(());
        }
        if let Some(rest) = content.strip_prefix("test result: ") {
            let time = rest
                .rsplit_once("finished in ")
                .and_then(|(_, time)| text::seconds(time.strip_suffix('s')?));
            self.report.suites[run.suite].duration = time;
            return self.close(true);
        }
        run.outputs = content == "failures:" && !run.failed.is_empty() && run.ran >= run.planned;
        Ok(())
    }

    /// Which program cargo says it runs now.
    fn title(&mut self, content: &str) {
        let content = content.trim();
        if let Some(rest) = content.strip_prefix("Running ") {
            let rest = rest.strip_prefix("unittests ").unwrap_or(rest);
            rest.split_once(" (")
                .map_or(rest, |(path, _)| path)
                .clone_into(&mut self.next);
        } else if content.starts_with("Doc-tests ") {
            content.clone_into(&mut self.next);
        }
        self.next
            .truncate(text::clip(&self.next, self.sink.limits.name).len());
    }

    fn suite(&mut self, line: usize, name: &str) -> Result<usize, Full> {
        self.sink.one_suite(line)?;
        let name = self.sink.name(line, name);
        self.report.suites.push(Suite {
            name,
            ..Suite::default()
        });
        Ok(self.report.suites.len() - 1)
    }

    fn ended(&mut self, line: usize, ended: Ended) -> Result<(), Full> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let Some((name, _, printed)) = run.pending.take() else {
            return Ok(());
        };
        self.sink.one_case(line)?;
        // Says how it passes, and is no part of the name: the list of failures does not have it.
        let name = name.strip_suffix(" - should panic").unwrap_or(&name);
        let cases = &mut self.report.suites[run.suite].cases;
        if matches!(ended.outcome, Outcome::Failed(_)) {
            run.failed.insert(name.to_owned(), (cases.len(), false));
        }
        run.ran += 1;
        cases.push(Case {
            name: self.sink.name(line, name),
            outcome: ended.outcome,
            duration: ended.duration,
            properties: ended.properties,
            stdout: text::some(printed),
            ..Case::default()
        });
        Ok(())
    }

    /// A test began, and something else came.
    fn unfinished(&mut self, line: usize) -> Result<(), Full> {
        let Some(at) = self
            .run
            .as_ref()
            .and_then(|run| run.pending.as_ref())
            .map(|(_, at, _)| *at)
        else {
            return Ok(());
        };
        self.sink.fail(
            at,
            1,
            Problem::expected("the result of the test that began here", "none"),
        );
        let outcome = Outcome::Error(Reason::of("the test began and has no result"));
        self.ended(
            line,
            Ended {
                outcome,
                duration: None,
                properties: Vec::new(),
            },
        )?;
        if let Some(run) = &mut self.run {
            run.ran -= 1;
        }
        Ok(())
    }

    /// A line after `failures:`.
    fn output(&mut self, line: usize, content: &str) -> Result<(), Full> {
        let Some(run) = &mut self.run else { return Ok(()) };
        if let Some(name) = content.strip_prefix("---- ").and_then(|rest| {
            rest.strip_suffix(" stdout ----")
                .or_else(|| rest.strip_suffix(" stderr ----"))
        }) && let Some((case, seen)) = run.failed.get_mut(name)
            && !*seen
        {
            *seen = true;
            let case = *case;
            self.keep_output();
            if let Some(run) = &mut self.run {
                run.output = Some((case, String::new()));
            }
            return Ok(());
        }
        if run.listed && content.starts_with("test result: ") {
            self.keep_output();
            if let Some(run) = &mut self.run {
                run.outputs = false;
            }
            return self.line(line, content);
        }
        if !content.trim().is_empty() {
            run.listed = content
                .strip_prefix("    ")
                .is_some_and(|name| run.failed.contains_key(name));
        }
        if let Some((_, kept)) = &mut run.output {
            self.sink.append(line, kept, content);
            self.sink.append(line, kept, "\n");
        }
        Ok(())
    }

    fn keep_output(&mut self) {
        let Some(run) = &mut self.run else { return };
        let Some((case, kept)) = run.output.take() else {
            return;
        };
        // The last one has the list of failed tests after it.
        let list = kept.rfind("\nfailures:\n    ").filter(|_| run.listed);
        let kept = kept[..list.unwrap_or(kept.len())].trim_end();
        let case = &mut self.report.suites[run.suite].cases[case];
        if let Some(reason) = case.outcome.reason_mut() {
            reason.message = message(kept);
        }
        case.stdout = text::some(kept.to_owned());
    }

    fn close(&mut self, whole: bool) -> Result<(), Full> {
        let Some(run) = &self.run else { return Ok(()) };
        let at = run.line;
        self.unfinished(at)?;
        self.keep_output();
        let Some(run) = self.run.take() else { return Ok(()) };
        if run.ran != run.planned {
            self.sink.fail(
                at,
                1,
                Problem::Plan {
                    planned: run.planned,
                    ran: run.ran,
                },
            );
        } else if !whole {
            self.sink
                .fail(at, 1, Problem::expected("`test result:` of this run", "none"));
        }
        Ok(())
    }
}
