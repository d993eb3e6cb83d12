//! The guest protocol over the parts of this crate.

use crate::exec::{Execs, home};
use crate::output::{Cursor, Next};
use crate::tunnels::Tunnels;
use crate::{collect, files, lock, processes, renew};
use futures::stream::{BoxStream, StreamExt};
use ostler_guest_protocol::GENERATION;
use ostler_guest_protocol::v1;
use ostler_guest_protocol::v1::guest_server::Guest;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Longest grace period that a caller may give.
const MOST_GRACE: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) started: Instant,
    pub(crate) workspace: PathBuf,
    pub(crate) gateway_url: String,
    pub(crate) egress_url: String,
    pub(crate) execs: Arc<Execs>,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) end: CancellationToken,
}

type Reply<T> = Result<Response<T>, Status>;

fn grace(ms: u64) -> Duration {
    Duration::from_millis(ms).min(MOST_GRACE)
}

#[tonic::async_trait]
impl Guest for Service {
    async fn health(&self, _request: Request<v1::HealthRequest>) -> Reply<v1::HealthReply> {
        Ok(Response::new(v1::HealthReply {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: GENERATION,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            execs: self.execs.count() as u32,
        }))
    }

    async fn configure(&self, request: Request<v1::ConfigureRequest>) -> Reply<v1::ConfigureReply> {
        let request = request.into_inner();
        if !request.hostname.is_empty() {
            nix::unistd::sethostname(&request.hostname).map_err(|error| {
                Status::failed_precondition(format!(
                    "the hostname cannot be `{}` here: {error}",
                    request.hostname
                ))
            })?;
        }
        if !request.env.is_empty() {
            *lock(&self.execs.env) = request.env.into_iter().collect();
        }
        let isolation = self.execs.can_isolate().await;
        Ok(Response::new(v1::ConfigureReply {
            can_isolate: isolation.is_ok(),
            cannot_isolate: isolation.err().unwrap_or_default(),
            gateway_url: self.gateway_url.clone(),
            workspace: self.workspace.display().to_string(),
            home: home(),
            egress_url: self.egress_url.clone(),
        }))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Reply<v1::StartReply> {
        let (pid, already_started) = self.execs.start(request.into_inner()).await?;
        Ok(Response::new(v1::StartReply { already_started, pid }))
    }

    type AttachStream = BoxStream<'static, Result<v1::ExecEvent, Status>>;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<Self::AttachStream> {
        let request = request.into_inner();
        let exec = self.execs.get(&request.exec_id)?;
        let newest = exec.output.watch();
        let state = (exec, newest, Cursor::at(request.from_seq));
        let events = futures::stream::unfold(state, |(exec, mut newest, mut cursor)| async move {
            loop {
                newest.mark_unchanged();
                match exec.output.next(&mut cursor) {
                    Next::Event(event) => return Some((Ok(event), (exec, newest, cursor))),
                    Next::End => return None,
                    Next::Wait => newest.changed().await.ok()?,
                }
            }
        });
        Ok(Response::new(events.boxed()))
    }

    async fn write_stdin(&self, request: Request<v1::WriteStdinRequest>) -> Reply<v1::WriteStdinReply> {
        let request = request.into_inner();
        let exec = self.execs.get(&request.exec_id)?;
        exec.write(request.data, request.close).await?;
        Ok(Response::new(v1::WriteStdinReply {}))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Reply<v1::KillReply> {
        let request = request.into_inner();
        let exec = self.execs.get(&request.exec_id)?;
        let signalled = if request.signal == 0 {
            exec.kill(grace(request.grace_ms)).await
        } else {
            exec.signal(request.signal)?
        };
        Ok(Response::new(v1::KillReply { signalled }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Reply<v1::ReleaseReply> {
        self.execs.release(&request.into_inner().exec_id)?;
        Ok(Response::new(v1::ReleaseReply {}))
    }

    async fn list_execs(&self, _request: Request<v1::ListExecsRequest>) -> Reply<v1::ListExecsReply> {
        Ok(Response::new(v1::ListExecsReply {
            execs: self.execs.list(),
        }))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadFrame>>) -> Reply<v1::UploadReply> {
        let bytes = files::upload(request.into_inner()).await?;
        Ok(Response::new(v1::UploadReply { bytes }))
    }

    type DownloadStream = BoxStream<'static, Result<v1::DownloadFrame, Status>>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Reply<Self::DownloadStream> {
        Ok(Response::new(
            files::download(request.into_inner()).await?.boxed(),
        ))
    }

    type AcceptStream = BoxStream<'static, Result<v1::Incoming, Status>>;

    async fn accept(&self, _request: Request<v1::AcceptRequest>) -> Reply<Self::AcceptStream> {
        Ok(Response::new(Arc::clone(&self.tunnels).accept().boxed()))
    }

    type TunnelStream = BoxStream<'static, Result<v1::TunnelFrame, Status>>;

    async fn tunnel(&self, request: Request<Streaming<v1::TunnelFrame>>) -> Reply<Self::TunnelStream> {
        Ok(Response::new(
            self.tunnels.carry(request.into_inner()).await?.boxed(),
        ))
    }

    async fn metrics(&self, _request: Request<v1::MetricsRequest>) -> Reply<v1::MetricsReply> {
        let usage = processes::usage();
        let (disk_bytes, disk_free_bytes) = processes::disk(&self.workspace);
        let (received_bytes, sent_bytes) = processes::network();
        Ok(Response::new(v1::MetricsReply {
            cpu_user_us: usage.user_us,
            cpu_system_us: usage.system_us,
            memory_bytes: usage.memory_bytes,
            processes: usage.processes,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
            received_bytes,
            sent_bytes,
            disk_bytes,
            disk_free_bytes,
        }))
    }

    async fn shutdown(&self, request: Request<v1::ShutdownRequest>) -> Reply<v1::ShutdownReply> {
        self.execs.end_all(grace(request.into_inner().grace_ms)).await;
        self.end.cancel();
        Ok(Response::new(v1::ShutdownReply {}))
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Reply<v1::ResizeReply> {
        let request = request.into_inner();
        let exec = self.execs.get(&request.exec_id)?;
        exec.resize(request.rows, request.columns)?;
        Ok(Response::new(v1::ResizeReply {}))
    }

    type CollectStream = BoxStream<'static, Result<v1::CollectFrame, Status>>;

    async fn collect(&self, request: Request<v1::CollectRequest>) -> Reply<Self::CollectStream> {
        let request = request.into_inner();
        let kept = if request.exec_id.is_empty() {
            Vec::new()
        } else {
            let exec = self.execs.get(&request.exec_id)?;
            let kept = exec
                .kept()
                .map_err(|error| Status::resource_exhausted(error.to_string()))?;
            if kept.is_empty() {
                return Err(Status::failed_precondition(format!(
                    "nothing is kept of {}: it was not started with keep_until_release",
                    request.exec_id
                )));
            }
            kept
        };
        let frames = collect::collect(&request, kept, &self.workspace)?;
        Ok(Response::new(frames.boxed()))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Reply<v1::RenewReply> {
        Ok(Response::new(renew::renew(&request.into_inner())))
    }
}
