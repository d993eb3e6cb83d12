//! QEMU's control socket: one JSON document a line, see QEMU's `qmp-spec.rst`.
//!
//! A connection is made for each piece of work, as QEMU serves one client at a time and the server may be killed while it is
//! one. QEMU is not trusted: answers are bounded, and every wait has a limit.

use crate::error::{Doing, Error};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ostler_sandbox::connect_socket;
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

/// Longest line that is read.
const LINE: u64 = 4 << 20;
const STEP: Duration = Duration::from_millis(5);

/// A connection.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    limit: Duration,
}

impl Qmp {
    /// Connects, again and again while there is no socket, and makes QEMU ready for commands; each answer may take `limit`.
    pub(crate) async fn connect(path: &Path, limit: Duration) -> Result<Self, Error> {
        let end = Instant::now() + limit;
        let stream = loop {
            match connect_socket(path).await {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => tokio::time::sleep(STEP).await,
                Err(e) => return Err(e).doing("connecting to QEMU"),
            }
        };
        let mut new = Self {
            stream: BufReader::new(stream),
            limit,
        };
        // The greeting.
        new.within(async |qmp| qmp.line().await).await?;
        new.execute("qmp_capabilities", json!({})).await?;
        Ok(new)
    }

    /// Executes a command and returns what QEMU answers.
    pub(crate) async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.within(async |qmp| {
            qmp.stream
                .get_mut()
                .write_all(text.as_bytes())
                .await
                .doing("writing to QEMU")?;
            qmp.answer(command).await
        })
        .await
    }

    /// Gives QEMU a descriptor under a name.
    pub(crate) async fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let text = format!(
            "{}\n",
            json!({ "execute": "getfd", "arguments": { "fdname": name } })
        );
        self.within(async |qmp| {
            let stream = qmp.stream.get_ref();
            let fds = [fd.as_raw_fd()];
            let sent = stream
                .async_io(Interest::WRITABLE, || {
                    let rights = [ControlMessage::ScmRights(&fds)];
                    let bytes = [IoSlice::new(text.as_bytes())];
                    sendmsg::<()>(stream.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None)
                        .map_err(io::Error::from)
                })
                .await
                .doing("giving QEMU a file")?;
            if sent != text.len() {
                return Err(Error::Other("QEMU took only a part of a command".into()));
            }
            qmp.answer("getfd").await.map(|_| ())
        })
        .await
    }

    /// The next event; `None` once QEMU has ended. Waits as long as it takes.
    pub(crate) async fn event(&mut self) -> Result<Option<Value>, Error> {
        loop {
            match self.next_line().await? {
                Some(line) if line.get("event").is_none() => {}
                event => return Ok(event),
            }
        }
    }

    async fn within<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let limit = self.limit;
        tokio::time::timeout(limit, work(self))
            .await
            .unwrap_or(Err(Error::TimedOut {
                what: "an answer of QEMU",
                limit,
            }))
    }

    async fn answer(&mut self, command: &str) -> Result<Value, Error> {
        loop {
            let mut line = self.line().await?;
            if let Some(value) = line.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = line.get("error") {
                return Err(Error::Refused {
                    command: command.to_owned(),
                    message: error["desc"].as_str().unwrap_or("for no reason").to_owned(),
                });
            }
            // Events come between the answers.
        }
    }

    async fn line(&mut self) -> Result<Value, Error> {
        self.next_line()
            .await?
            .ok_or_else(|| Error::Other("QEMU has ended the connection".into()))
    }

    async fn next_line(&mut self) -> Result<Option<Value>, Error> {
        let mut bytes = Vec::new();
        (&mut self.stream)
            .take(LINE)
            .read_until(b'\n', &mut bytes)
            .await
            .doing("reading from QEMU")?;
        if bytes.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Other(format!("QEMU talks nonsense: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A QEMU that answers each command with the next of these lines.
    async fn with_answers(answers: &'static [&'static str]) -> (tempfile::TempDir, Result<Qmp, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let qmp = Qmp::connect(&path, Duration::from_millis(200)).await;
        (dir, qmp)
    }

    #[tokio::test]
    async fn events_are_no_answers_and_errors_are_told() {
        let (_dir, qmp) = with_answers(&[
            r#"{"return": {}}"#,
            "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}",
            r#"{"error": {"class": "GenericError", "desc": "no such thing"}}"#,
        ])
        .await;
        let mut qmp = qmp.unwrap();
        let status = qmp.execute("query-status", json!({})).await.unwrap();
        assert_eq!(status["status"], "paused");
        let error = qmp.execute("stop", json!({})).await.unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let error = qmp.execute("cont", json!({})).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        let (_dir, qmp) = with_answers(&["nonsense"]).await;
        assert!(qmp.unwrap_err().to_string().contains("nonsense"));
    }
}
