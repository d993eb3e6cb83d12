//! A guest of a test's own, in a directory of its own.

use hyper_util::rt::TokioIo;
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{AttachRequest, ExecEvent, Exited, KillRequest, StartRequest};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) guest: Child,
    pub(crate) client: GuestClient<Channel>,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) dropped: u64,
    pub(crate) exited: Exited,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let guest = Command::new(env!("CARGO_BIN_EXE_ostler-guest"))
            .arg("--run")
            .arg(dir.path().join("run"))
            .arg("--workspace")
            .arg(dir.path().join("workspace"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.path().join("run/guest.sock");
        let end = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < end, "the guest does not listen");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let client = connect(socket).await;
        Self { dir, guest, client }
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    /// Another connection.
    pub(crate) async fn other(&self) -> GuestClient<Channel> {
        connect(self.dir.path().join("run/guest.sock")).await
    }

    pub(crate) async fn start(&mut self, id: &str, script: &str) -> i32 {
        let reply = self.client.start(sh(id, script)).await.unwrap();
        reply.into_inner().pid
    }

    pub(crate) async fn kill(&mut self, id: &str, grace: Duration) -> bool {
        let request = KillRequest {
            exec_id: id.to_owned(),
            signal: 0,
            grace_ms: grace.as_millis() as u64,
        };
        self.client.kill(request).await.unwrap().into_inner().signalled
    }

    /// Everything to the end.
    pub(crate) async fn end_of(&mut self, id: &str) -> Outcome {
        let request = AttachRequest {
            exec_id: id.to_owned(),
            from_seq: 1,
        };
        let mut events = self.client.attach(request).await.unwrap().into_inner();
        let mut outcome = Outcome::default();
        let mut expected = 1;
        let all = async {
            while let Some(ExecEvent { seq, event, .. }) = events.message().await.unwrap() {
                match event.unwrap() {
                    Event::Dropped(up_to) => {
                        outcome.dropped = up_to;
                        expected = up_to;
                    }
                    Event::Stdout(data) => outcome.stdout += &String::from_utf8_lossy(&data),
                    Event::Stderr(data) => outcome.stderr += &String::from_utf8_lossy(&data),
                    Event::Exited(exited) => outcome.exited = exited,
                }
                assert_eq!(seq, expected, "a gap");
                expected += 1;
            }
        };
        tokio::time::timeout(LIMIT, all).await.unwrap();
        outcome
    }

    pub(crate) async fn run(&mut self, id: &str, script: &str) -> Outcome {
        self.start(id, script).await;
        self.end_of(id).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // By TERM, so that its programs end as well.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.guest.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.guest.wait();
    }
}

async fn connect(socket: PathBuf) -> GuestClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://guest")
        .connect_with_connector(connector)
        .await
        .unwrap();
    GuestClient::new(channel)
}

pub(crate) fn sh(id: &str, script: &str) -> StartRequest {
    StartRequest {
        exec_id: id.to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..StartRequest::default()
    }
}

/// A number of seconds that no other process sleeps.
pub(crate) fn odd_seconds() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}.{next}", 100_000 + std::process::id())
}

/// How many processes of this machine sleep for so long.
pub(crate) fn sleepers(seconds: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line == format!("sleep\0{seconds}\0").as_bytes())
        .count()
}

pub(crate) async fn eventually(mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if what() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
