//! The end of what a test wrote: of a log that may be larger than memory, the last lines of each stream.

use crate::error::CliError;
use crate::table::{Colour, for_terminal, plain};
use base64::Engine;
use ostler_client::Client;
use ostler_contracts::LogLine;
use ostler_domain::RunId;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Most that is kept of a stream.
const MAX_BYTES: usize = 64 << 10;
/// For how long a log is tried to be read while the server is away.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(1);

/// The ends of the streams of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) stdout: End,
    pub(super) stderr: End,
    /// What Ostler itself said.
    pub(super) ostler: End,
}

/// The end of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct End {
    bytes: VecDeque<u8>,
    /// Ends of lines among what is no longer there.
    dropped_lines: u64,
    dropped_bytes: u64,
}

impl End {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(MAX_BYTES);
        self.dropped_bytes += over as u64;
        self.dropped_lines += self.bytes.drain(..over).filter(|b| *b == b'\n').count() as u64;
    }

    /// All that was kept, and how much was not.
    pub(super) fn text(&self) -> Option<String> {
        if self.bytes.is_empty() {
            return None;
        }
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(match self.dropped_bytes {
            0 => text,
            n => format!("[{n} bytes before this are left out]\n{text}"),
        })
    }

    /// The last lines, at most `most`, under a heading with the stream's name; nothing when there are none.
    fn render(&self, name: &str, most: usize, colour: Colour) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = bytes.trim_ascii_end();
        if text.is_empty() || most == 0 {
            return String::new();
        }
        let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
        let shown = &lines[lines.len().saturating_sub(most)..];
        let all = self.dropped_lines + lines.len() as u64;
        let mut out = if shown.len() as u64 == all {
            format!("    --- {name} ---\n")
        } else {
            format!("    --- {name}: the last {} of {all} lines ---\n", shown.len())
        };
        for line in shown {
            let line = format!("    {}", harmless(line, colour));
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A line without commands for terminals; its colours stay where there are colours.
fn harmless(line: &[u8], colour: Colour) -> String {
    // What overwrote itself is shown as it was left.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.rsplit(|b| *b == b'\r').next().unwrap_or_default();
    if colour == Colour::Off {
        let text = anstream::adapter::strip_bytes(line).into_vec();
        return plain(&String::from_utf8_lossy(&text));
    }
    let mut text = String::from_utf8_lossy(&for_terminal(line)).into_owned();
    if text.contains('\x1b') {
        // A colour that it did not end would go on in the next line.
        text.push_str("\x1b[0m");
    }
    text
}

impl Tail {
    /// Adds a piece of the log.
    pub(super) fn add(&mut self, line: &LogLine) {
        let decoded = line
            .base64
            .then(|| base64::engine::general_purpose::STANDARD.decode(&line.text).ok());
        let bytes = match &decoded {
            Some(decoded) => decoded.as_deref().unwrap_or_default(),
            None => line.text.as_bytes(),
        };
        match line.stream.as_str() {
            "stdout" => self.stdout.push(bytes),
            "stderr" => self.stderr.push(bytes),
            _ => {
                self.ostler.push(bytes);
                if !bytes.ends_with(b"\n") {
                    self.ostler.push(b"\n");
                }
            }
        }
    }

    /// Indented, at most `lines` of each stream.
    pub(super) fn render(&self, lines: usize, colour: Colour) -> String {
        [
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            ("ostler", &self.ostler),
        ]
        .map(|(name, end)| end.render(name, lines, colour))
        .concat()
    }
}

/// Reads the log of a run to its end; a server that is away is waited for a little.
pub(super) async fn fetch(client: &Client, run: RunId) -> Result<Tail, CliError> {
    let since = Instant::now();
    loop {
        match read(client, run).await {
            Err(CliError::Client(error)) if error.is_transient() && since.elapsed() < PATIENCE => {
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

async fn read(client: &Client, run: RunId) -> Result<Tail, CliError> {
    let mut tail = Tail::default();
    let mut lines = client.run_log(run, 0, true).await?;
    while let Some(line) = lines.next().await? {
        tail.add(&line);
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_contracts::Time;
    use ostler_domain::Timestamp;

    fn tail(pieces: &[(&str, &str)]) -> Tail {
        let mut tail = Tail::default();
        for (seq, (stream, text)) in (1..).zip(pieces) {
            tail.add(&LogLine {
                seq,
                at: Time(Timestamp(0)),
                stream: (*stream).to_owned(),
                text: base64::engine::general_purpose::STANDARD.encode(text),
                base64: true,
            });
        }
        tail
    }

    #[test]
    fn streams_are_shown_apart_and_only_their_ends() {
        let many = (1..=7).fold(String::new(), |text, n| text + &format!("line {n}\n"));
        let tail = tail(&[
            ("stdout", "\x1b[31mred\x1b[0m \x1b]0;title\x07begins"),
            ("stderr", &many),
            ("stdout", " and ends\n10%\r50%\r100%\n\n"),
            ("ostler", "ended by its time-out"),
        ]);
        insta::assert_snapshot!(tail.render(3, Colour::Off));
        let coloured = tail.render(3, Colour::On);
        assert!(
            coloured.contains("\x1b[31mred\x1b[0m") && !coloured.contains("\x1b]"),
            "{coloured:?}"
        );
        assert_eq!(tail.render(0, Colour::On), "");
        assert_eq!(Tail::default().render(3, Colour::On), "");
    }

    #[test]
    fn a_stream_without_end_is_not_kept_whole() {
        let line = "x".repeat(1023) + "\n";
        let all = line.repeat(1000);
        let tail = tail(&[("stdout", &all), ("stdout", "the end\n")]);
        assert!(tail.stdout.bytes.len() <= MAX_BYTES);
        let shown = tail.render(1, Colour::Off);
        assert_eq!(
            shown,
            "    --- stdout: the last 1 of 1001 lines ---\n    the end\n"
        );
        let text = tail.stdout.text().unwrap();
        assert!(
            text.starts_with("[958472 bytes before this are left out]\n"),
            "{}",
            &text[..60]
        );
    }
}
