//! What is said of a plan's tests, as lines.

use super::story::{Counts, Said, Verdict, elapsed};
use crate::table::{Colour, one_line};
use ostler_contracts::{PlanView, TestView};
use ostler_domain::{Measure, RunStatus, Timestamp};
use std::fmt::Write as _;
use std::time::Duration;

/// Tests that the summary names as the slowest.
const SLOWEST: usize = 3;
/// Only what took at least this long is worth being named there.
const WORTH: Duration = Duration::from_secs(1);
/// Failed tests that the summary names.
const MAX_NAMED: usize = 200;

/// A measure, for people.
const fn measured(what: Measure) -> &'static str {
    match what {
        Measure::Duration => "time",
        Measure::Cpu => "processor time",
        Measure::PeakMemory => "memory",
    }
}

/// How the story looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) colour: Colour,
    /// Tests of the plan, for the width of the counter.
    pub(super) total: usize,
}

impl Style {
    pub(super) fn paint(self, code: u8, text: &str) -> String {
        match self.colour {
            Colour::On => format!("\x1b[1;{code}m{text}\x1b[0m"),
            Colour::Off => text.to_owned(),
        }
    }

    fn word(self, code: u8, word: &str) -> String {
        self.paint(code, &format!("{word:>12}"))
    }

    fn verdict(self, verdict: Verdict) -> String {
        let (code, word) = match verdict {
            Verdict::Passed => (32, "PASS"),
            Verdict::Flaky => (33, "FLAKY"),
            Verdict::Failed => (31, "FAIL"),
            Verdict::TimedOut => (31, "TIMEOUT"),
            Verdict::Tolerated => (33, "TOLERATED"),
            Verdict::Skipped => (33, "SKIP"),
            Verdict::Cancelled => (33, "CANCELLED"),
            Verdict::Lost => (35, "LOST"),
        };
        self.word(code, word)
    }

    /// The first line of all.
    pub(super) fn started(self, plan: &PlanView) -> String {
        let tests = many(self.total, "test");
        let word = self.word(32, "Plan");
        format!("{word} {}: {tests} ({})\n", one_line(&plan.name), plan.id)
    }

    /// One thing, without the output that may belong to it. What runs is not said but shown.
    pub(super) fn said(self, said: &Said) -> String {
        match said {
            Said::Started(_) => String::new(),
            Said::Ended { test, verdict, done } => self.ended(test, *verdict, *done),
            Said::Retried(test) => {
                let word = self.word(33, &format!("TRY {}", test.ordinal));
                let how = match test.status {
                    RunStatus::TimedOut => "timed out",
                    _ => "failed",
                };
                let why = because(test).map_or_else(String::new, |why| format!(", {why}"));
                let time = time(took(test));
                format!(
                    "{word} {time} {} {how}{why}; it is tried again\n",
                    self.place(None) + &name(test)
                )
            }
            Said::Slow { name, elapsed } => {
                let word = self.word(33, "SLOW");
                format!(
                    "{word} {} {}{}\n",
                    time_over(*elapsed),
                    self.place(None),
                    one_line(name)
                )
            }
        }
    }

    fn ended(self, test: &TestView, verdict: Verdict, done: usize) -> String {
        // What never began took no time.
        let length = match test.started_at {
            None => " ".repeat(time(Duration::ZERO).len()),
            Some(_) => time(took(test)),
        };
        let why = match because(test) {
            Some(why) if verdict != Verdict::Passed => format!(" ({why})"),
            _ => String::new(),
        };
        let mut text = format!(
            "{} {length} {}{}{why}\n",
            self.verdict(verdict),
            self.place(Some(done)),
            name(test)
        );
        for problem in &test.problems {
            let _ = writeln!(text, "{:>12} {}", "", one_line(problem));
        }
        if !test.regressions.is_empty() {
            let what: Vec<&str> = test.regressions.iter().map(|what| measured(*what)).collect();
            let _ = writeln!(
                text,
                "{:>12} it took clearly more {} than before",
                "",
                what.join(" and ")
            );
        }
        text
    }

    /// `(3/12) `, or as much room.
    fn place(self, done: Option<usize>) -> String {
        let total = self.total.to_string();
        match done {
            Some(done) => format!("({done:>width$}/{total}) ", width = total.len()),
            None => " ".repeat(2 * total.len() + 4),
        }
    }

    /// The last lines of all. `length` is the time that the plan took.
    pub(super) fn summary<'a>(
        self,
        counts: &Counts,
        length: Duration,
        tests: impl Iterator<Item = &'a TestView>,
    ) -> String {
        let code = match counts {
            Counts {
                failed: 0,
                timed_out: 0,
                lost: 0,
                cancelled: 0,
                ..
            } => 32,
            _ => 31,
        };
        let mut text = format!("{:->12}\n", "");
        let word = self.word(code, "Summary");
        let (all, parts) = (many(self.total, "test"), self.parts(counts).join(", "));
        let _ = writeln!(text, "{word} {} {all}: {parts}", time(length));
        let mut ended: Vec<(&TestView, Verdict)> = tests
            .filter_map(|test| Some((test, Verdict::of(test)?)))
            .collect();
        ended.sort_by_key(|(test, _)| test.index);
        let bad: Vec<_> = ended
            .iter()
            .filter(|(_, verdict)| verdict.is_bad() || *verdict == Verdict::Flaky)
            .collect();
        for (test, verdict) in bad.iter().take(MAX_NAMED) {
            let why = because(test).filter(|_| verdict.is_bad());
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            let _ = writeln!(
                text,
                "{} {} {}{why}",
                self.verdict(*verdict),
                time(took(test)),
                name(test)
            );
        }
        if bad.len() > MAX_NAMED {
            let _ = writeln!(text, "{:>12} and {} more", "", bad.len() - MAX_NAMED);
        }
        let mut slowest: Vec<(Duration, &TestView)> = ended
            .iter()
            .map(|(test, _)| (took(test), *test))
            .filter(|(took, _)| *took >= WORTH)
            .collect();
        slowest.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.index.cmp(&b.1.index)));
        // With a test or two, the lines above say it already.
        if self.total > SLOWEST {
            for (took, test) in slowest.into_iter().take(SLOWEST) {
                let _ = writeln!(text, "{} {} {}", self.word(36, "Slowest"), time(took), name(test));
            }
        }
        text
    }

    /// How many ended how; those that did not pass only if there are any.
    fn parts(self, counts: &Counts) -> Vec<String> {
        let number = |code: u8, count: usize| self.paint(code, &count.to_string());
        let flaky = match counts.flaky {
            0 => String::new(),
            n => format!(" ({} flaky)", number(33, n)),
        };
        let mut parts = vec![format!("{} passed{flaky}", number(32, counts.passed))];
        let others = [
            (counts.failed, "failed", 31),
            (counts.timed_out, "timed out", 31),
            (counts.lost, "lost", 35),
            (counts.tolerated, "failed but tolerated", 33),
            (counts.skipped, "skipped", 33),
            (counts.cancelled, "cancelled", 33),
        ];
        let others = others.into_iter().filter(|(count, ..)| *count > 0);
        parts.extend(others.map(|(count, what, code)| format!("{} {what}", number(code, count))));
        parts
    }

    /// The live part of the display: a bar and what is running, one line each.
    pub(super) fn frame(
        self,
        counts: &Counts,
        running: &[(&str, Duration)],
        took: Duration,
        most: usize,
        note: Option<&str>,
    ) -> Vec<String> {
        const WIDTH: usize = 24;
        let total = self.total.max(1);
        let full = (counts.ended() * WIDTH / total).min(WIDTH);
        let bar = format!("[{}{}]", "=".repeat(full), " ".repeat(WIDTH - full));
        let code = if counts.failed + counts.timed_out + counts.lost > 0 {
            31
        } else {
            32
        };
        let mut states = self.parts(counts);
        for (count, what) in [(counts.running, "running"), (counts.waiting, "waiting")] {
            if count > 0 {
                states.push(format!("{count} {what}"));
            }
        }
        let seconds = took.as_secs();
        let mut lines = vec![format!(
            "{} {}/{} [{:02}:{:02}] {}",
            self.paint(code, &bar),
            counts.ended(),
            self.total,
            seconds / 60,
            seconds % 60,
            states.join(", ")
        )];
        let shown = if running.len() > most {
            most.saturating_sub(1)
        } else {
            running.len()
        };
        for (name, elapsed) in &running[..shown] {
            lines.push(format!(
                "{} {} {}",
                self.word(36, "running"),
                time_short(*elapsed),
                one_line(name)
            ));
        }
        if running.len() > shown {
            lines.push(format!("{:>12} and {} more", "", running.len() - shown));
        }
        if let Some(note) = note {
            lines.push(format!("{} {}", self.word(33, "waits"), one_line(note)));
        }
        lines
    }
}

/// How long a test took that has ended.
fn took(test: &TestView) -> Duration {
    elapsed(test, test.created_at.0)
}

fn name(test: &TestView) -> String {
    one_line(&test.name)
}

/// Why it ended as it did, in a few words.
pub(super) fn because(test: &TestView) -> Option<String> {
    let mut parts = Vec::new();
    match (test.exit_code, test.signal) {
        (_, Some(signal)) => parts.push(format!("signal {signal}")),
        (Some(code), None) if code != 0 => parts.push(format!("exit {code}")),
        _ => {}
    }
    if let Some(end) = test.kernel_end.filter(|_| test.status != RunStatus::Succeeded) {
        parts.push(format!("kernel: {end}"));
    }
    if let Some(cases) = test.cases {
        let counts = [
            (cases.failed, "failed"),
            (cases.errors, "with errors"),
            (cases.passed, "passed"),
            (cases.skipped, "skipped"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect();
        if !counts.is_empty() {
            parts.push(format!("cases: {}", counts.join(", ")));
        }
    }
    if let Some(error) = &test.error {
        // What the code or the signal says already is not said again.
        let error = one_line(error);
        let rest = match (test.exit_code, test.signal) {
            (_, Some(signal)) => error.strip_prefix(&format!("the program was ended by signal {signal}")),
            (Some(code), None) => error.strip_prefix(&format!("the program exited with code {code}")),
            _ => None,
        };
        let rest = rest.map_or(error.as_str(), |rest| rest.trim_start_matches([';', ' ']));
        parts.extend(Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty()));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `1 test`, `2 tests`.
pub(super) fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `[   1.234s]`.
fn time(length: Duration) -> String {
    format!("[{:>8.3}s]", length.as_secs_f64())
}

/// `[> 61.000s]`.
fn time_over(length: Duration) -> String {
    format!("[>{:>7.0}s]", length.as_secs_f64().floor())
}

/// `[   1s]`.
fn time_short(length: Duration) -> String {
    format!("[{:>4}s]", length.as_secs())
}

/// The time between two points, or up to now.
pub(super) fn plan_took(plan: &PlanView, now: Timestamp) -> Duration {
    plan.finished_at.map_or(now, |at| at.0).since(plan.created_at.0)
}
