//! The result block: `<result>{json}</result>` somewhere in what an agent says.
//!
//! Agents also talk about the tag in prose, so an opening tag without an end is nothing, and of two opening tags before
//! one end the first counts only if what follows it is JSON.

use memchr::memmem;
use serde_json::Value;

const OPEN: &[u8] = b"<result>";
const CLOSE: &[u8] = b"</result>";

/// The largest result block that is read, in bytes, tags included.
pub const MAX_RESULT_BLOCK: usize = 1 << 20;

/// There was a result block, and it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultBlockError {
    /// It is not JSON.
    #[error(
        "the result block is not JSON: {reason} (line {line}, column {column} of the block), at `{near}`; the agent must write valid JSON between <result> and </result>"
    )]
    NotJson {
        /// What the JSON reader says.
        reason: String,
        /// Line within the block, from 1.
        line: usize,
        /// Column within that line, in bytes from 1; 0 when the line ended too early.
        column: usize,
        /// The text there.
        near: String,
    },
    /// It is larger than [`MAX_RESULT_BLOCK`].
    #[error("the result block is larger than {MAX_RESULT_BLOCK} bytes; the agent must write a shorter one")]
    TooLarge,
}

#[derive(Debug)]
enum State {
    /// Before an opening tag. The buffer holds at most the beginning of one.
    Outside,
    /// After an opening tag, with which the buffer begins.
    Inside {
        /// Up to here the buffer holds no closing tag.
        searched: usize,
    },
    /// After an opening tag that was followed by too much to keep; the buffer holds at most the beginning of a tag.
    Oversized,
    /// The first block was found.
    Done(Result<Value, ResultBlockError>),
}

/// Looks for the first result block in text that comes in pieces. Keeps at most [`MAX_RESULT_BLOCK`] bytes.
#[derive(Debug)]
pub(crate) struct ResultScanner {
    state: State,
    buffer: Vec<u8>,
}

impl ResultScanner {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Outside,
            buffer: Vec::new(),
        }
    }

    /// Adds text. Where pieces are cut does not matter.
    pub(crate) fn push(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        // The buffer is filled to fixed marks, so that the limit falls on the same byte however the text is cut.
        while !rest.is_empty() && !matches!(self.state, State::Done(_)) {
            let room = (MAX_RESULT_BLOCK - self.buffer.len()).min(rest.len());
            self.buffer.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            while self.step() {}
        }
    }

    /// The first block's content; none if there was no block.
    pub(crate) fn finish(self) -> Result<Option<Value>, ResultBlockError> {
        match self.state {
            State::Done(result) => result.map(Some),
            _ => Ok(None),
        }
    }

    /// One change of state; false when more text is needed.
    fn step(&mut self) -> bool {
        match self.state {
            State::Done(_) => false,
            State::Outside => {
                if let Some(open) = memmem::find(&self.buffer, OPEN) {
                    self.enter(open);
                    return true;
                }
                self.keep_tail(OPEN.len() - 1);
                false
            }
            State::Inside { searched } => {
                if let Some(at) = memmem::find(&self.buffer[searched..], CLOSE) {
                    let result = read_block(&self.buffer[OPEN.len()..searched + at]);
                    self.buffer = Vec::new();
                    self.state = State::Done(result);
                    return false;
                }
                if self.buffer.len() < MAX_RESULT_BLOCK {
                    let searched = self.buffer.len().saturating_sub(CLOSE.len() - 1).max(OPEN.len());
                    self.state = State::Inside { searched };
                    return false;
                }
                match memmem::rfind(&self.buffer, OPEN) {
                    Some(open) if open > 0 => self.enter(open),
                    _ => {
                        self.keep_tail(CLOSE.len() - 1);
                        self.state = State::Oversized;
                    }
                }
                true
            }
            State::Oversized => {
                let (open, close) = (
                    memmem::find(&self.buffer, OPEN),
                    memmem::find(&self.buffer, CLOSE),
                );
                match (open, close) {
                    (Some(open), close) if close.is_none_or(|close| open < close) => {
                        self.enter(open);
                        true
                    }
                    (_, Some(_)) => {
                        self.buffer = Vec::new();
                        self.state = State::Done(Err(ResultBlockError::TooLarge));
                        false
                    }
                    _ => {
                        self.keep_tail(CLOSE.len() - 1);
                        false
                    }
                }
            }
        }
    }

    fn enter(&mut self, open: usize) {
        self.buffer.drain(..open);
        self.state = State::Inside { searched: OPEN.len() };
    }

    fn keep_tail(&mut self, length: usize) {
        let from = self.buffer.len().saturating_sub(length);
        self.buffer.drain(..from);
    }
}

fn read_block(content: &[u8]) -> Result<Value, ResultBlockError> {
    let whole = serde_json::from_slice(content);
    let Err(error) = whole else {
        return whole.map_err(|error| describe(&error, content));
    };
    match memmem::rfind(content, OPEN) {
        Some(open) => {
            let inner = &content[open + OPEN.len()..];
            serde_json::from_slice(inner).map_err(|error| describe(&error, inner))
        }
        None => Err(describe(&error, content)),
    }
}

fn describe(error: &serde_json::Error, content: &[u8]) -> ResultBlockError {
    let line = content
        .split(|&b| b == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let from = error.column().saturating_sub(10).min(line.len());
    let near = String::from_utf8_lossy(&line[from..]).chars().take(40).collect();
    let reason = error.to_string();
    // The position is said in our own words, because it counts within the block.
    let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
    ResultBlockError::NotJson {
        reason,
        line: error.line(),
        column: error.column(),
        near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn scan(text: &str) -> Result<Option<Value>, ResultBlockError> {
        let mut scanner = ResultScanner::new();
        scanner.push(text);
        scanner.finish()
    }

    #[test]
    fn plain_pretty_and_absent() {
        assert_eq!(
            scan("done <result>{\"a\":1}</result> bye"),
            Ok(Some(json!({"a": 1})))
        );
        assert_eq!(
            scan("<result>\n{\n  \"a\": [1,\n 2]\n}\n</result>"),
            Ok(Some(json!({"a": [1, 2]})))
        );
        assert_eq!(scan("nothing here"), Ok(None));
        assert_eq!(scan("<result>{\"a\":1}"), Ok(None));
        assert_eq!(scan("</result> <result>"), Ok(None));
    }

    #[test]
    fn the_first_block_counts() {
        assert_eq!(scan("<result>1</result><result>2</result>"), Ok(Some(json!(1))));
        assert!(scan("<result>bad</result><result>2</result>").is_err());
    }

    #[test]
    fn prose_about_the_tag_is_not_a_block() {
        assert_eq!(
            scan("I end with <result> tags. <result>{\"a\":1}</result>"),
            Ok(Some(json!({"a": 1})))
        );
        let inside = "<result>{\"note\":\"a <result> tag\"}</result>";
        assert_eq!(scan(inside), Ok(Some(json!({"note": "a <result> tag"}))));
    }

    #[test]
    fn bad_json_says_where() {
        let Err(ResultBlockError::NotJson { line, near, .. }) =
            scan("x\n<result>\n{\"ok\": true,\n \"n\": oops}\n</result>")
        else {
            panic!("no error")
        };
        assert_eq!(line, 3);
        assert!(near.contains("oops"), "{near}");
        let empty = scan("<result></result>").unwrap_err().to_string();
        assert!(empty.contains("EOF"), "{empty}");
    }

    #[test]
    fn a_block_larger_than_the_limit_is_an_error_and_endless_prose_is_not() {
        let filler = "x".repeat(MAX_RESULT_BLOCK);
        assert_eq!(
            scan(&format!("<result>{filler}</result>")),
            Err(ResultBlockError::TooLarge)
        );
        assert_eq!(scan(&format!("<result>{filler}")), Ok(None));
        assert_eq!(
            scan(&format!("<result>{filler}<result>7</result>")),
            Ok(Some(json!(7)))
        );
        let fits = "y".repeat(MAX_RESULT_BLOCK - OPEN.len() - CLOSE.len() - 2);
        assert_eq!(
            scan(&format!("<result>\"{fits}\"</result>")),
            Ok(Some(json!(fits)))
        );
    }

    #[test]
    fn single_bytes_take_linear_time() {
        let mut scanner = ResultScanner::new();
        scanner.push("<result>");
        for _ in 0..=MAX_RESULT_BLOCK {
            scanner.push("a");
        }
        scanner.push("</result>");
        assert_eq!(scanner.finish(), Err(ResultBlockError::TooLarge));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(parts in prop::collection::vec(
            prop::sample::select(vec!["<result>", "</result>", "{\"a\":1}", "<res", "ult>", "</", "é", "\n", "1"]), 0..12),
            cut in 1usize..5)
        {
            let text = parts.concat();
            let mut scanner = ResultScanner::new();
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(cut) {
                scanner.push(&piece.iter().collect::<String>());
            }
            prop_assert_eq!(scanner.finish(), scan(&text));
        }
    }
}
