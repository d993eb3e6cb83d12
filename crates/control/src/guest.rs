//! A connection to the guest of one sandbox.
//!
//! Every wait has a limit: a guest that went away must not hold a run for ever.

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use ostler_domain::SandboxId;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{
    AcceptRequest, AttachRequest, CollectRequest, CollectSummary, ConfigureReply, ConfigureRequest,
    DownloadRequest, ExecEvent, ExecInfo, HealthRequest, Incoming, KillRequest, ListExecsRequest,
    MetricsRequest, ReleaseRequest, RenewRequest, ResizeRequest, StartRequest, TunnelFrame, UploadFrame,
    UploadHeader, WriteStdinRequest,
};
use ostler_sandbox::{Driver, Usage};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// For calls that a healthy guest answers at once.
const CALL: Duration = Duration::from_secs(10);
/// For one piece of a file; a sandbox that takes longer has gone.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
/// For a whole file.
const TRANSFER: Duration = Duration::from_secs(600);
/// Most files of an archive where the request names no number.
const MOST_FILES: u64 = 1_000_000;
/// Bytes of an archive for one file, beside its content: headers, a long name and filling.
const ARCHIVED: u64 = 8192;
/// Bytes of a piece of a file or of a connection.
const PIECE: usize = 64 * 1024;

/// Why the guest did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum GuestError {
    #[error("the sandbox does not answer: {0}")]
    Unreachable(String),
    #[error("the sandbox refused: {0}")]
    Refused(String),
    #[error("the sandbox has no {0}")]
    Missing(String),
    #[error("{0}")]
    Local(String),
}

impl From<Status> for GuestError {
    fn from(status: Status) -> Self {
        match status.code() {
            tonic::Code::NotFound => Self::Missing(status.message().to_owned()),
            tonic::Code::InvalidArgument
            | tonic::Code::FailedPrecondition
            | tonic::Code::ResourceExhausted => Self::Refused(status.message().to_owned()),
            _ => Self::Unreachable(status.message().to_owned()),
        }
    }
}

/// A connection that is opened again by itself; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guest(pub(crate) GuestClient<Channel>);

impl Guest {
    /// Connects at the first call.
    pub(crate) fn new(driver: Arc<dyn Driver>, id: SandboxId) -> Self {
        let connector = tower::service_fn(move |_| {
            let driver = Arc::clone(&driver);
            async move {
                driver
                    .connect(id)
                    .await
                    .map(TokioIo::new)
                    .map_err(io::Error::other)
            }
        });
        Self(GuestClient::new(
            Endpoint::from_static("http://guest").connect_with_connector_lazy(connector),
        ))
    }

    pub(crate) async fn start(&self, request: StartRequest) -> Result<(), GuestError> {
        within(CALL, self.0.clone().start(request)).await.map(drop)
    }

    pub(crate) async fn attach(
        &self,
        exec_id: &str,
        from_seq: u64,
    ) -> Result<Streaming<ExecEvent>, GuestError> {
        let request = AttachRequest {
            exec_id: exec_id.to_owned(),
            from_seq,
        };
        within(CALL, self.0.clone().attach(request)).await
    }

    /// Ends the whole tree of a program: TERM, after the grace period KILL.
    pub(crate) async fn kill(&self, exec_id: &str, grace: Duration) -> Result<(), GuestError> {
        let request = KillRequest {
            exec_id: exec_id.to_owned(),
            signal: 0,
            grace_ms: grace.as_millis() as u64,
        };
        within(CALL + grace, self.0.clone().kill(request)).await.map(drop)
    }

    pub(crate) async fn release(&self, exec_id: &str) -> Result<(), GuestError> {
        within(
            CALL,
            self.0.clone().release(ReleaseRequest {
                exec_id: exec_id.to_owned(),
            }),
        )
        .await
        .map(drop)
    }

    /// The programs that the guest knows.
    pub(crate) async fn execs(&self) -> Result<Vec<ExecInfo>, GuestError> {
        let reply = within(CALL, self.0.clone().list_execs(ListExecsRequest {})).await?;
        Ok(reply.execs)
    }

    /// The same, by name, each with the number of its last piece of output.
    pub(crate) async fn programs(&self) -> Result<BTreeMap<String, u64>, GuestError> {
        let execs = self.execs().await?.into_iter();
        Ok(execs.map(|exec| (exec.exec_id, exec.last_seq)).collect())
    }

    /// Gives a program what it reads, as soon as it reads it.
    pub(crate) async fn write_stdin(
        &self,
        exec_id: &str,
        data: Bytes,
        close: bool,
    ) -> Result<(), GuestError> {
        let request = WriteStdinRequest {
            exec_id: exec_id.to_owned(),
            data,
            close,
        };
        Ok(self.0.clone().write_stdin(request).await.map(drop)?)
    }

    /// Changes the size of a program's terminal.
    pub(crate) async fn resize(&self, exec_id: &str, rows: u32, columns: u32) -> Result<(), GuestError> {
        let request = ResizeRequest {
            exec_id: exec_id.to_owned(),
            rows,
            columns,
        };
        within(CALL, self.0.clone().resize(request)).await.map(drop)
    }

    /// Signals a program, or what runs in the foreground of its terminal.
    pub(crate) async fn signal(&self, exec_id: &str, signal: i32) -> Result<(), GuestError> {
        let request = KillRequest {
            exec_id: exec_id.to_owned(),
            signal,
            grace_ms: 0,
        };
        within(CALL, self.0.clone().kill(request)).await.map(drop)
    }

    /// What the guest tells of its sandbox: where the workspace and the gateway are.
    pub(crate) async fn configure(&self) -> Result<ConfigureReply, GuestError> {
        within(CALL, self.0.clone().configure(ConfigureRequest::default())).await
    }

    /// Copies a file into the sandbox; with `unpack` it is an archive whose content goes below `path`.
    pub(crate) async fn upload(&self, from: &Path, path: &str, unpack: bool) -> Result<(), GuestError> {
        let local = |error: io::Error| GuestError::Local(format!("cannot read {}: {error}", from.display()));
        let mut file = File::open(from).await.map_err(local)?;
        let (frames, receiver) = mpsc::channel(4);
        let header = UploadHeader {
            path: path.to_owned(),
            tar: unpack,
            mode: 0o600,
        };
        let send = async move {
            let mut frame = UploadFrame {
                header: Some(header),
                ..UploadFrame::default()
            };
            loop {
                let end = frame.end;
                // The receiver goes when the call has failed, which its own result tells.
                if frames.send(frame).await.is_err() || end {
                    return Ok::<_, GuestError>(());
                }
                let mut piece = vec![0; PIECE];
                let n = file.read(&mut piece).await.map_err(local)?;
                piece.truncate(n);
                frame = UploadFrame {
                    header: None,
                    data: piece.into(),
                    end: n == 0,
                };
            }
        };
        let mut client = self.0.clone();
        let call = within(TRANSFER, client.upload(ReceiverStream::new(receiver)));
        let (sent, received) = tokio::join!(send, call);
        sent?;
        received.map(drop)
    }

    /// Copies a file out of the sandbox into a new one, or an archive of what is there of `members` below `path`.
    /// More than `limit` bytes are refused, and so is a transfer that takes for ever: nothing else would end it.
    pub(crate) async fn download(
        &self,
        path: &str,
        members: &[&str],
        to: &Path,
        limit: u64,
    ) -> Result<u64, GuestError> {
        self.download_within(TRANSFER, path, members, to, limit).await
    }

    async fn download_within(
        &self,
        patience: Duration,
        path: &str,
        members: &[&str],
        to: &Path,
        limit: u64,
    ) -> Result<u64, GuestError> {
        tokio::time::timeout(patience, self.download_all(path, members, to, limit))
            .await
            .map_err(|_| GuestError::Refused(format!("{path} was not copied within {patience:?}")))?
    }

    async fn download_all(
        &self,
        path: &str,
        members: &[&str],
        to: &Path,
        limit: u64,
    ) -> Result<u64, GuestError> {
        let local = |error: io::Error| GuestError::Local(format!("cannot write {}: {error}", to.display()));
        let request = DownloadRequest {
            path: path.to_owned(),
            tar: !members.is_empty(),
            members: members.iter().map(|&member| member.to_owned()).collect(),
        };
        let mut frames = within(CALL, self.0.clone().download(request)).await?;
        let mut file = File::create(to).await.map_err(local)?;
        let mut size = 0;
        loop {
            let frame = match tokio::time::timeout(PIECE_LIMIT, frames.message()).await {
                Ok(frame) => frame?,
                Err(_) => return Err(GuestError::Unreachable("a download stands still".into())),
            };
            let Some(frame) = frame else { break };
            size += frame.data.len() as u64;
            if size > limit {
                return Err(GuestError::Refused(format!(
                    "{path} is larger than {limit} bytes"
                )));
            }
            file.write_all(&frame.data).await.map_err(local)?;
        }
        file.sync_all().await.map_err(local)?;
        Ok(size)
    }

    /// Copies the files that match out of the sandbox, as an archive in a file. What of them is not in it the answer
    /// says. A transfer that takes for ever is refused: nothing else would end it.
    pub(crate) async fn collect(
        &self,
        request: CollectRequest,
        to: &mut File,
    ) -> Result<CollectSummary, GuestError> {
        tokio::time::timeout(TRANSFER, self.collect_all(request, to))
            .await
            .map_err(|_| GuestError::Refused(format!("the files were not copied within {TRANSFER:?}")))?
    }

    async fn collect_all(
        &self,
        request: CollectRequest,
        to: &mut File,
    ) -> Result<CollectSummary, GuestError> {
        let local = |error: io::Error| GuestError::Local(format!("the files cannot be written: {error}"));
        // An archive is larger than what is in it, by this for each file at most, names included.
        let files = if request.max_files == 0 {
            MOST_FILES
        } else {
            request.max_files
        };
        let limit = match request.max_total {
            0 => u64::MAX,
            bytes => bytes.saturating_add(files.saturating_add(1).saturating_mul(ARCHIVED)),
        };
        let mut frames = within(CALL, self.0.clone().collect(request)).await?;
        let mut size = 0;
        loop {
            let frame = match tokio::time::timeout(PIECE_LIMIT, frames.message()).await {
                Ok(frame) => frame?,
                Err(_) => return Err(GuestError::Unreachable("the copy of files stands still".into())),
            };
            let Some(frame) = frame else {
                return Err(GuestError::Unreachable("the copy of files broke off".into()));
            };
            size += frame.data.len() as u64;
            if size > limit {
                return Err(GuestError::Refused(format!(
                    "the files are larger than {limit} bytes"
                )));
            }
            to.write_all(&frame.data).await.map_err(local)?;
            if let Some(summary) = frame.summary {
                to.flush().await.map_err(local)?;
                return Ok(summary);
            }
        }
    }

    /// The connections that programs in the sandbox make to the guest's listeners.
    pub(crate) async fn accept(&self) -> Result<Streaming<Incoming>, GuestError> {
        within(CALL, self.0.clone().accept(AcceptRequest {})).await
    }

    /// The bytes of one such connection, as a stream that ends when the other side or the sandbox does.
    pub(crate) async fn tunnel(&self, connection_id: u64) -> Result<DuplexStream, GuestError> {
        let (ours, theirs) = tokio::io::duplex(PIECE);
        let (mut from_us, mut to_us) = tokio::io::split(theirs);
        let (frames, receiver) = mpsc::channel(4);
        let first = TunnelFrame {
            connection_id,
            ..TunnelFrame::default()
        };
        // The channel is new and has room.
        let _ = frames.try_send(first);
        let mut replies = within(CALL, self.0.clone().tunnel(ReceiverStream::new(receiver))).await?;
        tokio::spawn(async move {
            let out = async {
                loop {
                    let mut piece = vec![0; PIECE];
                    let n = from_us.read(&mut piece).await.unwrap_or(0);
                    piece.truncate(n);
                    let frame = TunnelFrame {
                        data: piece.into(),
                        end: n == 0,
                        ..TunnelFrame::default()
                    };
                    if frames.send(frame).await.is_err() || n == 0 {
                        return;
                    }
                }
            };
            // To the end of the reply: one that is dropped cancels the call, and what is on its way is lost.
            let back = async {
                while let Ok(Some(frame)) = replies.message().await {
                    if to_us.write_all(&frame.data).await.is_err() {
                        return;
                    }
                    if frame.end {
                        let _ = to_us.shutdown().await;
                    }
                }
                let _ = to_us.shutdown().await;
            };
            tokio::join!(out, back);
        });
        Ok(ours)
    }

    pub(crate) async fn healthy(&self) -> bool {
        self.check(CALL).await.is_ok()
    }

    /// Fails when it does not answer in time.
    pub(crate) async fn check(&self, limit: Duration) -> Result<(), GuestError> {
        within(limit, self.0.clone().health(HealthRequest {}))
            .await
            .map(drop)
    }

    /// Gives a machine that was restored from a snapshot what it must not share with others of it: the time, its own
    /// randomness, a name, an address on its network. That it has other randomness is a condition; the rest is told to the
    /// log where it cannot be.
    pub(crate) async fn renew(&self, hostname: &str) -> Result<(), GuestError> {
        let seed: [u8; 64] = rand::random();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let request = RenewRequest {
            unix_us: now.map_or(0, |since| since.as_micros() as i64),
            seed: seed.to_vec().into(),
            hostname: hostname.to_owned(),
            hardware_address: hardware_address().to_vec().into(),
        };
        let reply = within(CALL, self.0.clone().renew(request)).await?;
        if !reply.random {
            return Err(GuestError::Refused(format!(
                "its randomness is that of the snapshot: {}",
                reply.refused.join("; ")
            )));
        }
        if !reply.refused.is_empty() {
            tracing::warn!(hostname, refused = ?reply.refused, "a restored machine is not renewed in full");
        }
        Ok(())
    }

    /// Whether a program is being executed.
    pub(crate) async fn is_busy(&self) -> Result<bool, GuestError> {
        Ok(self.execs().await?.iter().any(|program| program.running))
    }

    /// What the programs have used, as the guest counts it.
    pub(crate) async fn usage(&self) -> Result<Usage, GuestError> {
        let counted = within(CALL, self.0.clone().metrics(MetricsRequest {})).await?;
        Ok(Usage {
            cpu_us: Some(counted.cpu_user_us + counted.cpu_system_us),
            memory_bytes: Some(counted.memory_bytes),
            read_bytes: Some(counted.read_bytes),
            written_bytes: Some(counted.written_bytes),
            received_bytes: Some(counted.received_bytes),
            sent_bytes: Some(counted.sent_bytes),
            processes: Some(counted.processes),
        })
    }
}

/// A random one that is nobody's product and no group's.
fn hardware_address() -> [u8; 6] {
    let mut address: [u8; 6] = rand::random();
    address[0] = address[0] & 0xfc | 2;
    address
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, GuestError> {
    match tokio::time::timeout(limit, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(GuestError::Unreachable(format!("no answer within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A guest that answers every call with frames without end.
    fn endless(frame: Bytes) -> Guest {
        use hyper_util::rt::TokioExecutor;
        let connector = tower::service_fn(move |_| {
            let frame = frame.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(PIECE);
                let answer = hyper::service::service_fn(move |_| {
                    let frame = frame.clone();
                    let frames = tokio_stream::StreamExt::throttle(
                        tokio_stream::iter(std::iter::repeat_with(move || {
                            Ok::<_, Infallible>(frame.clone())
                        })),
                        Duration::from_millis(5),
                    );
                    let body = axum::body::Body::from_stream(frames);
                    let response = http::Response::builder().header("content-type", "application/grpc");
                    async move { response.body(body) }
                });
                tokio::spawn(async move {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(theirs), answer)
                        .await
                });
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        Guest(GuestClient::new(
            Endpoint::from_static("http://guest").connect_with_connector_lazy(connector),
        ))
    }

    #[tokio::test]
    async fn a_download_that_never_ends_is_ended() {
        // An empty frame: always something new, never more bytes.
        let guest = endless(Bytes::from_static(&[0, 0, 0, 0, 0]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let patience = Duration::from_millis(300);
        let download = guest.download_within(patience, "/x", &[], &path, 1000);
        let error = tokio::time::timeout(patience * 20, download)
            .await
            .expect("in time")
            .unwrap_err();
        assert!(error.to_string().contains("was not copied"), "{error}");
    }
}
