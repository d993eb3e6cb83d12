//! Engines on machines that are reached by ssh.
//!
//! Every connection is a process of the system's `ssh`, at the other end of which `docker system dial-stdio` passes the
//! bytes on to the engine, as the `docker` command does it. So what the user has set up for ssh counts, and there is no
//! tunnel to look after. The key of the machine must be known before: nobody is there to be asked.

use crate::transport::{self, Connecting};
use ostler_sandbox::ByteStream;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

/// Longest wait for a connection with an engine that answers; ssh itself gives up the network a little earlier, and says
/// why.
const CONNECT: Duration = Duration::from_secs(9);
const CONNECT_SECONDS: u32 = 7;
/// Connections that are made at once: a server of ssh refuses more than some ten that have not signed in yet.
const AT_ONCE: usize = 4;
/// Most that is read before the engine's first answer, bytes.
const HEAD: usize = 16 << 10;
/// Most of a complaint that is kept, bytes.
const COMPLAINT: u64 = 4 << 10;
/// Longest wait for a complaint of an ssh that has failed.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What ssh is given of the environment: the rest holds keys that are none of its business.
const ENVIRONMENT: [&str; 9] = [
    "HOME",
    "KRB5CCNAME",
    "LANG",
    "LOGNAME",
    "PATH",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// A machine as ssh knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl Destination {
    /// From `[USER@]HOST[:PORT]`; `None` for anything else, such as what ssh could take for an option.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let authority: http::uri::Authority = text.strip_suffix('/').unwrap_or(text).parse().ok()?;
        let (user, place) = match authority.as_str().rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority.as_str()),
        };
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16();
        let named = |text: &str| {
            !text.starts_with('-')
                && !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._:%".contains(&b))
        };
        let fits = named(host)
            && user.is_none_or(|user| named(user) && !user.contains(':'))
            && (port.is_some() || place == authority.host());
        fits.then(|| Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        })
    }
}

/// What makes connections.
#[derive(Clone)]
pub(crate) struct Ssh {
    destination: Arc<Destination>,
    turns: Arc<Semaphore>,
}

impl Ssh {
    pub(crate) fn new(destination: Destination) -> Self {
        Self {
            destination: Arc::new(destination),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// A client that makes its requests here.
    pub(crate) fn client(self, limit: Duration) -> Result<bollard::Docker, bollard::errors::Error> {
        let connect = move |_| -> Connecting {
            let ssh = self.clone();
            Box::pin(async move { ssh.connect().await })
        };
        // Where requests go is what the connection says.
        transport::client(connect, "http://docker".to_owned(), limit)
    }

    async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        let mut session = Session::start(&self.destination)?;
        let failed = match tokio::time::timeout(CONNECT, session.greet()).await {
            Ok(Ok(())) => return Ok(Box::new(session)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no engine answered within {CONNECT:?}"),
        };
        Err(io::Error::other(session.complaint().await.unwrap_or(failed)))
    }
}

/// A connection. The process ends with it.
struct Session {
    /// Killed when it is dropped.
    _child: Child,
    /// Until this end says no more.
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: Option<ChildStderr>,
}

impl Session {
    fn start(to: &Destination) -> io::Result<Self> {
        let mut command = Command::new("ssh");
        command
            .env_clear()
            .envs(
                ENVIRONMENT
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .args([
                "-T",
                "-a",
                "-x",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            // A connection that others share would end with theirs.
            .args(["-o", "ControlPath=none", "-o", "ClearAllForwardings=yes"])
            .args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"])
            .args(["-o", &format!("ConnectTimeout={CONNECT_SECONDS}")]);
        if let Some(user) = &to.user {
            command.args(["-l", user]);
        }
        if let Some(port) = to.port {
            command.args(["-p", &port.to_string()]);
        }
        command
            .args(["--", &to.host, "docker", "system", "dial-stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for the server, which may need the engine to tidy up.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("there is no `ssh` here: install it (`apt-get install openssh-client`)")
            }
            _ => io::Error::other(format!("ssh does not start: {error}")),
        })?;
        let none = || io::Error::other("ssh was started without its pipes");
        Ok(Self {
            input: Some(child.stdin.take().ok_or_else(none)?),
            output: child.stdout.take().ok_or_else(none)?,
            errors: child.stderr.take(),
            _child: child,
        })
    }

    /// Waits for a first answer of the engine, which has no body. What a shell there may say before is skipped.
    async fn greet(&mut self) -> io::Result<()> {
        self.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
            .await?;
        self.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == HEAD {
                return Err(io::Error::other("what answers is no engine"));
            }
            head.push(self.output.read_u8().await?);
        }
        if !String::from_utf8_lossy(&head).contains("HTTP/1.") {
            return Err(io::Error::other("what answers is no engine"));
        }
        // Nobody reads on; a program that says much must not be held up.
        if let Some(mut errors) = self.errors.take() {
            tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        }
        Ok(())
    }

    /// What ssh, or `docker` at the other end, has to say about its failure.
    async fn complaint(mut self) -> Option<String> {
        drop(self.input.take());
        let mut errors = self.errors.take()?.take(COMPLAINT);
        let mut said = Vec::new();
        let _ended = tokio::time::timeout(LAST_WORDS, errors.read_to_end(&mut said)).await;
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        (!lines.is_empty()).then(|| lines.join(" "))
    }
}

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buf)
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only then does the other end hear of it.
        self.input = None;
        Poll::Ready(Ok(()))
    }
}
