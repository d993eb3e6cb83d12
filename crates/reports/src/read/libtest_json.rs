//! Events of libtest and of nextest, one JSON object a line.
//!
//! Other lines stand between them (what cargo says, what tests print past the capture) and are left out. The events of one
//! program follow one another; a test that began and has no end when the next program begins, crashed with its program.

use crate::error::Problem;
use crate::limits::{Full, Sink};
use crate::model::{Case, Outcome, Property, Reason, Report, Rerun, Suite};
use crate::text;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

/// Tries before the last one that are told of; nextest says only how many there were.
const MAX_RERUNS: usize = 100;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "event")]
    what: Option<String>,
    name: Option<String>,
    test_count: Option<usize>,
    exec_time: Option<f64>,
    stdout: Option<String>,
    message: Option<String>,
    reason: Option<String>,
    median: Option<f64>,
    deviation: Option<f64>,
    nextest: Option<Binary>,
}

#[derive(Deserialize)]
struct Binary {
    #[serde(rename = "crate")]
    package: String,
    test_binary: String,
}

struct Open {
    /// The suite of tests whose names say none.
    suite: Option<usize>,
    /// What nextest says here counts the tries of other suites, too, and is not looked at.
    planned: Option<usize>,
    ran: usize,
    line: usize,
}

struct State<'a, 'b> {
    report: &'a mut Report,
    sink: &'a mut Sink<'b>,
    named: HashMap<String, usize>,
    open: Option<Open>,
    started: HashMap<String, usize>,
}

pub(crate) fn read(bytes: &[u8], report: &mut Report, sink: &mut Sink<'_>) {
    let mut state = State {
        report,
        sink,
        named: HashMap::new(),
        open: None,
        started: HashMap::new(),
    };
    let mut any = false;
    let mut last = 1;
    for (line, content) in text::lines(bytes) {
        last = line;
        let content = content.trim_ascii();
        if !content.starts_with(b"{") {
            continue;
        }
        // libtest writes the output of a test escaped, but not always as UTF-8.
        match serde_json::from_str::<Event>(&String::from_utf8_lossy(content)) {
            Ok(event) => {
                any = true;
                if state.event(line, event).is_err() {
                    return;
                }
            }
            // A test may print objects of its own; only half an event is an error.
            Err(error) if error.is_eof() || memchr::memmem::find(content, b"\"type\"").is_some() => {
                state.sink.fail(
                    line,
                    error.column().max(1),
                    Problem::expected("an event of libtest", super::without_place(&error)),
                );
            }
            Err(_) => {}
        }
    }
    if state.close(true).is_ok() && !any && state.sink.error.is_none() {
        state
            .sink
            .fail(last, 1, Problem::expected("an event of libtest", "none"));
    }
}

impl State<'_, '_> {
    fn event(&mut self, line: usize, event: Event) -> Result<(), Full> {
        let Some(what) = event.what.as_deref() else {
            return Ok(());
        };
        match (event.kind.as_str(), what) {
            ("suite", "started") => {
                self.close(false)?;
                let suite = match &event.nextest {
                    Some(binary) => {
                        let name = format!("{}::{}", binary.package, binary.test_binary);
                        Some(self.named_suite(line, &name)?)
                    }
                    None => None,
                };
                let planned = event.test_count.filter(|_| suite.is_none());
                self.open = Some(Open {
                    suite,
                    planned,
                    ran: 0,
                    line,
                });
                Ok(())
            }
            ("suite", _) => {
                let suite = self.suite(line, None)?;
                if let Some(time) = event
                    .exec_time
                    .and_then(|time| Duration::try_from_secs_f64(time).ok())
                {
                    let all = &mut self.report.suites[suite].duration;
                    *all = Some(all.unwrap_or_default().saturating_add(time));
                }
                self.close(false)
            }
            ("test", "started") => {
                if let Some(name) = event.name {
                    // Bounded like cases: every one of these becomes one, or is one.
                    if self.started.len() >= self.sink.limits.cases {
                        return self.sink.one_case(line);
                    }
                    self.started.insert(name, line);
                }
                Ok(())
            }
            ("test", "timeout") => {
                let name = event.name.unwrap_or_default();
                self.sink.warn(
                    line,
                    format!("{} has been running for long", text::clip(&name, 200)),
                );
                Ok(())
            }
            ("test" | "bench", _) => self.result(line, event),
            _ => Ok(()),
        }
    }

    fn result(&mut self, line: usize, mut event: Event) -> Result<(), Full> {
        let name = event.name.take().unwrap_or_default();
        if self.started.remove(&name).is_none()
            && let Some((first, _)) = retried(&name)
        {
            self.started.remove(first);
        }
        let what = event.what.take().unwrap_or_default();
        let message = event
            .message
            .take()
            .map(|message| self.sink.field(line, &message));
        let stdout = event
            .stdout
            .take()
            .map(|stdout| self.sink.field(line, &stdout))
            .and_then(text::some);
        let reason = Reason {
            message: message
                .clone()
                .or_else(|| stdout.as_deref().and_then(super::libtest_text::message)),
            ..Reason::default()
        };
        let mut properties = Vec::new();
        for (name, value) in [("median", event.median), ("deviation", event.deviation)] {
            if let Some(value) = value {
                properties.push(Property {
                    name: name.to_owned(),
                    value: value.to_string(),
                });
            }
        }
        let outcome = match (event.kind.as_str(), what.as_str()) {
            ("bench", _) | (_, "ok") => Outcome::Passed,
            (_, "ignored") => Outcome::Skipped(Reason {
                message,
                ..Reason::default()
            }),
            (_, "allowed_failure") => Outcome::Skipped(Reason {
                kind: Some("allowed_failure".into()),
                ..reason
            }),
            (_, "failed") => Outcome::Failed(Reason {
                kind: event.reason.take(),
                ..reason
            }),
            (_, other) => {
                let other = text::clip(other, 100);
                Outcome::Error(Reason::of(format!(
                    "libtest says `{other}`, which is none of its results"
                )))
            }
        };
        let duration = event
            .exec_time
            .and_then(|time| Duration::try_from_secs_f64(time).ok());
        self.push(
            line,
            &name,
            Case {
                outcome,
                duration,
                stdout,
                properties,
                ..Case::default()
            },
        )
    }

    fn push(&mut self, line: usize, name: &str, mut case: Case) -> Result<(), Full> {
        self.sink.one_case(line)?;
        let (program, test) = match name.split_once('$') {
            Some((program, test)) if program.contains("::") => (Some(program), test),
            _ => (None, name),
        };
        let mut test = test;
        if program.is_some()
            && let Some((first, tries)) = retried(test)
        {
            test = first;
            let failed = || Rerun {
                outcome: Outcome::Failed(Reason::default()),
                ..Rerun::default()
            };
            case.reruns = std::iter::repeat_with(failed)
                .take((tries - 1).min(MAX_RERUNS))
                .collect();
        }
        let suite = self.suite(line, program)?;
        case.name = self.sink.name(line, test);
        self.report.suites[suite].cases.push(case);
        if let Some(open) = &mut self.open {
            open.ran += 1;
        }
        Ok(())
    }

    fn suite(&mut self, line: usize, program: Option<&str>) -> Result<usize, Full> {
        if let Some(program) = program {
            return self.named_suite(line, program);
        }
        if let Some(index) = self.open.as_ref().and_then(|open| open.suite) {
            return Ok(index);
        }
        self.sink.one_suite(line)?;
        self.report.suites.push(Suite::default());
        let index = self.report.suites.len() - 1;
        let open = self.open.get_or_insert(Open {
            suite: None,
            planned: None,
            ran: 0,
            line,
        });
        open.suite = Some(index);
        Ok(index)
    }

    fn named_suite(&mut self, line: usize, name: &str) -> Result<usize, Full> {
        let name = self.sink.name(line, name);
        if let Some(index) = self.named.get(&name) {
            return Ok(*index);
        }
        self.sink.one_suite(line)?;
        self.report.suites.push(Suite {
            name: name.clone(),
            ..Suite::default()
        });
        self.named.insert(name, self.report.suites.len() - 1);
        Ok(self.report.suites.len() - 1)
    }

    /// The end of a program. Nextest ends a suite while tests of it still wait to be tried again, and tells of these in a
    /// second suite of the same name: there only the end of the report says that a test was lost.
    fn close(&mut self, end: bool) -> Result<(), Full> {
        if let Some(Open {
            planned: Some(planned),
            ran,
            line,
            ..
        }) = self.open
        {
            if planned != ran {
                self.sink.fail(line, 1, Problem::Plan { planned, ran });
            }
        } else if !end {
            self.open = None;
            return Ok(());
        }
        let mut lost: Vec<_> = self.started.drain().collect();
        lost.sort_by_key(|(_, line)| *line);
        for (name, line) in lost {
            self.sink.fail(
                line,
                1,
                Problem::expected("the result of a test that began", "none"),
            );
            let outcome = Outcome::Error(Reason::of("the test began and has no result"));
            self.push(
                line,
                &name,
                Case {
                    outcome,
                    ..Case::default()
                },
            )?;
        }
        self.open = None;
        Ok(())
    }
}

/// The name and the number of the try, of `name#3`.
fn retried(name: &str) -> Option<(&str, usize)> {
    let (first, tries) = name.rsplit_once('#')?;
    let tries = tries.parse().ok().filter(|tries| *tries > 1)?;
    Some((first, tries))
}
