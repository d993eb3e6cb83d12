//! Server-sent events, as the HTML standard has them: reading them from a response.

use crate::ClientError;
use reqwest::Response;
use std::collections::VecDeque;
use std::time::Duration;

/// The server says something at least every 15 s.
pub(crate) const SILENCE: Duration = Duration::from_secs(45);
/// Longest event and longest line that is believed.
const MAX_EVENT: usize = 16 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

impl Message {
    /// The data, or why it is not what it should be.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_str(&self.data).map_err(|error| format!("an event `{}`: {error}", self.event))
    }
}

/// Puts events together from pieces of bytes.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    rest: Vec<u8>,
    message: Message,
    has_data: bool,
}

/// An event, or a line, is longer than any server sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Message>) -> Result<(), TooLong> {
        self.rest.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|b| *b == b'\n') {
            let line = &self.rest[start..start + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = String::from_utf8_lossy(line).into_owned();
            start += length + 1;
            if let Some(message) = self.line(&line) {
                out.push_back(message);
            }
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_EVENT || self.message.data.len() > MAX_EVENT {
            return Err(TooLong);
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.message.event),
            "id" if !value.contains('\0') => self.message.id = Some(value.to_owned()),
            // Comments keep the connection alive; other fields are of no use here.
            _ => {}
        }
        None
    }
}

/// The events of one response, to its end.
#[derive(Debug)]
pub(crate) struct EventStream {
    response: Response,
    url: String,
    parser: Parser,
    ready: VecDeque<Message>,
}

impl EventStream {
    pub(crate) fn new(response: Response, url: String) -> Self {
        Self {
            response,
            url,
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next event; `None` when the server ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let Some(bytes) = next_chunk(&mut self.response, &self.url).await? else {
                return Ok(None);
            };
            self.parser
                .push(&bytes, &mut self.ready)
                .map_err(|TooLong| ClientError::Foreign {
                    url: self.url.clone(),
                    reason: format!("an event is longer than {} MiB", MAX_EVENT >> 20),
                })?;
        }
    }
}

/// The next piece of a body that may take as long as it likes, but not in silence.
pub(crate) async fn next_chunk(
    response: &mut Response,
    url: &str,
) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, ClientError> {
    match tokio::time::timeout(SILENCE, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(ClientError::transport(&error, url, SILENCE)),
        Err(_) => Err(ClientError::TimedOut {
            url: url.to_owned(),
            seconds: SILENCE.as_secs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ": hello\n\nid: 7\nevent: log\ndata: {\"a\":1}\n\r\nevent: end\r\ndata: one\ndata:two\n\nid: 9\n\ndata: cut";

    fn parse(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Message> {
        let (mut parser, mut out) = (Parser::default(), VecDeque::new());
        for piece in pieces {
            parser.push(&piece, &mut out).unwrap();
        }
        out.into()
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let whole = parse(std::iter::once(TEXT.as_bytes().to_vec()));
        let wanted = [(Some("7"), "log", "{\"a\":1}"), (None, "end", "one\ntwo")];
        let found: Vec<_> = whole
            .iter()
            .map(|m| (m.id.as_deref(), m.event.as_str(), m.data.as_str()))
            .collect();
        assert_eq!(found, wanted);
        for size in 1..TEXT.len() {
            let cut = parse(TEXT.as_bytes().chunks(size).map(<[u8]>::to_vec));
            assert_eq!(cut, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let (mut parser, mut out) = (Parser::default(), VecDeque::new());
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..64).any(|_| parser.push(&piece, &mut out) == Err(TooLong));
        assert!(refused);
    }
}
