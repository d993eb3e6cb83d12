//! Files of agents: streamed, never whole in memory.

use super::guest_error;
use crate::guest::Guest;
use crate::{Caller, Control, ControlError, Result};
use bytes::Bytes;
use ostler_domain::SandboxId;
use ostler_guest_protocol::v1::{DownloadFrame, DownloadRequest, UploadFrame, UploadHeader};
use std::fmt::Display;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status, Streaming};

/// Longest wait for the next piece from either side.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Pieces between the two sides.
const PIECES: usize = 4;
/// Longest path.
const MAX_PATH: usize = 4096;

/// A file that is being read. Dropping it ends the transfer.
#[derive(Debug)]
pub struct AgentFile {
    path: String,
    first: Option<Bytes>,
    rest: Streaming<DownloadFrame>,
}

impl AgentFile {
    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        match tokio::time::timeout(STANDSTILL, self.rest.message()).await {
            Ok(Ok(frame)) => frame.map(|frame| Ok(frame.data)),
            Ok(Err(status)) => Some(Err(file_error(&self.path, &status))),
            Err(_) => Some(Err(standstill("the sandbox"))),
        }
    }
}

/// Where something is written.
#[derive(Debug, Clone, Copy)]
pub struct AgentUpload<'a> {
    /// Path, absolute or below the workspace.
    pub path: &'a str,
    /// The content is an archive, to be unpacked in the directory `path`.
    pub tar: bool,
    /// Permission bits of a file; 0 for 644.
    pub mode: u32,
    /// Most bytes.
    pub limit: u64,
}

impl Control {
    /// Writes a file, with its parents, from a stream, or unpacks an archive. More than its limit, or a stream that breaks
    /// off, leave an old file as it was. Returns the size of the content.
    pub async fn upload_to_agent<E: Display>(
        &self,
        caller: &Caller,
        id: SandboxId,
        to: AgentUpload<'_>,
        content: impl Stream<Item = std::result::Result<Bytes, E>>,
    ) -> Result<u64> {
        let AgentUpload {
            path,
            tar,
            mode,
            limit,
        } = to;
        check_path(path)?;
        if mode > 0o777 {
            return Err(ControlError::Invalid(
                "the permission bits must be from 0 to 777".into(),
            ));
        }
        let sandbox = self.agent_in_use(caller, id).await?;
        let details = serde_json::json!({ "path": path });
        self.note_act(caller, "agent.upload", id, details).await?;
        let guest = self.guest(&sandbox)?;
        let header = UploadHeader {
            path: absolute(&guest, path).await?,
            tar,
            mode,
        };
        guest.upload_stream(header, limit, content).await
    }

    /// Opens a file for reading; with `tar` an archive of what is in a directory.
    pub async fn download_from_agent(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &str,
        tar: bool,
    ) -> Result<AgentFile> {
        check_path(path)?;
        let sandbox = self.agent_in_use(caller, id).await?;
        let guest = self.guest(&sandbox)?;
        let path = &absolute(&guest, path).await?;
        let mut client = guest.0;
        let request = DownloadRequest {
            path: path.clone(),
            tar,
            ..DownloadRequest::default()
        };
        // With the first piece, so that a file that is not there is an answer and not a stream that breaks off.
        let open = async {
            let mut rest = client.download(request).await?.into_inner();
            let first = rest.message().await?;
            Ok::<_, Status>((first, rest))
        };
        let (first, rest) = tokio::time::timeout(STANDSTILL, open)
            .await
            .map_err(|_| standstill("the sandbox"))?
            .map_err(|status| file_error(path, &status))?;
        Ok(AgentFile {
            path: path.to_owned(),
            first: first.map(|frame| frame.data),
            rest,
        })
    }
}

impl Guest {
    async fn upload_stream<E: Display>(
        &self,
        header: UploadHeader,
        limit: u64,
        content: impl Stream<Item = std::result::Result<Bytes, E>>,
    ) -> Result<u64> {
        let path = header.path.clone();
        let (frames, receiver) = mpsc::channel(PIECES);
        let mut content = std::pin::pin!(content);
        let send = async move {
            let mut frame = UploadFrame {
                header: Some(header),
                ..UploadFrame::default()
            };
            let mut size = 0;
            loop {
                let end = frame.end;
                // The receiver goes when the call has failed, which its own result tells.
                if frames.send(frame).await.is_err() || end {
                    return Ok(());
                }
                frame = match tokio::time::timeout(STANDSTILL, content.next()).await {
                    Ok(None) => UploadFrame {
                        end: true,
                        ..UploadFrame::default()
                    },
                    Ok(Some(Ok(data))) => UploadFrame {
                        data,
                        ..UploadFrame::default()
                    },
                    Ok(Some(Err(error))) => {
                        return Err(ControlError::Invalid(format!("the upload broke off: {error}")));
                    }
                    Err(_) => return Err(standstill("the upload")),
                };
                size += frame.data.len() as u64;
                if size > limit {
                    return Err(too_large(limit));
                }
            }
        };
        let mut client = self.0.clone();
        let call = async {
            let reply = client.upload(ReceiverStream::new(receiver)).await;
            reply.map_err(|status| file_error(&path, &status))
        };
        let ((), reply) = tokio::try_join!(send, call)?;
        Ok(reply.into_inner().bytes)
    }
}

/// What to say of a file that is over the limit.
fn too_large(limit: u64) -> ControlError {
    ControlError::TooLarge(format!(
        "the file is larger than {limit} bytes, which is what the setting `server.upload_limit` allows"
    ))
}

fn standstill(who: &str) -> ControlError {
    ControlError::Unavailable(format!("{who} stood still for {} s", STANDSTILL.as_secs()))
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(ControlError::Invalid(format!(
            "`path` must be a path in the sandbox, absolute or below the workspace, of 1 to {MAX_PATH} bytes"
        )));
    }
    Ok(())
}

/// A path that does not begin at the root begins at the workspace.
async fn absolute(guest: &Guest, path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let place = guest.configure().await.map_err(guest_error)?;
    Ok(format!("{}/{path}", place.workspace))
}

fn file_error(path: &str, status: &Status) -> ControlError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => ControlError::NotFound {
            what: "file",
            id: path.to_owned(),
        },
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::ResourceExhausted => ControlError::Unprocessable(message),
        _ => ControlError::Unavailable(format!("the sandbox does not answer: {message}")),
    }
}
