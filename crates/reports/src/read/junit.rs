//! JUnit XML.
//!
//! There is no one schema, so only the names of elements count, wherever they stand: suites may be in suites, a suite may
//! be the root, and what is unknown is looked through. A document type is skipped, and entities that it may define are left
//! as they are, so nothing expands.

use crate::error::Problem;
use crate::limits::{Full, Sink};
use crate::model::{Case, Outcome, Property, Reason, Report, Rerun, Suite};
use crate::text;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use std::borrow::Cow;

/// Attributes of one element that are looked at.
const MAX_ATTRIBUTES: usize = 64;

/// An element that has begun.
enum Node {
    /// The place of a suite in the report.
    Suite(usize),
    Case(Box<Case>),
    /// `failure`, `error` or `skipped`.
    Result(Word, Reason, String),
    Rerun(Word, Box<Rerun>, Reason, String),
    /// Text of `system-out`, `system-err`, `stackTrace`.
    Text(Stream, String),
    Property(Property),
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Failure,
    Error,
    Skipped,
}

impl Word {
    fn with(self, reason: Reason) -> Outcome {
        match self {
            Word::Failure => Outcome::Failed(reason),
            Word::Error => Outcome::Error(reason),
            Word::Skipped => Outcome::Skipped(reason),
        }
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
    Stack,
}

struct State<'a, 'b> {
    report: &'a mut Report,
    sink: &'a mut Sink<'b>,
    stack: Vec<Node>,
    /// The suite of cases that are in none.
    loose: Option<usize>,
    line: usize,
    rooted: bool,
}

pub(crate) fn read(bytes: &[u8], report: &mut Report, sink: &mut Sink<'_>) {
    let document = String::from_utf8_lossy(bytes);
    if let Cow::Owned(_) = document {
        sink.warn(1, "bytes that are no UTF-8 were replaced");
    }
    let mut reader = Reader::from_str(&document);
    // Many tools forget to escape these; there is only one thing that they can mean.
    reader.config_mut().allow_dangling_amp = true;
    let mut state = State {
        report,
        sink,
        stack: Vec::new(),
        loose: None,
        line: 1,
        rooted: false,
    };
    let mut counted = 0;
    loop {
        let event = reader.read_event();
        let position = reader.buffer_position() as usize;
        let result = match event {
            Ok(Event::Start(start)) => state.start(&start),
            Ok(Event::Empty(start)) => state.start(&start).and_then(|()| state.end()),
            Ok(Event::End(_)) => state.end(),
            Ok(Event::Text(text)) => {
                state.text(&text.xml10_content().unwrap_or_default());
                Ok(())
            }
            Ok(Event::CData(text)) => {
                state.text(&text.xml10_content().unwrap_or_default());
                Ok(())
            }
            Ok(Event::GeneralRef(reference)) => {
                state.reference(&reference);
                Ok(())
            }
            Ok(Event::Eof) => {
                let open = state.stack.len();
                if open > 0 || !state.rooted {
                    let (line, column) = place(&document, document.len());
                    let expected = if state.rooted {
                        format!("the ends of {open} elements")
                    } else {
                        "`<testsuites>` or `<testsuite>`".to_owned()
                    };
                    state.sink.fail(
                        line,
                        column,
                        Problem::expected(expected, "the end of the document"),
                    );
                }
                break;
            }
            Ok(_) => Ok(()),
            Err(error) => {
                let (line, column) = place(&document, reader.error_position() as usize);
                state.sink.fail(
                    line,
                    column,
                    Problem::expected("well-formed XML", error.to_string()),
                );
                break;
            }
        };
        if result.is_err() {
            return;
        }
        let seen = position.min(document.len());
        state.line += memchr::memchr_iter(b'\n', &document.as_bytes()[counted..seen]).count();
        counted = seen;
    }
    state.finish();
}

fn place(document: &str, offset: usize) -> (usize, usize) {
    let before = &document.as_bytes()[..offset.min(document.len())];
    let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    (memchr::memchr_iter(b'\n', before).count() + 1, column + 1)
}

/// The value of an attribute. New lines stay, other than XML says: many tools write them as they are.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains(['&', '\r']) {
        return Cow::Borrowed(raw);
    }
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '\r']) {
        value.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('\r') {
            value.push('\n');
            rest = after.strip_prefix('\n').unwrap_or(after);
            continue;
        }
        // The longest name of a character is a dozen bytes.
        let name = rest.as_bytes()[1..]
            .iter()
            .take(12)
            .position(|b| *b == b';')
            .map(|end| &rest[1..=end]);
        let known = name.and_then(|name| Some((name.len() + 2, character(&BytesRef::new(name))?)));
        let (length, character) = known.unwrap_or((1, '&'));
        value.push(character);
        rest = &rest[length..];
    }
    value.push_str(rest);
    Cow::Owned(value)
}

fn character(reference: &BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(character);
    }
    match reference.decode().ok()?.as_ref() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

impl State<'_, '_> {
    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), Full> {
        if self.stack.len() >= self.sink.limits.depth {
            let most = self.sink.limits.depth;
            self.sink.fail(
                self.line,
                1,
                Problem::Limit {
                    what: "elements within one another",
                    most,
                },
            );
            self.finish();
            return Err(Full);
        }
        let name = start.local_name();
        let attributes = self.attributes(start);
        let node = match name.as_ref() {
            b"testsuites" => {
                self.rooted = true;
                for (key, value) in attributes {
                    if key == "name" && !value.is_empty() && self.report.name.is_none() {
                        self.report.name = Some(self.sink.name(self.line, &value));
                    }
                }
                Node::Other
            }
            b"testsuite" => {
                self.rooted = true;
                self.suite(&attributes)?
            }
            b"testcase" => {
                self.sink.one_case(self.line)?;
                self.rooted = true;
                self.case(&attributes)
            }
            other => self.part(other, &attributes),
        };
        self.stack.push(node);
        Ok(())
    }

    /// Without the check for doubles, which takes quadratic time.
    fn attributes<'x>(&mut self, start: &'x BytesStart<'_>) -> Vec<(Cow<'x, str>, String)> {
        let mut all = Vec::new();
        for attribute in start.attributes().with_checks(false) {
            match attribute {
                Ok(attribute) if all.len() < MAX_ATTRIBUTES => {
                    let raw = String::from_utf8_lossy(&attribute.value);
                    let value = self.sink.field(self.line, &unescape(&raw));
                    all.push((String::from_utf8_lossy(attribute.key.0), value));
                }
                Ok(_) => {
                    self.sink.warn(
                        self.line,
                        "attributes of an element were left out: it has too many",
                    );
                    break;
                }
                Err(error) => {
                    self.sink
                        .warn(self.line, format!("attributes were left out: {error}"));
                    break;
                }
            }
        }
        all.into_iter()
            .map(|(key, value)| (Cow::Owned(key.into_owned()), value))
            .collect()
    }

    fn suite(&mut self, attributes: &[(Cow<'_, str>, String)]) -> Result<Node, Full> {
        self.sink.one_suite(self.line)?;
        let mut suite = Suite::default();
        let mut name = "";
        for (key, value) in attributes {
            match key.as_ref() {
                "name" => name = value,
                "time" => suite.duration = self.time(value),
                _ => {}
            }
        }
        let parent = self
            .innermost_suite()
            .map_or("", |index| self.report.suites[index].name.as_str());
        suite.name = self.sink.path(self.line, parent, name);
        self.report.suites.push(suite);
        Ok(Node::Suite(self.report.suites.len() - 1))
    }

    fn case(&mut self, attributes: &[(Cow<'_, str>, String)]) -> Node {
        let mut case = Case::default();
        let mut named = false;
        for (key, value) in attributes {
            match (key.as_ref(), value.as_str()) {
                ("name", _) => {
                    case.name = self.sink.name(self.line, value);
                    named = true;
                }
                ("classname", "") | ("status" | "result", "run" | "completed") => {}
                ("classname", _) => case.class = Some(self.sink.name(self.line, value)),
                ("time", _) => case.duration = self.time(value),
                // googletest says so of tests that are disabled, and has no `skipped` in them.
                ("status" | "result", "notrun" | "suppressed" | "disabled" | "skipped") => {
                    case.outcome = Outcome::Skipped(Reason {
                        kind: Some(value.clone()),
                        ..Reason::default()
                    });
                }
                _ => case.properties.push(Property {
                    name: key.to_string(),
                    value: value.clone(),
                }),
            }
        }
        if !named {
            self.sink.warn(self.line, "a case has no name");
        }
        Node::Case(Box::new(case))
    }

    fn part(&mut self, name: &[u8], attributes: &[(Cow<'_, str>, String)]) -> Node {
        let value = |key: &str| {
            attributes
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone())
        };
        let reason = || Reason {
            message: value("message"),
            kind: value("type"),
            details: None,
        };
        let rerun = |state: &mut Self, word| {
            let duration = value("time").and_then(|time| state.time(&time));
            Node::Rerun(
                word,
                Box::new(Rerun {
                    duration,
                    ..Rerun::default()
                }),
                reason(),
                String::new(),
            )
        };
        match name {
            b"failure" => Node::Result(Word::Failure, reason(), String::new()),
            b"error" => Node::Result(Word::Error, reason(), String::new()),
            b"skipped" => Node::Result(Word::Skipped, reason(), String::new()),
            b"flakyFailure" | b"rerunFailure" => rerun(self, Word::Failure),
            b"flakyError" | b"rerunError" => rerun(self, Word::Error),
            b"system-out" => Node::Text(Stream::Out, String::new()),
            b"system-err" => Node::Text(Stream::Err, String::new()),
            b"stackTrace" => Node::Text(Stream::Stack, String::new()),
            b"property" => Node::Property(Property {
                name: value("name").unwrap_or_default(),
                value: value("value").unwrap_or_default(),
            }),
            _ => Node::Other,
        }
    }

    fn time(&mut self, value: &str) -> Option<std::time::Duration> {
        let time = text::seconds(value);
        if time.is_none() && !value.trim().is_empty() {
            self.sink.warn(
                self.line,
                format!("`{}` is no number of seconds", text::clip(value, 64)),
            );
        }
        time
    }

    fn innermost_suite(&self) -> Option<usize> {
        self.stack.iter().rev().find_map(|node| {
            if let Node::Suite(index) = node {
                Some(*index)
            } else {
                None
            }
        })
    }

    fn text(&mut self, more: &str) {
        let (Node::Result(_, _, kept)
        | Node::Rerun(_, _, _, kept)
        | Node::Text(_, kept)
        | Node::Property(Property { value: kept, .. })) = (match self.stack.last_mut() {
            Some(node) => node,
            None => return,
        })
        else {
            return;
        };
        self.sink.append(self.line, kept, more);
    }

    fn reference(&mut self, reference: &BytesRef<'_>) {
        if let Some(character) = character(reference) {
            self.text(character.encode_utf8(&mut [0; 4]));
        } else {
            let name = reference.decode().unwrap_or_default();
            self.sink.warn(
                self.line,
                format!("the entity `{}` is left as it is", text::clip(&name, 64)),
            );
            self.text("&");
            self.text(&name);
            self.text(";");
        }
    }

    fn end(&mut self) -> Result<(), Full> {
        match self.stack.pop() {
            None | Some(Node::Suite(_) | Node::Other) => {}
            Some(Node::Case(case)) => return self.keep(*case),
            Some(Node::Result(word, mut reason, details)) => {
                reason.details = Some(details).filter(|details| !details.trim().is_empty());
                if let Some(Node::Case(case)) = self.stack.last_mut() {
                    merge(&mut case.outcome, word, reason);
                } else if word != Word::Skipped
                    && let Some(index) = self.innermost_suite()
                {
                    // The suite itself could not be prepared: this is a result, too.
                    self.sink.one_case(self.line)?;
                    let name = self.report.suites[index].name.clone();
                    let case = Case {
                        name,
                        outcome: word.with(reason),
                        ..Case::default()
                    };
                    return self.keep(case);
                }
            }
            Some(Node::Rerun(word, mut rerun, mut reason, details)) => {
                let stack = reason.details.take();
                // Between the parts stands white space of the layout.
                let own = if stack.is_some() || rerun.stdout.is_some() || rerun.stderr.is_some() {
                    details.trim_end()
                } else {
                    &details
                };
                reason.details = match (own.trim().is_empty(), stack) {
                    (true, stack) => stack,
                    (false, None) => Some(own.to_owned()),
                    (false, Some(stack)) => Some(format!("{own}\n{stack}")),
                };
                rerun.outcome = word.with(reason);
                if let Some(Node::Case(case)) = self.stack.last_mut() {
                    case.reruns.push(*rerun);
                }
            }
            Some(Node::Text(stream, kept)) => self.stream(stream, kept),
            Some(Node::Property(property)) => {
                for node in self.stack.iter_mut().rev() {
                    match node {
                        Node::Case(case) => case.properties.push(property),
                        Node::Suite(index) => self.report.suites[*index].properties.push(property),
                        _ => continue,
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn stream(&mut self, stream: Stream, kept: String) {
        if kept.is_empty() {
            return;
        }
        let (out, err) = match self.stack.last_mut() {
            Some(Node::Case(case)) => (&mut case.stdout, &mut case.stderr),
            Some(Node::Rerun(_, rerun, reason, _)) => {
                if let Stream::Stack = stream {
                    reason.details = Some(kept);
                    return;
                }
                (&mut rerun.stdout, &mut rerun.stderr)
            }
            Some(Node::Suite(index)) => {
                let suite = &mut self.report.suites[*index];
                (&mut suite.stdout, &mut suite.stderr)
            }
            _ => return,
        };
        match stream {
            Stream::Out => self.sink.append(self.line, out.get_or_insert_default(), &kept),
            Stream::Err => self.sink.append(self.line, err.get_or_insert_default(), &kept),
            Stream::Stack => {}
        }
    }

    fn keep(&mut self, case: Case) -> Result<(), Full> {
        let index = if let Some(index) = self.innermost_suite().or(self.loose) {
            index
        } else {
            self.sink.one_suite(self.line)?;
            self.report.suites.push(Suite::default());
            self.loose = Some(self.report.suites.len() - 1);
            self.report.suites.len() - 1
        };
        self.report.suites[index].cases.push(case);
        Ok(())
    }

    /// The document ended, also too early: what is open is kept, as what it is.
    fn finish(&mut self) {
        while let Some(node) = self.stack.last_mut() {
            if let Node::Case(case) = node
                && case.outcome == Outcome::Passed
            {
                case.outcome = Outcome::Error(Reason::of("the report breaks off within this case"));
            }
            if self.end().is_err() {
                return;
            }
        }
    }
}

/// A case can have several results: googletest writes each failed assertion, pytest one of the test and one of the clean-up.
fn merge(outcome: &mut Outcome, word: Word, reason: Reason) {
    if !outcome.is_bad() {
        if word != Word::Skipped || *outcome == Outcome::Passed {
            *outcome = word.with(reason);
        }
        return;
    }
    if word == Word::Skipped {
        return;
    }
    let Some(mut first) = outcome.reason_mut().map(std::mem::take) else {
        return;
    };
    let more = match (reason.message, reason.details) {
        (Some(message), Some(details)) if details != message => Some(format!("{message}\n{details}")),
        (message, details) => details.or(message),
    };
    first.details = match (first.details, more) {
        (Some(details), Some(more)) => Some(details + "\n" + &more),
        (details, more) => details.or(more),
    };
    let error = word == Word::Error || matches!(outcome, Outcome::Error(_));
    *outcome = if error {
        Outcome::Error(first)
    } else {
        Outcome::Failed(first)
    };
}
