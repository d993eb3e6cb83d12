//! The YAML block after a result, as far as it can be understood without a YAML library.
//!
//! Producers write a mapping of scalars here, some nested values too. Scalars on the first level are read, in the styles
//! that are in use (plain, quoted, block); anything else stays text and is kept as such. A full YAML reader would bring
//! anchors and merges, which expand, from a source that is not trusted, for values that nobody here looks at.

/// A key of the first level with its value; `None` where the value is nested or null.
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Option<String>,
}

/// The entries of a block whose own indentation is removed.
pub(crate) fn entries(block: &str) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    let mut lines = block.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with([' ', '\t', '#', '-']) {
            continue;
        }
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        let value = if let Some(header) = Header::of(value) {
            let mut content = Vec::new();
            while let Some(line) = lines.next_if(|line| line.is_empty() || line.starts_with(' ')) {
                content.push(line);
            }
            Some(header.text(&content))
        } else {
            scalar(value)
        };
        entries.push(Entry {
            key: key.trim().trim_matches('"'),
            value,
        });
    }
    entries
}

fn scalar(value: &str) -> Option<String> {
    if value.is_empty() || value == "~" || value == "null" {
        return None;
    }
    if value.starts_with('"') {
        return Some(serde_json::from_str(value).unwrap_or_else(|_| value.trim_matches('"').to_owned()));
    }
    match value
        .strip_prefix('\'')
        .and_then(|value| value.strip_suffix('\''))
    {
        Some(quoted) => Some(quoted.replace("''", "'")),
        None => Some(value.to_owned()),
    }
}

/// The first line of a block scalar: `|`, `>-`, `|2+`.
struct Header {
    folded: bool,
    indent: Option<usize>,
    chomp: Option<u8>,
}

impl Header {
    fn of(value: &str) -> Option<Self> {
        let bytes = value.as_bytes();
        let folded = match bytes.first()? {
            b'|' => false,
            b'>' => true,
            _ => return None,
        };
        let mut header = Header {
            folded,
            indent: None,
            chomp: None,
        };
        for byte in &bytes[1..] {
            match byte {
                b'1'..=b'9' if header.indent.is_none() => header.indent = Some(usize::from(byte - b'0')),
                b'+' | b'-' if header.chomp.is_none() => header.chomp = Some(*byte),
                _ => return None,
            }
        }
        Some(header)
    }

    fn text(&self, lines: &[&str]) -> String {
        let spaces = |line: &str| line.bytes().take_while(|b| *b == b' ').count();
        let indent = self.indent.unwrap_or_else(|| {
            lines
                .iter()
                .find(|line| !line.trim().is_empty())
                .map_or(0, |line| spaces(line))
        });
        let mut text = String::new();
        for line in lines {
            text.push_str(&line[spaces(line).min(indent)..]);
            text.push(if self.folded { ' ' } else { '\n' });
        }
        match self.chomp {
            Some(b'+') => text,
            chomp => {
                let end = text.trim_end_matches(if self.folded { ' ' } else { '\n' }).len();
                text.truncate(end);
                if chomp.is_none() && !text.is_empty() {
                    text.push('\n');
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_in_all_styles() {
        let block = "plain: a: b # c\nsingle: 'it''s'\ndouble: \"a\\nb\"\nnothing: ~\nlist:\n  - 1\n  - 2\n\
                     literal: |-\n  one\n\n    two\n\nfolded: >\n  a\n  b\nkeep: |2+\n    x\n\n\"quoted\": 1\n";
        let got: Vec<_> = entries(block)
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            got,
            [
                ("plain", text("a: b # c")),
                ("single", text("it's")),
                ("double", text("a\nb")),
                ("nothing", None),
                ("list", None),
                ("literal", text("one\n\n  two")),
                ("folded", text("a b\n")),
                ("keep", text("  x\n\n")),
                ("quoted", text("1")),
            ]
        );
    }
}
