//! Bytes of a terminal as lines of text.

/// Longest line, bytes. A longer one is cut.
const LINE: usize = 4096;
/// How far before its end a line that is too long is looked at for a better place to cut it.
const BACK: usize = 512;

const ESCAPE: u8 = 0x1b;

/// Within what kind of escape sequence (ECMA-48) the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// A control sequence, until a letter.
    Control,
    /// A text for the terminal, such as its title, until a bell or another escape.
    Words,
}

/// Takes bytes and gives lines. Holds one line.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    state: State,
}

impl Lines {
    /// Takes a byte; a line that it ends. A carriage return ends one, too: what follows it begins at the left.
    pub(super) fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        if matches!(byte, b'\n' | b'\r') {
            // No sequence goes over the end of a line: one that was cut off is not to swallow what follows.
            self.state = State::Text;
            return (!self.line.is_empty()).then(|| std::mem::take(&mut self.line));
        }
        self.state = match (self.state, byte) {
            // A sequence begins, or after an intermediate byte goes on.
            (_, ESCAPE) | (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::Text, b'\t' | b' '..=b'~' | 0x80..) => {
                self.line.push(byte);
                return (self.line.len() >= LINE).then(|| self.cut());
            }
            (State::Escape, b'[') | (State::Control, 0x20..=0x3f) => State::Control,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Words,
            (State::Words, byte) if byte != 0x07 => State::Words,
            _ => State::Text,
        };
        None
    }

    /// What there is of a line that has not ended.
    pub(super) fn unfinished(&self) -> &[u8] {
        &self.line
    }

    /// Cuts a line that is too long, if possible before what could be the beginning of a record of the kernel.
    fn cut(&mut self) -> Vec<u8> {
        let begins = |at: &usize| {
            self.line[*at] == b'['
                && self
                    .line
                    .get(at + 1)
                    .is_none_or(|next| next.is_ascii_digit() || *next == b' ')
        };
        let at = (LINE - BACK..LINE).rev().find(begins).unwrap_or(LINE);
        let rest = self.line.split_off(at);
        std::mem::replace(&mut self.line, rest)
    }
}

/// A line as text. Unicode has control characters of its own, which some terminals obey.
pub(super) fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines::default();
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let mut all: Vec<String> = bytes
            .iter()
            .filter_map(|b| Some(text(&lines.push(*b)?)))
            .collect();
        all.push(text(lines.unfinished()));
        all
    }

    #[test]
    fn sequences_for_the_terminal_are_no_text() {
        let bytes =
            b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\x1b]0;title\x07 (1)\x1b(B\r\r\n\0\x01a\x1b[31mb\x1b[m\tc\rd";
        assert_eq!(lines(bytes), ["SeaBIOS (1)", "ab\tc", "d"]);
        assert_eq!(lines(b"\x1b]never ended\nnext\n\x1b["), ["next", ""]);
    }

    #[test]
    fn a_long_line_is_cut_before_a_record() {
        let mut bytes = vec![b'.'; LINE - 10];
        bytes.extend(b"[    1.000000] Kernel panic");
        let all = lines(&bytes);
        assert_eq!(all[0].len(), LINE - 10);
        assert_eq!(all[1], "[    1.000000] Kernel panic");
        let all = lines(&vec![b'x'; 3 * LINE + 5]);
        assert_eq!(
            all.iter().map(String::len).collect::<Vec<_>>(),
            [LINE, LINE, LINE, 5]
        );
    }
}
