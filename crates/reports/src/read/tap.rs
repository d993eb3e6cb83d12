//! TAP and KTAP: lines, where indentation makes subtests.
//!
//! A subtest comes before the result that sums it up. Its tests are the cases; the result of the whole is one only where it
//! says more than they do: it fails and none of them did, or some of them are missing.

use super::tap_line::{Dialect, Directive, Line, Test, unescaped, without_prefix};
use super::yaml;
use crate::error::Problem;
use crate::limits::{Full, Sink};
use crate::model::{Case, Outcome, Property, Reason, Report, Suite};
use crate::record::Try;
use crate::text;
use std::time::Duration;

/// A suite with those within it.
#[derive(Default)]
struct Node {
    suite: Suite,
    within: Vec<Node>,
    /// Whether a case of it, or of one within it, failed.
    bad: bool,
}

/// Tests of one indentation.
#[derive(Default)]
struct Frame {
    indent: usize,
    line: usize,
    named: bool,
    node: Node,
    plan: Option<usize>,
    plan_line: usize,
    /// Why all of it was skipped.
    skip: Option<String>,
    ran: usize,
    bail: Option<String>,
    /// A subtest whose own result has not come yet.
    pending: Option<Box<Frame>>,
    /// Diagnostics in front of a result.
    comments: String,
}

impl Frame {
    fn missing(&self) -> Option<Problem> {
        match self.plan {
            Some(planned) if planned != self.ran => Some(Problem::Plan {
                planned,
                ran: self.ran,
            }),
            _ => None,
        }
    }
}

/// What a YAML block or a comment after a result is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    None,
    /// The last case of the innermost suite.
    Case,
    /// The last suite within it; whether its last case is its own result.
    Suite(bool),
}

struct Block {
    indent: usize,
    line: usize,
    text: String,
}

struct State<'a, 'b> {
    sink: &'a mut Sink<'b>,
    dialect: Dialect,
    version: u32,
    /// From the outermost on; never empty.
    frames: Vec<Frame>,
    last: Last,
    block: Option<Block>,
    /// A name from `# Subtest:` for the next one.
    announced: Option<String>,
    /// Where the kernel's test runner comments out the report of the program that it runs.
    commented: Option<usize>,
    strict: bool,
    versioned: bool,
}

pub(crate) fn read(bytes: &[u8], dialect: Dialect, report: &mut Report, sink: &mut Sink<'_>) {
    let mut state = State {
        sink,
        dialect,
        version: 12,
        frames: vec![Frame::default()],
        last: Last::None,
        block: None,
        announced: None,
        commented: None,
        strict: false,
        versioned: false,
    };
    let mut last = 1;
    for (line, content) in text::lines(bytes) {
        last = line;
        let content = if dialect == Dialect::Kernel {
            without_prefix(content)
        } else {
            content
        };
        match state.line(line, &String::from_utf8_lossy(content)) {
            Ok(true) => {}
            Ok(false) | Err(Full) => break,
        }
    }
    state.end_block();
    state.end_document(last, true);
    let root = state.frames.swap_remove(0).node;
    flatten(root, "", last, report, state.sink);
}

fn flatten(mut node: Node, parent: &str, line: usize, report: &mut Report, sink: &mut Sink<'_>) {
    let name = sink.path(line, parent, &node.suite.name);
    name.clone_into(&mut node.suite.name);
    if !node.suite.is_empty() && sink.one_suite(line).is_ok() {
        report.suites.push(node.suite);
    }
    // As deep as frames were.
    for within in node.within {
        flatten(within, &name, line, report, sink);
    }
}

impl State<'_, '_> {
    fn top(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// `false` once nothing more may be read.
    fn line(&mut self, line: usize, content: &str) -> Result<bool, Full> {
        let mut body = content.trim_start_matches(' ');
        let mut indent = content.len() - body.len();
        if self.dialect == Dialect::Kernel && !self.versioned {
            let version = matches!(Line::of(body, self.dialect, self.version), Line::Version(_));
            if !version || indent > 0 {
                return Ok(true);
            }
        }
        if self.in_block(line, indent, content) {
            return Ok(true);
        }
        if self.last != Last::None && body.trim_end() == "---" && indent > self.top().indent {
            self.block = Some(Block {
                indent,
                line,
                text: String::new(),
            });
            return Ok(true);
        }
        if self.dialect == Dialect::Kernel {
            if body.starts_with("# TAP version ") || body.starts_with("# KTAP version ") {
                self.commented = Some(indent);
            }
            if self.commented == Some(indent)
                && let Some(inner) = body.strip_prefix("# ")
            {
                body = inner.trim_start_matches(' ');
                indent += 2 + inner.len() - body.len();
            }
        }
        match Line::of(body, self.dialect, self.version) {
            Line::Version(version) => {
                self.versioned = true;
                if indent == 0 {
                    let root = &self.frames[0];
                    if root.ran > 0 || root.plan.is_some() || self.frames.len() > 1 {
                        self.end_document(line, false);
                    }
                    self.version = version;
                }
                self.at(indent, line);
            }
            Line::Plan { count, skip } => {
                if self.at(indent, line) {
                    let last = self.frames.len() - 1;
                    let frame = &mut self.frames[last];
                    if frame.plan.is_some() {
                        self.sink
                            .warn(line, "a second plan for the same tests is left out");
                    } else {
                        frame.plan = Some(count);
                        frame.plan_line = line;
                        frame.skip = skip.map(str::to_owned).filter(|_| count == 0);
                    }
                }
                self.last = Last::None;
            }
            Line::Test(test) => {
                if self.commented.is_some_and(|commented| indent <= commented) {
                    self.commented = None;
                }
                if self.at(indent, line) {
                    self.test(line, &test)?;
                }
            }
            Line::BailOut(reason) => return Ok(self.bail_out(line, indent, reason)),
            Line::Comment(comment) => self.comment(line, indent, comment),
            Line::Pragma(pragma) => match pragma {
                "+strict" => self.strict = true,
                "-strict" => self.strict = false,
                _ => {}
            },
            Line::Other => {
                if self.strict && !body.trim().is_empty() {
                    self.sink
                        .warn(line, "the report is strict, and this is no line of TAP");
                }
            }
        }
        Ok(true)
    }

    /// Makes the tests of this indentation the innermost ones. `false` if the line is oddly indented or too deep.
    fn at(&mut self, indent: usize, line: usize) -> bool {
        self.last = Last::None;
        let mut closed: Option<Box<Frame>> = None;
        while self.frames.len() > 1 && self.top().indent > indent {
            let Some(mut frame) = self.frames.pop() else { break };
            if let Some(inner) = closed.take() {
                without_result(self.sink, &mut frame);
                frame.pending = Some(inner);
            }
            closed = Some(Box::new(frame));
        }
        let step = if self.dialect == Dialect::Kernel { 2 } else { 4 };
        let depth = self.frames.len();
        let last = depth - 1;
        let top = &mut self.frames[last];
        let opens = indent >= top.indent + step && depth <= self.sink.limits.depth;
        if opens {
            if closed.is_none() {
                without_result(self.sink, top);
            }
            let name = self.announced.take();
            let mut frame = Frame {
                indent,
                line,
                pending: closed,
                named: name.is_some(),
                ..Frame::default()
            };
            frame.node.suite.name = name.unwrap_or_default();
            self.frames.push(frame);
            return true;
        }
        if closed.is_some() {
            without_result(self.sink, top);
            top.pending = closed;
        }
        if indent > top.indent {
            self.sink.warn(
                line,
                "the line is left out: its indentation is none of a subtest, or too deep",
            );
        }
        indent == top.indent
    }

    fn test(&mut self, line: usize, test: &Test<'_>) -> Result<(), Full> {
        self.sink.one_case(line)?;
        let (dialect, version) = (self.dialect, self.version);
        let plain = |text: &str| unescaped(text, dialect, version);
        self.announced = None;
        let last = self.frames.len() - 1;
        let frame = &mut self.frames[last];
        frame.ran += 1;
        if let Some(number) = test.number
            && number != frame.ran
        {
            self.sink.warn(
                line,
                format!("the test has number {number}, and is the {}. one", frame.ran),
            );
        }
        let comments = text::some(std::mem::take(&mut frame.comments).trim_end().to_owned());
        let why = test.directive.map(|(_, why)| plain(why)).and_then(text::some);
        let mut name = self.sink.name(line, &plain(test.name));
        if name.is_empty() && dialect == Dialect::Kernel {
            // Old tests of the kernel write the name after the directive.
            name = self.sink.name(line, why.as_deref().unwrap_or_default());
        }
        let mut outcome = outcome(test, why.clone(), comments);
        let pending = frame.pending.take();
        if let Some(child) = pending {
            let missing = child.missing().map(|problem| problem.to_string());
            let missing = missing.or_else(|| child.bail.as_ref().map(|reason| format!("Bail out! {reason}")));
            if outcome == Outcome::Passed
                && let Some(missing) = &missing
            {
                outcome = Outcome::Error(Reason::of(missing));
            }
            if let Some(reason) = outcome.reason_mut().filter(|reason| reason.message.is_none()) {
                reason.message.clone_from(&missing);
            }
            if child.ran > 0 || child.pending.is_some() {
                self.sum_up(line, *child, name, outcome, missing.is_some());
                return Ok(());
            }
            if outcome == Outcome::Passed
                && let Some(skip) = &child.skip
            {
                let message = text::some(plain(skip));
                outcome = Outcome::Skipped(Reason {
                    message,
                    ..Reason::default()
                });
            }
            if name.is_empty() {
                name = child.node.suite.name;
            }
        }
        let frame = &mut self.frames[last];
        if name.is_empty() {
            name = format!("test {}", test.number.unwrap_or(frame.ran));
        }
        let mut case = Case {
            name,
            outcome,
            duration: test.duration,
            ..Case::default()
        };
        if test.ok && matches!(test.directive, Some((Directive::Todo, _))) {
            case.properties.push(Property {
                name: "todo".into(),
                value: why.unwrap_or_default(),
            });
        }
        frame.node.bad |= case.outcome.is_bad();
        frame.node.suite.cases.push(case);
        self.last = Last::Case;
        Ok(())
    }

    /// The result of a subtest that has tests.
    fn sum_up(&mut self, line: usize, mut child: Frame, name: String, outcome: Outcome, incomplete: bool) {
        without_result(self.sink, &mut child);
        if !name.is_empty() {
            child.node.suite.name = name;
        }
        if let Outcome::Skipped(reason) = &outcome
            && reason.kind.is_some()
        {
            forgive(&mut child.node, reason);
        }
        let own = outcome.is_bad() && (!child.node.bad || incomplete);
        if own {
            let name = self.sink.name(line, &child.node.suite.name);
            child.node.bad = true;
            child.node.suite.cases.push(Case {
                name,
                outcome,
                ..Case::default()
            });
        }
        adopt(self.top(), child);
        self.last = Last::Suite(own);
    }

    fn comment(&mut self, line: usize, indent: usize, comment: &str) {
        if let Some(name) = comment.strip_prefix("Subtest") {
            if let Some(name) = name.strip_prefix(':') {
                let name = unescaped(name.trim(), self.dialect, self.version);
                let name = self.sink.name(line, &name);
                let within = self.frames.len() > 1;
                let top = self.top();
                let fresh = within && !top.named && top.indent == indent && top.ran == 0;
                if fresh && top.pending.is_none() {
                    top.node.suite.name = name;
                    top.named = true;
                } else {
                    self.announced = Some(name);
                }
            }
            return;
        }
        if self.dialect == Dialect::Kernel {
            if let Some(frame) = self.frames.iter_mut().rev().find(|frame| frame.indent <= indent) {
                self.sink.append(line, &mut frame.comments, comment);
                self.sink.append(line, &mut frame.comments, "\n");
            }
            return;
        }
        let last = self.frames.len() - 1;
        let node = &mut self.frames[last].node;
        let case = match self.last {
            Last::Case => node.suite.cases.last_mut(),
            Last::Suite(true) => node
                .within
                .last_mut()
                .and_then(|node| node.suite.cases.last_mut()),
            _ => None,
        };
        if let Some(reason) = case.and_then(|case| case.outcome.reason_mut()) {
            let details = reason.details.get_or_insert_default();
            if !details.is_empty() {
                self.sink.append(line, details, "\n");
            }
            self.sink.append(line, details, comment);
            if details.is_empty() {
                reason.details = None;
            }
        }
    }

    fn bail_out(&mut self, line: usize, indent: usize, reason: &str) -> bool {
        let kernel = self.dialect == Dialect::Kernel;
        if kernel && indent > 0 && self.frames.len() > 1 {
            // One of many programs gave up; its runner goes on and says a result about it.
            self.top().bail = Some(text::clip(reason, 4096).to_owned());
            return true;
        }
        let reason = text::clip(reason, 4096).to_owned();
        self.sink.fail(line, indent + 1, Problem::BailOut { reason });
        kernel
    }

    /// Whether the line is in a YAML block.
    fn in_block(&mut self, line: usize, indent: usize, content: &str) -> bool {
        let Some(block) = &mut self.block else {
            return false;
        };
        let body = content.trim();
        if indent == block.indent && body == "..." {
            self.end_block();
            return true;
        }
        if indent < block.indent && !body.is_empty() {
            self.sink.warn(line, "a YAML block has no end (`...`)");
            self.end_block();
            return false;
        }
        // It has several fields, each of which is limited below.
        if block.text.len() < self.sink.limits.field.saturating_mul(4) {
            block.text.push_str(content.get(block.indent..).unwrap_or(""));
            block.text.push('\n');
        }
        true
    }

    fn end_block(&mut self) {
        let Some(block) = self.block.take() else { return };
        let last = self.frames.len() - 1;
        let node = &mut self.frames[last].node;
        match self.last {
            Last::None => {}
            Last::Case => {
                if let Some(case) = node.suite.cases.last_mut() {
                    case_block(self.sink, &block, case);
                }
            }
            Last::Suite(own) => {
                let Some(within) = node.within.last_mut() else {
                    return;
                };
                suite_block(self.sink, &block, &mut within.suite);
                if let Some(case) = within.suite.cases.last_mut().filter(|_| own) {
                    case_block(self.sink, &block, case);
                }
            }
        }
    }

    fn end_document(&mut self, line: usize, end: bool) {
        self.at(0, line);
        let kernel = self.dialect == Dialect::Kernel;
        let root = &mut self.frames[0];
        without_result(self.sink, root);
        if let Some(problem) = root.missing() {
            self.sink.fail(root.plan_line, 1, problem);
        } else if root.plan.is_none() && (root.ran == 0 || !kernel) {
            let what = if kernel && !self.versioned {
                "`KTAP version 1`"
            } else {
                "a plan (`1..N`)"
            };
            self.sink
                .fail(line, 1, Problem::expected(what, "the end of the report"));
        }
        if let Some(reason) = &root.skip {
            self.sink.warn(
                root.plan_line,
                format!("all tests were skipped: {}", text::clip(reason, 1024)),
            );
        }
        if !end {
            let node = std::mem::take(&mut root.node);
            *root = Frame {
                node,
                ..Frame::default()
            };
        }
    }
}

/// A subtest whose result never came: its tests are kept.
fn without_result(sink: &mut Sink<'_>, frame: &mut Frame) {
    if let Some(mut child) = frame.pending.take() {
        without_result(sink, &mut child);
        let found = "none".to_owned();
        sink.fail(
            child.line,
            1,
            Problem::expected("the result of the subtest that begins here", found),
        );
        adopt(frame, *child);
    }
}

fn adopt(parent: &mut Frame, child: Frame) {
    parent.node.bad |= child.node.bad;
    parent.node.within.push(child.node);
}

/// What fails in a subtest that is expected to fail is expected, too.
fn forgive(node: &mut Node, why: &Reason) {
    node.bad = false;
    for case in &mut node.suite.cases {
        if case.outcome.is_bad() {
            let reason = case.outcome.reason_mut().map(std::mem::take).unwrap_or_default();
            let message = reason.message.or_else(|| why.message.clone());
            case.outcome = Outcome::Skipped(Reason {
                message,
                kind: why.kind.clone(),
                details: reason.details,
            });
        }
    }
    for within in &mut node.within {
        forgive(within, why);
    }
}

fn outcome(test: &Test<'_>, why: Option<String>, details: Option<String>) -> Outcome {
    let kind = |kind: &str| Some(kind.to_owned());
    match test.directive {
        Some((Directive::Skip, _)) => Outcome::Skipped(Reason {
            message: why,
            kind: None,
            details,
        }),
        Some((Directive::Todo, _)) | None if test.ok => Outcome::Passed,
        Some((Directive::Todo, _)) => Outcome::Skipped(Reason {
            message: why,
            kind: kind("todo"),
            details,
        }),
        Some((Directive::Xfail, _)) => Outcome::Skipped(Reason {
            message: why,
            kind: kind("xfail"),
            details,
        }),
        Some((Directive::Timeout, _)) => Outcome::Failed(Reason {
            message: why,
            kind: kind("timeout"),
            details,
        }),
        Some((Directive::Error, _)) => Outcome::Error(Reason {
            message: why,
            kind: None,
            details,
        }),
        None => Outcome::Failed(Reason {
            message: test.diagnostic.map(str::to_owned),
            kind: None,
            details,
        }),
    }
}

fn millis(value: &str) -> Option<Duration> {
    let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let nanos = format!("{:0<6}", text::clip(part, 6));
    let whole = Duration::from_millis(whole.parse().ok()?);
    whole.checked_add(Duration::from_nanos(nanos.parse().ok()?))
}

fn properties(sink: &mut Sink<'_>, line: usize, value: &str) -> Vec<Property> {
    let pairs: Vec<(String, String)> = serde_json::from_str(value).unwrap_or_default();
    pairs
        .into_iter()
        .map(|(name, value)| Property {
            name: sink.name(line, &name),
            value: sink.field(line, &value),
        })
        .collect()
}

/// Keys of TAP 14's examples, of node and of our own writer; others are kept as text where a test failed.
fn case_block(sink: &mut Sink<'_>, block: &Block, case: &mut Case) {
    let line = block.line;
    let mut reason = case.outcome.reason().cloned().unwrap_or_default();
    let (mut detailed, mut foreign, mut error) = (false, false, None);
    for entry in yaml::entries(&block.text) {
        let Some(value) = entry.value else {
            foreign = true;
            continue;
        };
        match entry.key {
            "case" => case.name = sink.name(line, &value),
            "classname" => case.class = Some(sink.name(line, &value)),
            "message" => reason.message = Some(sink.field(line, &value)),
            "error" => error = Some(sink.field(line, &value)),
            "type" | "failureType" => reason.kind = Some(sink.field(line, &value)),
            "details" | "stack" => {
                reason.details = Some(sink.field(line, &value));
                detailed = true;
            }
            "outcome" if value == "error" => case.outcome = Outcome::Error(Reason::default()),
            "duration_ms" => case.duration = millis(&value).or(case.duration),
            "stdout" => case.stdout = Some(sink.field(line, &value)),
            "stderr" => case.stderr = Some(sink.field(line, &value)),
            "properties" => case.properties = properties(sink, line, &value),
            "reruns" => {
                let tries: Vec<Try<'_>> = serde_json::from_str(&value).unwrap_or_default();
                case.reruns = tries
                    .into_iter()
                    .map(|one| one.into_rerun(|text| sink.field(line, text)))
                    .collect();
            }
            _ => foreign = true,
        }
    }
    reason.message = reason.message.or(error);
    if foreign && !detailed {
        reason.details = Some(sink.field(line, block.text.trim_end()));
    }
    if let Some(kept) = case.outcome.reason_mut() {
        *kept = reason;
    }
}

fn suite_block(sink: &mut Sink<'_>, block: &Block, suite: &mut Suite) {
    let line = block.line;
    for entry in yaml::entries(&block.text) {
        let Some(value) = entry.value else { continue };
        match entry.key {
            "suite" => suite.name = sink.name(line, &value),
            "duration_ms" => suite.duration = millis(&value),
            "stdout" => suite.stdout = Some(sink.field(line, &value)),
            "stderr" => suite.stderr = Some(sink.field(line, &value)),
            "properties" => suite.properties = properties(sink, line, &value),
            _ => {}
        }
    }
}
