//! Logs as they are written out.

use crate::context::Session;
use crate::error::{CliError, Result};
use crate::table::{for_terminal, one_line, plain};
use base64::Engine;
use ostler_client::{Followed, LogItem};
use ostler_contracts::LogLine;
use ostler_domain::{RunId, RunStatus};
use std::io::{self, IsTerminal};

impl Session {
    /// The program's output to standard output and error, byte by byte as it was written, but to a terminal without what
    /// could command it; what Ostler says to standard error.
    pub(crate) fn write_log(&self, line: &LogLine) -> Result<()> {
        let decoded;
        let bytes = if line.base64 {
            decoded = base64::engine::general_purpose::STANDARD
                .decode(&line.text)
                .map_err(|error| {
                    CliError::Failed(format!("piece {} of the log is not base 64: {error}", line.seq))
                })?;
            decoded.as_slice()
        } else {
            line.text.as_bytes()
        };
        match line.stream.as_str() {
            "stdout" if io::stdout().is_terminal() => return self.out.bytes(&for_terminal(bytes)),
            "stdout" => return self.out.bytes(bytes),
            "stderr" if io::stderr().is_terminal() => self.out.error_bytes(&for_terminal(bytes)),
            "stderr" => self.out.error_bytes(bytes),
            // It may repeat what the program said.
            _ => {
                let said = String::from_utf8_lossy(bytes);
                self.out.note(&format!("ostler: {}", plain(said.trim_end())));
            }
        }
        Ok(())
    }

    /// Follows the log of a run to its end, handing each piece to `piece`.
    pub(crate) async fn follow_log(
        &self,
        id: RunId,
        after: u64,
        base64: bool,
        piece: impl Fn(&LogLine) -> Result<()>,
    ) -> Result<RunStatus> {
        let mut follower = self.client.follow_run(id, after, base64);
        let mut reconnecting = false;
        loop {
            match follower.next().await? {
                Followed::Connected if reconnecting => {
                    self.out.note("ostler: the server answers again");
                    reconnecting = false;
                }
                Followed::Connected => {}
                Followed::Lost(_) => {
                    self.out
                        .note("ostler: the connection to the server is lost; trying again");
                    reconnecting = true;
                }
                Followed::Item(LogItem::Line(line)) => piece(&line)?,
                Followed::Item(LogItem::End(status)) => return Ok(status),
            }
        }
    }

    /// Why a run waits, if it does and the server says so.
    pub(crate) async fn why_waiting(&self, id: RunId) -> Option<String> {
        let explanation = self.client.explain_run(id).await.ok()?;
        (explanation.status == RunStatus::Queued).then(|| one_line(&explanation.summary))
    }
}
