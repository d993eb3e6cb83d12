//! The guest protocol, served for simulated programs.

use crate::control::{SimControl, lock};
use crate::exec::{Exec, Next};
use crate::files::Files;
use crate::programs::Invocation;
use crate::tunnel::Connections;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use ostler_domain::SandboxId;
use ostler_guest_protocol::GENERATION;
use ostler_guest_protocol::v1::guest_server::Guest;
use ostler_guest_protocol::v1::{self, Exited};
use ostler_sandbox::ExitInfo;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const KILL: i32 = 9;
const TERM: i32 = 15;
/// Pieces of standard input that wait for the program.
const STDIN: usize = 16;
/// Bytes in one frame.
const FRAME: usize = 64 * 1024;

#[derive(Clone)]
pub(crate) struct SimGuest(Arc<Inner>);

struct Inner {
    id: SandboxId,
    control: SimControl,
    started: Instant,
    env: BTreeMap<String, String>,
    configured: Mutex<BTreeMap<String, String>>,
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    next_pid: AtomicI32,
    files: Files,
    connections: Connections,
    paused: watch::Receiver<bool>,
    end: CancellationToken,
}

impl SimGuest {
    pub(crate) fn new(
        id: SandboxId,
        control: SimControl,
        template_env: BTreeMap<String, String>,
        paused: watch::Receiver<bool>,
        end: CancellationToken,
    ) -> Self {
        let mut env: BTreeMap<String, String> = [("PATH", "/usr/bin"), ("HOME", "/home/agent")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        env.extend(template_env);
        env.insert("OSTLER_SANDBOX".into(), id.to_string());
        Self(Arc::new(Inner {
            id,
            control,
            started: Instant::now(),
            env,
            configured: Mutex::default(),
            execs: Mutex::default(),
            next_pid: AtomicI32::new(2),
            files: Files::default(),
            connections: Connections::new(),
            paused,
            end,
        }))
    }

    /// Waits while the sandbox is paused, as a frozen guest would not answer.
    async fn thawed(&self) {
        let mut paused = self.0.paused.clone();
        // An error means that the sandbox is gone, and this connection with it.
        let _gone = paused.wait_for(|paused| !paused).await;
    }

    /// The first one and those that run.
    pub(crate) fn processes(&self) -> u32 {
        1 + lock(&self.0.execs).values().filter(|e| e.running()).count() as u32
    }

    fn exec(&self, exec_id: &str) -> Result<Arc<Exec>, Status> {
        lock(&self.0.execs)
            .get(exec_id)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("no program was started as {exec_id}")))
    }

    /// Runs a program to its end, to a signal or to the end of the sandbox.
    fn run(&self, request: v1::StartRequest, exec: Arc<Exec>, stdin: mpsc::Receiver<Bytes>) {
        let name = request.argv.first().cloned().unwrap_or_default();
        let Some(program) = self.0.control.find_program(&name) else {
            exec.end(Exited {
                code: 127,
                start_error: format!("{name}: there is no such program"),
                ..Exited::default()
            });
            return;
        };
        let mut env = self.0.env.clone();
        env.extend(lock(&self.0.configured).clone());
        env.extend(request.env);
        let running = program.run(Invocation {
            argv: request.argv,
            env,
            cwd: if request.cwd.is_empty() {
                "/workspace".into()
            } else {
                request.cwd
            },
            files: self.0.files.clone(),
            stdin,
            exec: exec.clone(),
            paused: self.0.paused.clone(),
            connections: self.0.connections.clone(),
        });
        let deadly = move |signal: &i32| *signal != 0 && !(program.ignores_term && *signal == TERM);
        let mut signals = exec.signal.subscribe();
        let end = self.0.end.clone();
        tokio::spawn(async move {
            let exited = tokio::select! {
                code = running => Exited { code, ..Exited::default() },
                // The sender lives as long as `exec`, which this task holds.
                Ok(signal) = signals.wait_for(deadly) => Exited { signal: *signal, ..Exited::default() },
                () = end.cancelled() => Exited { signal: KILL, ..Exited::default() },
            };
            exec.end(exited);
        });
    }
}

const NOT_ISOLATED: &str = "programs of simulated sandboxes share its files";

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Guest for SimGuest {
    async fn health(&self, _request: Request<v1::HealthRequest>) -> Reply<v1::HealthReply> {
        self.thawed().await;
        if self.0.control.is_unhealthy() {
            return Err(Status::unavailable("the guest was ordered to be unhealthy"));
        }
        Ok(Response::new(v1::HealthReply {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: GENERATION,
            uptime_ms: self.0.started.elapsed().as_millis() as u64,
            execs: lock(&self.0.execs).len() as u32,
        }))
    }

    async fn configure(&self, request: Request<v1::ConfigureRequest>) -> Reply<v1::ConfigureReply> {
        self.thawed().await;
        *lock(&self.0.configured) = request.into_inner().env.into_iter().collect();
        Ok(Response::new(v1::ConfigureReply {
            // Simulated programs use `Invocation::connect`; no port is listened on.
            gateway_url: "http://127.0.0.1:0".into(),
            workspace: "/workspace".into(),
            home: "/home/agent".into(),
            egress_url: "http://127.0.0.1:0".into(),
            can_isolate: false,
            cannot_isolate: NOT_ISOLATED.into(),
        }))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Reply<v1::StartReply> {
        self.thawed().await;
        let request = request.into_inner();
        if request.isolation.is_some() {
            return Err(Status::failed_precondition(NOT_ISOLATED));
        }
        if request.exec_id.is_empty() || request.argv.is_empty() {
            return Err(Status::invalid_argument("exec_id and argv are needed"));
        }
        let (input, stdin) = mpsc::channel(STDIN);
        let exec = {
            let mut execs = lock(&self.0.execs);
            if let Some(exec) = execs.get(&request.exec_id) {
                return Ok(Response::new(v1::StartReply {
                    already_started: true,
                    pid: exec.pid,
                }));
            }
            let pid = self.0.next_pid.fetch_add(1, Ordering::Relaxed);
            if !request.stdin.is_empty() {
                // The channel is new and has room.
                let _has_room = input.try_send(request.stdin.clone());
            }
            let open = request.stdin_open.then_some(input);
            let exec = Arc::new(Exec::new(pid, &request, open));
            execs.insert(request.exec_id.clone(), exec.clone());
            exec
        };
        let pid = exec.pid;
        self.run(request, exec, stdin);
        Ok(Response::new(v1::StartReply {
            already_started: false,
            pid,
        }))
    }

    type AttachStream = BoxStream<'static, Result<v1::ExecEvent, Status>>;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<Self::AttachStream> {
        let request = request.into_inner();
        let exec = self.exec(&request.exec_id)?;
        let guest = self.clone();
        let stream = async_stream::stream! {
            let mut newest = exec.watch();
            let mut seq = request.from_seq.max(1);
            loop {
                newest.mark_unchanged();
                guest.thawed().await;
                match exec.next(seq) {
                    Next::Event(event) => {
                        seq = event.seq + 1;
                        yield Ok(event);
                    }
                    Next::End => return,
                    Next::Wait => {
                        if newest.changed().await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        Ok(Response::new(stream.boxed()))
    }

    async fn write_stdin(&self, request: Request<v1::WriteStdinRequest>) -> Reply<v1::WriteStdinReply> {
        self.thawed().await;
        let request = request.into_inner();
        let exec = self.exec(&request.exec_id)?;
        let input = lock(&exec.stdin).clone();
        let Some(input) = input else {
            return Err(Status::failed_precondition("standard input is closed"));
        };
        if !request.data.is_empty() && input.send(request.data).await.is_err() {
            return Err(Status::failed_precondition("the program no longer reads"));
        }
        if request.close {
            lock(&exec.stdin).take();
        }
        Ok(Response::new(v1::WriteStdinReply {}))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Reply<v1::KillReply> {
        self.thawed().await;
        let request = request.into_inner();
        let exec = self.exec(&request.exec_id)?;
        let signalled = exec.running();
        if request.signal == 0 {
            exec.signal.send_replace(TERM);
            let end = Instant::now() + Duration::from_millis(request.grace_ms);
            let mut newest = exec.watch();
            while exec.running() && tokio::time::timeout_at(end, newest.changed()).await.is_ok() {}
            exec.signal.send_replace(KILL);
        } else {
            exec.signal.send_replace(request.signal);
        }
        Ok(Response::new(v1::KillReply { signalled }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Reply<v1::ReleaseReply> {
        self.thawed().await;
        let exec_id = request.into_inner().exec_id;
        let mut execs = lock(&self.0.execs);
        if execs.get(&exec_id).is_some_and(|e| e.running()) {
            return Err(Status::failed_precondition("the program still runs"));
        }
        execs.remove(&exec_id);
        Ok(Response::new(v1::ReleaseReply {}))
    }

    async fn list_execs(&self, _request: Request<v1::ListExecsRequest>) -> Reply<v1::ListExecsReply> {
        self.thawed().await;
        let execs = lock(&self.0.execs).iter().map(|(id, e)| e.info(id)).collect();
        Ok(Response::new(v1::ListExecsReply { execs }))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadFrame>>) -> Reply<v1::UploadReply> {
        self.thawed().await;
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap_or_default();
        let header = first
            .header
            .ok_or_else(|| Status::invalid_argument("the first frame must hold the header"))?;
        if !header.path.starts_with('/') {
            return Err(Status::invalid_argument("the path must be absolute"));
        }
        let mut content = first.data.to_vec();
        let mut end = first.end;
        while !end {
            let next = frames.message().await?;
            let frame = next.ok_or_else(|| Status::cancelled("the upload broke off"))?;
            content.extend_from_slice(&frame.data);
            end = frame.end;
        }
        let bytes = content.len() as u64;
        if header.tar {
            self.0
                .files
                .unpack(&header.path, &content)
                .map_err(|e| Status::invalid_argument(format!("not a tar archive: {e}")))?;
        } else {
            let mode = if header.mode == 0 { 0o644 } else { header.mode };
            self.0.files.write(&header.path, content, mode);
        }
        Ok(Response::new(v1::UploadReply { bytes }))
    }

    type DownloadStream = BoxStream<'static, Result<v1::DownloadFrame, Status>>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Reply<Self::DownloadStream> {
        self.thawed().await;
        let request = request.into_inner();
        let content = if request.tar {
            self.0
                .files
                .pack(&request.path, &request.members)
                .map_err(|e| Status::internal(e.to_string()))?
        } else {
            self.0
                .files
                .read(&request.path)
                .ok_or_else(|| Status::not_found(format!("{}: there is no such file", request.path)))?
        };
        let mut content = Bytes::from(content);
        let frames = std::iter::from_fn(move || {
            (!content.is_empty()).then(|| {
                Ok(v1::DownloadFrame {
                    data: content.split_to(content.len().min(FRAME)),
                })
            })
        });
        Ok(Response::new(
            futures::stream::iter(frames.collect::<Vec<_>>()).boxed(),
        ))
    }

    type AcceptStream = BoxStream<'static, Result<v1::Incoming, Status>>;

    async fn accept(&self, _request: Request<v1::AcceptRequest>) -> Reply<Self::AcceptStream> {
        Ok(Response::new(self.0.connections.announcements().map(Ok).boxed()))
    }

    type TunnelStream = BoxStream<'static, Result<v1::TunnelFrame, Status>>;

    async fn tunnel(&self, request: Request<Streaming<v1::TunnelFrame>>) -> Reply<Self::TunnelStream> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap_or_default();
        let stream = self
            .0
            .connections
            .take(first.connection_id)
            .ok_or_else(|| Status::not_found("no such connection waits"))?;
        let (mut read, mut write) = tokio::io::split(stream);
        let end = self.0.end.clone();
        tokio::spawn(async move {
            let copy = async {
                let mut frame = Some(first);
                while let Some(now) = frame {
                    if write.write_all(&now.data).await.is_err() || now.end {
                        break;
                    }
                    frame = frames.message().await.unwrap_or(None);
                }
                // The program may have closed its side already.
                let _closed = write.shutdown().await;
            };
            tokio::select! {
                () = copy => {}
                () = end.cancelled() => {}
            }
        });
        let replies = async_stream::stream! {
            let mut buffer = vec![0; FRAME];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                yield Ok(v1::TunnelFrame {
                    data: Bytes::copy_from_slice(&buffer[..count]),
                    ..v1::TunnelFrame::default()
                });
            }
            yield Ok(v1::TunnelFrame { end: true, ..v1::TunnelFrame::default() });
        };
        Ok(Response::new(replies.boxed()))
    }

    async fn metrics(&self, _request: Request<v1::MetricsRequest>) -> Reply<v1::MetricsReply> {
        self.thawed().await;
        Ok(Response::new(v1::MetricsReply {
            processes: self.processes(),
            ..v1::MetricsReply::default()
        }))
    }

    async fn shutdown(&self, _request: Request<v1::ShutdownRequest>) -> Reply<v1::ShutdownReply> {
        self.thawed().await;
        let (control, id) = (self.0.control.clone(), self.0.id);
        // After the reply has had time to leave.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            control.crash(
                id,
                ExitInfo {
                    code: Some(0),
                    ..ExitInfo::default()
                },
            );
        });
        Ok(Response::new(v1::ShutdownReply {}))
    }

    /// Simulated programs do not ask for the size of their terminal.
    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Reply<v1::ResizeReply> {
        self.thawed().await;
        let exec = self.exec(&request.into_inner().exec_id)?;
        if !exec.terminal {
            return Err(Status::failed_precondition("the program has no terminal"));
        }
        Ok(Response::new(v1::ResizeReply {}))
    }

    type CollectStream = BoxStream<'static, Result<v1::CollectFrame, Status>>;

    async fn collect(&self, _request: Request<v1::CollectRequest>) -> Reply<Self::CollectStream> {
        Err(Status::failed_precondition(
            "files of simulated sandboxes are not collected",
        ))
    }

    /// A simulated machine has the clock and the random numbers of this one.
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Reply<v1::RenewReply> {
        self.thawed().await;
        let request = request.into_inner();
        let mut reply = v1::RenewReply::default();
        for (asked, what) in [
            (request.unix_us != 0, "the clock"),
            (!request.seed.is_empty(), "the random numbers"),
            (!request.hostname.is_empty(), "the host name"),
            (!request.hardware_address.is_empty(), "the network interface"),
        ] {
            if asked {
                reply
                    .refused
                    .push(format!("a simulated machine shares {what} with its host"));
            }
        }
        Ok(Response::new(reply))
    }
}
