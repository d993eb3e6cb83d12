//! From bytes to events and a report.

use crate::lines::{Line, Lines, MAX_LINE};
use crate::{AgentEvent, AgentExit, AgentReport};

/// Reads what one run of an agent program prints on standard output.
///
/// It accepts any bytes, cut anywhere; the outcome does not depend on the cuts. Memory stays below a small multiple of
/// [`MAX_LINE`] plus the events of one chunk.
pub trait OutputParser: Send {
    /// Adds a chunk; the events that became complete with it.
    fn push(&mut self, chunk: &[u8]) -> Vec<AgentEvent>;

    /// Whether the agent said its last word. The program should exit by itself now; give it a grace period, then kill
    /// it and report [`AgentExit::Lingered`].
    fn ended(&self) -> bool;

    /// The end of the output: the events of an unfinished last line, and the report.
    fn finish(self: Box<Self>, exit: AgentExit) -> (Vec<AgentEvent>, AgentReport);
}

/// The part of a parser that differs between kinds: what a line means.
pub(crate) trait LineReader: Send {
    /// One line. Never longer than [`MAX_LINE`].
    fn line(&mut self, line: &str, events: &mut Vec<AgentEvent>);

    fn ended(&self) -> bool;

    fn report(self, exit: AgentExit) -> AgentReport;
}

/// A parser for programs that print line by line, as all known ones do.
pub(crate) struct ByLine<R> {
    lines: Lines,
    reader: R,
}

impl<R: LineReader> ByLine<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            lines: Lines::new(MAX_LINE),
            reader,
        }
    }
}

fn read<R: LineReader>(reader: &mut R, line: &Line<'_>, events: &mut Vec<AgentEvent>) {
    match *line {
        Line::TooLong(bytes) => events.push(AgentEvent::Skipped { bytes }),
        Line::Whole(line) => {
            let line = String::from_utf8_lossy(line);
            reader.line(line.trim_end_matches('\r'), events);
        }
    }
}

impl<R: LineReader> OutputParser for ByLine<R> {
    fn push(&mut self, chunk: &[u8]) -> Vec<AgentEvent> {
        let Self { lines, reader } = self;
        let mut events = Vec::new();
        lines.push(chunk, |line| read(reader, &line, &mut events));
        events
    }

    fn ended(&self) -> bool {
        self.reader.ended()
    }

    fn finish(mut self: Box<Self>, exit: AgentExit) -> (Vec<AgentEvent>, AgentReport) {
        let mut events = Vec::new();
        let reader = &mut self.reader;
        self.lines.finish(|line| read(reader, &line, &mut events));
        (events, self.reader.report(exit))
    }
}
