//! Small work on strings that several formats share.

use std::time::Duration;

/// The longest command that a terminal would take for one here: without an end, the text after it is not eaten.
const MAX_COMMAND: usize = 4096;

/// At most so many bytes, cut between characters.
pub(crate) fn clip(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `None` for what has nothing to read.
pub(crate) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Lines without their ends, numbered from 1. A carriage return before the end belongs to it: serial consoles write it.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    let mut number = 0;
    std::iter::from_fn(move || {
        if start >= bytes.len() {
            return None;
        }
        let rest = &bytes[start..];
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        start += length + 1;
        number += 1;
        let line = &rest[..length];
        Some((number, line.strip_suffix(b"\r").unwrap_or(line)))
    })
}

/// Without commands for terminals (ECMA-48): colours, cursor movements, titles. Text stays, also that of a command
/// that never ends.
pub(crate) fn without_commands(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(0x1b, rest.as_bytes()) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = &rest[command(rest.as_bytes())..];
    }
    kept.push_str(rest);
    kept
}

/// How many bytes after an escape character belong to its command. All of them are ASCII.
fn command(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'[') => {
            let parameters = bytes[1..]
                .iter()
                .take(MAX_COMMAND)
                .take_while(|b| (0x20..0x40).contains(*b))
                .count();
            match bytes.get(1 + parameters) {
                Some(0x40..=0x7e) => parameters + 2,
                _ => 1 + parameters,
            }
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let text = &bytes[..bytes.len().min(MAX_COMMAND)];
            // Every escape character and every new line ends the search, so that no text is looked through twice.
            match memchr::memchr3(0x07, 0x1b, b'\n', &text[1..]) {
                Some(at) if text[1 + at] == 0x07 => at + 2,
                Some(at) if text[1 + at..].starts_with(b"\x1b\\") => at + 3,
                _ => 1,
            }
        }
        Some(b'(' | b')' | b'#' | b' ' | b'%') if bytes.get(1).is_some_and(u8::is_ascii_graphic) => 2,
        Some(0x30..=0x7e) => 1,
        _ => 0,
    }
}

/// Seconds as JUnit files of many tools have them: `1.5`, `1,234.5` (grouped), `0,5` (other locales), `1e-05`.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.len() > 64 {
        return None;
    }
    let commas = text.matches(',').count();
    let plain = match (commas, text.rfind('.'), text.rfind(',')) {
        (0, ..) => text.to_owned(),
        // The last of the two parts the seconds, the other one groups digits.
        (_, Some(point), Some(comma)) if comma > point => text.replace('.', "").replace(',', "."),
        (1, None, _) => text.replace(',', "."),
        _ => text.replace(',', ""),
    };
    Duration::try_from_secs_f64(plain.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_and_text_stays() {
        for (with, without) in [
            ("\x1b[31mred\x1b[0m\ttab", "red\ttab"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]8;;http://h\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]never ends\nnext", "never ends\nnext"),
            ("\x1bPq never", "q never"),
            ("\x1b(Bb\x1b7c", "bc"),
            ("end\x1b", "end"),
            ("\x1b[", ""),
            ("\x1b[1é", "é"),
            ("\x1bé", "é"),
        ] {
            assert_eq!(without_commands(with), without, "{with:?}");
        }
    }

    #[test]
    fn seconds_of_many_locales() {
        for (text, millis) in [
            ("1.5", Some(1500)),
            ("1,234.5", Some(1_234_500)),
            ("1.234,5", Some(1_234_500)),
            ("0,25", Some(250)),
            ("1,000,000", Some(1_000_000_000)),
            (" 2 ", Some(2000)),
            ("1e-03", Some(1)),
            ("-1", None),
            ("NaN", None),
            ("1e300", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
