//! Standard output for what stays, and below it on a terminal the few lines that change.

use crate::error::Result;
use crate::output::Output;
use crate::table::Colour;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};

/// Lines of the changing part where the height of the terminal is not known.
const USUAL_LINES: usize = 8;

/// What is on the screen.
pub(super) struct Screen {
    out: Output,
    /// Whether there is a changing part.
    pub(super) live: bool,
    /// Its lines.
    lines: Vec<String>,
    /// How many of them are on the screen.
    drawn: usize,
}

impl Screen {
    pub(super) fn new(out: Output) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let live = !out.json && !dumb && io::stderr().is_terminal();
        Self {
            out,
            live,
            lines: Vec::new(),
            drawn: 0,
        }
    }

    /// Whether the changing part may be coloured.
    pub(super) fn colour(&self) -> Colour {
        self.out.colour
    }

    /// Most lines that the changing part should have.
    pub(super) fn room() -> usize {
        match terminal_size::terminal_size_of(io::stderr()) {
            Some((_, terminal_size::Height(rows))) => (usize::from(rows) / 3).clamp(2, 12),
            None => USUAL_LINES,
        }
    }

    /// What stays.
    pub(super) fn print(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.show(0);
        self.out.bytes(text.as_bytes())?;
        self.show(self.lines.len());
        Ok(())
    }

    /// What stays, on standard error.
    pub(super) fn note(&mut self, text: &str) {
        self.show(0);
        self.out.note(text);
        self.show(self.lines.len());
    }

    /// What changes; without lines it is gone.
    pub(super) fn draw(&mut self, lines: Vec<String>) {
        if self.live {
            self.lines = lines;
            let text = redraw(self.drawn, &self.lines);
            self.out.error_bytes(text.as_bytes());
            self.drawn = self.lines.len();
        }
    }

    /// Shows the first of its lines.
    fn show(&mut self, lines: usize) {
        if self.drawn != lines {
            let text = redraw(self.drawn, &self.lines[..lines]);
            self.out.error_bytes(text.as_bytes());
            self.drawn = lines;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.show(0);
    }
}

/// Puts lines where others were. Lines that are too long are cut by the terminal itself (it alone knows how wide its
/// characters are), so that each takes exactly one row.
fn redraw(drawn: usize, lines: &[String]) -> String {
    let mut text = String::from("\r");
    if drawn > 0 {
        let _ = write!(text, "\x1b[{drawn}A");
    }
    text.push_str("\x1b[J");
    if !lines.is_empty() {
        text.push_str("\x1b[?7l");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changing_part_is_replaced_as_a_whole() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(redraw(0, &lines), "\r\x1b[J\x1b[?7la\nb\n\x1b[?7h");
        assert_eq!(redraw(2, &lines[..1]), "\r\x1b[2A\x1b[J\x1b[?7la\n\x1b[?7h");
        assert_eq!(redraw(1, &[]), "\r\x1b[1A\x1b[J");
    }
}
