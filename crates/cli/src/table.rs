//! Aligned columns. What comes from elsewhere is shown without characters that would move a terminal's cursor.

/// Whether states are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

/// Rows of cells under headings; the columns are as wide as they need to be.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    colour: Colour,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&'static str; N], colour: Colour) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
            colour,
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }

    /// The table, or `empty` when it has no rows.
    pub(crate) fn or_empty(self, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        self.render()
    }

    pub(crate) fn render(self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            longest.max(self.header[column].len())
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        let header: Vec<String> = self.header.iter().map(|&h| h.to_owned()).collect();
        for (index, row) in std::iter::once(&header).chain(&self.rows).enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let shown = match self.header[column] {
                    "STATUS" if index > 0 => painted(cell, self.colour),
                    _ => cell.clone(),
                };
                line.push_str(&shown);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one below the other.
pub(crate) struct Fields {
    rows: Vec<(&'static str, String)>,
    colour: Colour,
}

impl Fields {
    pub(crate) fn new(colour: Colour) -> Self {
        Self {
            rows: Vec::new(),
            colour,
        }
    }

    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the same for texts, numbers and ids"
    )]
    pub(crate) fn add(mut self, name: &'static str, value: impl ToString) -> Self {
        self.rows.push((name, value.to_string()));
        self
    }

    /// Only when there is a value.
    #[must_use]
    pub(crate) fn opt(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.add(name, value),
            None => self,
        }
    }

    pub(crate) fn render(self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.rows {
            let indent = format!("\n{:width$}", "", width = width + 2);
            let value = plain(value.trim_end()).replace('\n', &indent);
            let value = if *name == "Status" {
                painted(&value, self.colour)
            } else {
                value
            };
            text.push_str(format!("{name:width$}  {value}").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A heading and a longer text, or nothing when the text is empty.
pub(crate) fn section(heading: &str, text: &str) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    format!("\n{heading}\n{}\n", plain(text.trim_end()))
}

/// The text without control characters, on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_whitespace() { ' ' } else { visible(c) })
        .collect()
}

/// The text without control characters other than ends of lines and tabs.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| if c == '\n' || c == '\t' { c } else { visible(c) })
        .collect()
}

/// What a program wrote, without the control sequences by which it could change the terminal's title or clipboard, hide
/// lines or have it type: of these only colours stay.
pub(crate) fn for_terminal(bytes: &[u8]) -> Vec<u8> {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let colour = match rest {
            [0x1b, b'[', sequence @ ..] => {
                let end = sequence
                    .iter()
                    .position(|b| !matches!(b, b'0'..=b'9' | b';' | b':'));
                end.filter(|&end| sequence[end] == b'm').map(|end| end + 3)
            }
            _ => None,
        };
        let (kept, taken) = match (first, after) {
            (0x1b, _) if colour.is_some() => (None, colour.unwrap_or(1)),
            (b'\n' | b'\t' | b'\r', _) => (None, 1),
            (0..0x20 | 0x7f, _) => (Some(REPLACEMENT), 1),
            // The control characters above ASCII, which some terminals obey as well.
            (0xc2, [0x80..0xa0, ..]) => (Some(REPLACEMENT), 2),
            _ => (None, 1),
        };
        out.extend_from_slice(kept.unwrap_or(&rest[..taken]));
        rest = &rest[taken..];
    }
    out
}

fn visible(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

/// A state in the colour that says how it stands.
pub(crate) fn painted(text: &str, colour: Colour) -> String {
    let state = text.split(' ').next().unwrap_or_default();
    let code = match state {
        _ if colour == Colour::Off => return text.to_owned(),
        "succeeded" | "merged" | "done" | "completed" | "warm" => 32,
        "failed" | "timed_out" | "lost" | "planning_failed" | "unhealthy" => 31,
        "blocked" | "cancelled" | "skipped" | "destroying" => 33,
        "running" | "in_progress" | "planning" | "active" | "provisioning" => 36,
        _ => return text.to_owned(),
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(colour: Colour) -> String {
        let mut table = Table::new(["ID", "STATUS", "TITLE"], colour);
        table.row(["a".into(), "done".into(), "übung\n\x1b[2Jzwei".into()]);
        table.row(["long-id".into(), "planning_failed".into(), String::new()]);
        table.render()
    }

    #[test]
    fn columns_are_aligned_and_harmless() {
        let wanted = "ID       STATUS           TITLE\na        done             übung \u{fffd}[2Jzwei\nlong-id  planning_failed\n";
        assert_eq!(sample(Colour::Off), wanted);
        let without = sample(Colour::On)
            .replace("\x1b[32m", "")
            .replace("\x1b[31m", "")
            .replace("\x1b[0m", "");
        assert_eq!(without.lines().next(), wanted.lines().next());
        assert_eq!(
            without.lines().nth(1),
            wanted.lines().nth(1),
            "colours take no room"
        );
    }

    #[test]
    fn programs_do_not_command_the_terminal() {
        let shown = |text: &str| String::from_utf8(for_terminal(text.as_bytes())).unwrap();
        let fine = "\x1b[1;31mred\x1b[0m übung\r\n\tend";
        assert_eq!(shown(fine), fine);
        for bad in [
            "\x1b]52;c;cm0gLXJm\x07",
            "\x1b]0;title\x1b\\",
            "\x1b[2J\x1b[H",
            "\x1b[8m\x1b[6n",
            "\u{9b}2J",
            "\x08\x7f",
            "\x1bc",
            "\x1b[31",
        ] {
            let shown = shown(bad).replace("\x1b[8m", "");
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
        assert_eq!(for_terminal(b"\xff\xc2"), b"\xff\xc2");
    }

    #[test]
    fn longer_values_are_indented() {
        let text = Fields::new(Colour::Off)
            .add("Id", "x")
            .add("Error", "one\ntwo\n")
            .render();
        assert_eq!(text, "Id     x\nError  one\n       two\n");
    }
}
