//! Reading usage out of an answer that passes by.
//!
//! The meter never holds an answer up and never changes it: what it cannot read, it does not count.

use ostler_domain::Usage;
use serde::Deserialize;

/// The longest line of an event stream that is read, in bytes. Those with counts are far shorter.
const MAX_LINE: usize = 256 << 10;

/// The largest whole answer that is read, in bytes.
const MAX_JSON: usize = 8 << 20;

/// What one answer of Anthropic's Messages API used.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    form: Form,
    buffer: Vec<u8>,
    /// The present line or answer is too long to be read.
    skipping: bool,
    model: String,
    usage: Option<Usage>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Form {
    #[default]
    Unknown,
    Events,
    Json,
}

#[derive(Deserialize)]
struct Event {
    message: Option<Message>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Message {
    model: Option<String>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(rename = "input_tokens")]
    input: Option<u64>,
    #[serde(rename = "output_tokens")]
    output: Option<u64>,
    #[serde(rename = "cache_read_input_tokens")]
    cache_read: Option<u64>,
    #[serde(rename = "cache_creation_input_tokens")]
    cache_write: Option<u64>,
}

impl Meter {
    /// A meter for an answer of that content type; it counts nothing if that is neither events nor JSON.
    pub(crate) fn new(content_type: &str) -> Self {
        let form = match content_type.split(';').next().unwrap_or_default().trim() {
            "text/event-stream" => Form::Events,
            "application/json" => Form::Json,
            _ => Form::Unknown,
        };
        Self {
            form,
            ..Self::default()
        }
    }

    /// A piece of the answer, cut anywhere.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) {
        match self.form {
            Form::Unknown => {}
            Form::Json => self.keep(piece, MAX_JSON),
            Form::Events => {
                while let Some(end) = piece.iter().position(|&b| b == b'\n') {
                    self.keep(&piece[..end], MAX_LINE);
                    self.end_of_line();
                    piece = &piece[end + 1..];
                }
                self.keep(piece, MAX_LINE);
            }
        }
    }

    /// The model and what was used, as far as the answer said.
    pub(crate) fn finish(&mut self) -> (String, Option<Usage>) {
        if self.form == Form::Json
            && !self.skipping
            && let Ok(message) = serde_json::from_slice::<Message>(&self.buffer)
        {
            self.message(message);
        }
        (std::mem::take(&mut self.model), self.usage)
    }

    fn keep(&mut self, piece: &[u8], limit: usize) {
        if self.skipping || self.buffer.len() + piece.len() > limit {
            self.skipping = true;
            self.buffer = Vec::new();
        } else {
            self.buffer.extend_from_slice(piece);
        }
    }

    fn end_of_line(&mut self) {
        let skipped = std::mem::take(&mut self.skipping);
        let line = std::mem::take(&mut self.buffer);
        if let Some(data) = line.strip_prefix(b"data:").filter(|_| !skipped)
            && contains(data, b"\"usage\"")
            && let Ok(event) = serde_json::from_slice::<Event>(data)
        {
            if let Some(message) = event.message {
                self.message(message);
            }
            if let Some(counts) = event.usage {
                self.count(&counts);
            }
        }
        // The buffer's memory serves the next line.
        self.buffer = line;
        self.buffer.clear();
    }

    fn message(&mut self, message: Message) {
        if let Some(model) = message.model {
            self.model = model;
        }
        if let Some(counts) = message.usage {
            self.count(&counts);
        }
    }

    /// Counts are totals of the answer, so later ones replace earlier ones.
    fn count(&mut self, counts: &Counts) {
        let usage = self.usage.get_or_insert_default();
        let set = |total: &mut u64, count: Option<u64>| *total = count.unwrap_or(*total);
        set(&mut usage.input_tokens, counts.input);
        set(&mut usage.output_tokens, counts.output);
        set(&mut usage.cache_read_tokens, counts.cache_read);
        set(&mut usage.cache_write_tokens, counts.cache_write);
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"model":"m-1","usage":{"input_tokens":7,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":1}}}"#,
        "\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n",
        r#"data: {"type":"content_block_delta","delta":{"text":"the \"usage\": {\"output_tokens\": 999}"}}"#,
        "\r\n\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40}}"#,
        "\n\ndata: {\"type\":\"message_stop\"}\n\n"
    );

    fn measure(content_type: &str, text: &[u8], chunk: usize) -> (String, Option<Usage>) {
        let mut meter = Meter::new(content_type);
        text.chunks(chunk).for_each(|chunk| meter.feed(chunk));
        meter.finish()
    }

    fn expected() -> (String, Option<Usage>) {
        let usage = Usage {
            input_tokens: 7,
            output_tokens: 40,
            cache_read_tokens: 3,
            cache_write_tokens: 2,
            cost_usd: 0.0,
        };
        ("m-1".to_owned(), Some(usage))
    }

    #[test]
    fn events_are_counted_however_they_are_cut() {
        for chunk in 1..STREAM.len() {
            assert_eq!(
                measure("text/event-stream; charset=utf-8", STREAM.as_bytes(), chunk),
                expected()
            );
        }
    }

    #[test]
    fn a_whole_answer_is_counted() {
        let text = br#"{"model":"m-1","content":[],"usage":{"input_tokens":7,"output_tokens":40,
            "cache_creation_input_tokens":2,"cache_read_input_tokens":3}}"#;
        assert_eq!(measure("application/json", text, 5), expected());
    }

    #[test]
    fn a_broken_stream_counts_what_was_said() {
        let cut = STREAM.find("event: ping").unwrap();
        let (model, usage) = measure("text/event-stream", &STREAM.as_bytes()[..cut], 9);
        assert_eq!(
            (
                model.as_str(),
                usage.unwrap().input_tokens,
                usage.unwrap().output_tokens
            ),
            ("m-1", 7, 1)
        );
    }

    #[test]
    fn long_lines_are_passed_over_in_bounded_memory() {
        let mut meter = Meter::new("text/event-stream");
        for _ in 0..64 {
            meter.feed(&vec![b'x'; 1 << 16]);
            assert!(meter.buffer.capacity() <= 2 * MAX_LINE);
        }
        meter.feed(b"\n");
        meter.feed(STREAM.as_bytes());
        assert_eq!(meter.finish(), expected());
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), chunk in 1usize..50) {
            for kind in ["text/event-stream", "application/json", "text/html"] {
                prop_assert_eq!(measure(kind, &bytes, chunk), measure(kind, &bytes, 1000));
            }
        }
    }
}
