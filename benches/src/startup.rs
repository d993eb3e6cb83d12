//! P10: how fast the server is there, and what it holds while it has nothing to do.

use crate::probe::milliseconds;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

/// What one start showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// From the start of the process to the first answer of `/health`.
    pub(crate) ready_ms: f64,
    /// Resident memory after a while without requests.
    pub(crate) idle_mb: f64,
}

/// A server that answers. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    /// `http://…`
    pub(crate) address: String,
    ready_ms: f64,
    /// So that it never waits for a reader of its log.
    draining: JoinHandle<()>,
}

/// What of the environment must not steer the server.
const FOREIGN: [&str; 3] = ["ANTHROPIC_", "DOCKER_HOST", "OSTLER_"];

impl Running {
    /// Starts the server and asks it until it answers.
    pub(crate) async fn start(server: &Path, data: &Path, database: &str, more: &[&str]) -> Result<Self> {
        let began = Instant::now();
        let mut command = Command::new(server);
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--database",
                database,
                "--data",
            ])
            .arg(data)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if FOREIGN.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let mut child = command.spawn().with_context(|| {
            format!(
                "{} cannot be started; build it with `make build`",
                server.display()
            )
        })?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let ready = async {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await? {
                if let Some((_, rest)) = line.split_once("listens on http://") {
                    let address = rest.split(' ').next().unwrap_or_default();
                    health(address).await?;
                    return Ok((format!("http://{address}"), milliseconds(began.elapsed())));
                }
                said.push(line);
            }
            bail!("the server ended: {}", said.join(" | "))
        };
        let (address, ready_ms) = tokio::time::timeout(LIMIT, ready)
            .await
            .context("the server is not ready in time")??;
        let draining = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            address,
            ready_ms,
            draining,
        })
    }

    /// Its process.
    pub(crate) fn process(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("the server has ended")?;
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
        let status = tokio::time::timeout(LIMIT, self.child.wait())
            .await
            .context("the server does not stop")??;
        self.draining.abort();
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

/// Starts the server, leaves it alone for `rest` and stops it.
pub(crate) async fn start(server: &Path, data: &Path, database: &str, rest: Duration) -> Result<Start> {
    let running = Running::start(server, data, database, &[]).await?;
    tokio::time::sleep(rest).await;
    let idle_mb = resident(running.process()?)?;
    let ready_ms = running.ready_ms;
    running.stop().await?;
    Ok(Start { ready_ms, idle_mb })
}

async fn health(address: &str) -> Result<()> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "the server is not healthy: {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Megabytes that a process has in memory.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kilobytes / 1024.0)
}
