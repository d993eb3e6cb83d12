//! What is wrong with a plan, shown where it is: file, line and column, the line itself, and what to do.

use crate::table::{Colour, one_line};
use ostler_contracts::{PlanMistake, PlanMistakes};
use std::fmt::Write as _;

/// Characters of a line that are shown; a line may be a megabyte long.
const MAX_LINE: usize = 100;
/// Characters of it that are shown before the column.
const BEFORE: usize = 60;

/// The mistakes that the server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problems(PlanMistakes);

impl Problems {
    /// From the details of a refusal; `None` if it was about something else.
    pub(super) fn of(details: Option<&serde_json::Value>) -> Option<Self> {
        let found: PlanMistakes = serde_json::from_value(details?.clone()).ok()?;
        (!found.errors.is_empty()).then_some(Self(found))
    }

    /// For people. `text` is what was sent, `file` its name.
    pub(super) fn render(&self, file: &str, text: &str, colour: Colour) -> String {
        let paint = |code: u8, text: &str| match colour {
            Colour::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Colour::Off => text.to_owned(),
        };
        let mut out = String::new();
        for problem in &self.0.errors {
            let PlanMistake { line, column, .. } = problem;
            // Without a place, the message names the test itself.
            let what = match problem.path.as_str() {
                path if !path.is_empty() && *line > 0 => {
                    format!("{}: {}", one_line(path), one_line(&problem.message))
                }
                _ => one_line(&problem.message),
            };
            let _ = writeln!(out, "{}: {what}", paint(31, "error"));
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let arrow = paint(34, "-->");
            let place = match line {
                0 => String::new(),
                _ => format!(":{line}:{column}"),
            };
            let _ = writeln!(out, "{margin}{arrow} {}{place}", one_line(file));
            if let Some(line) = line
                .checked_sub(1)
                .and_then(|line| text.lines().nth(line as usize))
            {
                let (shown, offset) = window(line, column.saturating_sub(1) as usize);
                let bar = paint(34, "|");
                let caret = paint(31, "^");
                let _ = writeln!(out, "{margin} {bar}");
                let _ = writeln!(out, "{} {bar} {}", paint(34, &number), shown.trim_end());
                let _ = writeln!(out, "{margin} {bar} {}{caret}", " ".repeat(offset));
            }
            if let Some(suggestion) = &problem.suggestion {
                let _ = writeln!(out, "{margin} {} {}", paint(34, "="), one_line(suggestion));
            }
            out.push('\n');
        }
        let many = match (self.0.errors.len(), self.0.more) {
            (1, false) => "1 problem".to_owned(),
            (n, false) => format!("{n} problems"),
            (n, true) => format!("{n} problems, and perhaps more that these hide"),
        };
        let _ = writeln!(out, "{}: no plan was submitted: {many}", paint(31, "error"));
        out
    }
}

/// The part of a line around a column (from 0), and where the column is in it.
fn window(line: &str, column: usize) -> (String, usize) {
    let skipped = column.saturating_sub(BEFORE);
    let mut shown = String::new();
    let mut offset = 0;
    let dots = |shown: &mut String, offset: &mut usize, before: bool| {
        shown.push('…');
        *offset += usize::from(before);
    };
    if skipped > 0 {
        dots(&mut shown, &mut offset, true);
    }
    let mut rest = line.chars().enumerate().skip(skipped);
    for (at, c) in rest.by_ref().take(MAX_LINE) {
        // A tab is as wide as the terminal likes; four spaces are not.
        let cell = if c == '\t' {
            "    ".to_owned()
        } else {
            one_line(c.encode_utf8(&mut [0; 4]))
        };
        if at < column {
            offset += cell.chars().count();
        }
        shown.push_str(&cell);
    }
    if rest.next().is_some() {
        dots(&mut shown, &mut offset, false);
    }
    (shown, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn problems_are_shown_where_they_are() {
        let text = "name = \"shop\"\n\n[[tests]]\n\tretires = 3\nname = \"\u{1b}[2J\"\n";
        let details = json!({ "errors": [
            { "line": 4, "column": 2, "path": "tests[0].retires", "message": "unknown field", "suggestion": "did you mean `retries`?" },
            { "line": 5, "column": 8, "path": "", "message": "bad\nname", "suggestion": null },
            { "line": 99, "column": 1, "path": "", "message": "unexpected end", "suggestion": null },
            { "line": 0, "column": 0, "path": "project", "message": "there is no project `x`", "suggestion": null },
        ], "more": true });
        let problems = Problems::of(Some(&details)).unwrap();
        insta::assert_snapshot!(problems.render("plan.toml", text, Colour::Off));
    }

    #[test]
    fn long_lines_are_cut_around_the_column() {
        let line = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let (shown, offset) = window(&line, 500);
        assert_eq!(shown.chars().nth(offset), Some('X'));
        assert_eq!(shown.chars().count(), MAX_LINE + 2);
        assert_eq!(window("ab", 7), ("ab".to_owned(), 2), "a column behind the end");
        assert_eq!(window("", 0), (String::new(), 0));
    }

    #[test]
    fn colours_change_nothing_else() {
        let details =
            json!({ "errors": [{ "line": 1, "column": 3, "path": "", "message": "no" }], "more": false });
        let problems = Problems::of(Some(&details)).unwrap();
        let coloured = problems.render("-", "text", Colour::On);
        assert!(coloured.contains("\x1b["));
        let stripped = anstream::adapter::strip_str(&coloured).to_string();
        assert_eq!(stripped, problems.render("-", "text", Colour::Off));
    }

    #[test]
    fn other_refusals_are_not_taken_for_problems_of_the_plan() {
        for details in [
            None,
            Some(json!({})),
            Some(json!({ "errors": [] })),
            Some(json!({ "errors": ["x"] })),
        ] {
            assert_eq!(Problems::of(details.as_ref()), None, "{details:?}");
        }
    }
}
