//! Connections to the guest.

use crate::container::{GUEST, RUN};
use crate::driver::Inner;
use crate::engine::{CALL_LIMIT, KIND, call, failed};
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures::StreamExt;
use ostler_domain::SandboxId;
use ostler_sandbox::{ByteStream, DriverError, connect_socket};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

/// Name of the guest's socket in the run directory.
const SOCKET: &str = "guest.sock";
/// What the second process of the guest says once it has a connection to the first.
const CONNECTED: &[u8] = b"connected\n";
/// Longest wait for that.
const GREETING: Duration = Duration::from_secs(10);
const ACTION: &str = "connect to";

impl Inner {
    /// Connects as the sandbox was made: by its directory, or through the engine.
    pub(crate) async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        let dir = self.dir(id);
        let run = dir.join("run");
        if run.exists() {
            return match connect_socket(&run.join(SOCKET)).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(e) => Err(failed(ACTION, id, e)),
            };
        }
        if !dir.exists() {
            return Err(DriverError::NotFound { driver: KIND, id });
        }
        self.connect_through_engine(id).await
    }

    /// By a second process of the guest, whose standard input and output the engine hands on. It ends with the connection.
    async fn connect_through_engine(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        let socket = Path::new(RUN).join(SOCKET).display().to_string();
        let exec = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(vec![GUEST.to_owned(), "connect".to_owned(), socket]),
            working_dir: Some("/".to_owned()),
            ..CreateExecOptions::default()
        };
        let api = &self.engine.api;
        let error = |e| self.engine.error(e, ACTION, id);
        let made = call(CALL_LIMIT, api.create_exec(&self.name(id), exec))
            .await
            .map_err(error)?;
        let started = call(CALL_LIMIT, api.start_exec(&made.id, None))
            .await
            .map_err(error)?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(failed(ACTION, id, "the engine did not attach"));
        };
        let bytes = output.map(|piece| match piece {
            Ok(LogOutput::StdOut { message }) => Ok(message),
            // It speaks there only of why it cannot go on.
            Ok(other) => Err(io::Error::other(other.to_string().trim().to_owned())),
            Err(e) => Err(io::Error::other(e)),
        });
        let mut reader = StreamReader::new(bytes);
        let mut greeting = [0; CONNECTED.len()];
        let read = tokio::time::timeout(GREETING, reader.read_exact(&mut greeting));
        match read.await {
            Ok(Ok(_)) if greeting == CONNECTED => Ok(Box::new(tokio::io::join(reader, input))),
            Ok(Ok(_)) => Err(failed(ACTION, id, "what answers is not its guest")),
            Ok(Err(e)) => Err(failed(ACTION, id, e)),
            Err(_) => Err(DriverError::TimedOut {
                driver: KIND,
                action: ACTION,
                id,
                limit: GREETING,
            }),
        }
    }
}
