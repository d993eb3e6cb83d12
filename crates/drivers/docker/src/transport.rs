//! Requests to an engine that is not behind a socket of this host.
//!
//! bollard has a transport for TLS, which trusts every public authority beside the one that is given, and makes a new
//! connection for each call. This one trusts only what it is given, keeps connections, and notices a host that is gone.

use crate::options::TlsFiles;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ostler_sandbox::ByteStream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tower::Service;

/// Longest wait for a connection, and for the handshake on it.
const CONNECT: Duration = Duration::from_secs(10);
/// A silent connection is asked whether the other end is there, so often and then after such waits.
const PROBES: u32 = 3;
const SILENCE: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
/// How long an unused connection is kept, and how many.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 4;

/// How an engine at a port is reached.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) host: String,
    pub(crate) number: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Port {
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn authority(&self) -> String {
        let Self { host, number, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{number}")
        } else {
            format!("{host}:{number}")
        }
    }

    /// A client that makes its requests here.
    pub(crate) fn client(&self, limit: Duration) -> Result<bollard::Docker, bollard::errors::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(SILENCE));
        tcp.set_keepalive_interval(Some(PROBE));
        tcp.set_keepalive_retries(Some(PROBES));
        let port = self.clone();
        let connect = move |uri: http::Uri| -> Connecting {
            let (mut tcp, port) = (tcp.clone(), port.clone());
            Box::pin(async move {
                std::future::poll_fn(|cx| tcp.poll_ready(cx))
                    .await
                    .map_err(io::Error::other)?;
                let stream = tcp.call(uri).await.map_err(io::Error::other)?.into_inner();
                let stream: Box<dyn ByteStream> = match &port.tls {
                    Some(config) => Box::new(secure(config, &port.host, stream).await?),
                    None => Box::new(stream),
                };
                Ok(stream)
            })
        };
        client(
            connect,
            format!("{}://{}", self.scheme(), self.authority()),
            limit,
        )
    }

    /// Asks for anything, to hear whether the engine accepts this server's certificate: it says so only after the handshake,
    /// when a client of HTTP would take the closed connection for an accident and try again without an end.
    pub(crate) async fn greet(&self) -> io::Result<()> {
        let Some(config) = &self.tls else { return Ok(()) };
        let greeted = async {
            let tcp = tokio::net::TcpStream::connect((self.host.as_str(), self.number)).await?;
            let mut stream = secure(config, &self.host, tcp).await?;
            stream
                .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
                .await?;
            stream.read_u8().await.map(drop)
        };
        tokio::time::timeout(CONNECT, greeted).await?
    }

    /// The certificate that the engine shows, which is one that is trusted; `None` without TLS.
    pub(crate) async fn certificate(&self) -> io::Result<Option<CertificateDer<'static>>> {
        let Some(config) = &self.tls else { return Ok(None) };
        let connect = tokio::net::TcpStream::connect((self.host.as_str(), self.number));
        let tcp = tokio::time::timeout(CONNECT, connect).await??;
        let stream = secure(config, &self.host, tcp).await?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        Ok(shown.map(|certificate| certificate.clone().into_owned()))
    }
}

/// A connection that is being made.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// A client whose connections are made in the given way, and kept for a while. `base` is what its requests go to.
pub(crate) fn client(
    connect: impl Fn(http::Uri) -> Connecting + Clone + Send + Sync + 'static,
    base: String,
    limit: Duration,
) -> Result<bollard::Docker, bollard::errors::Error> {
    let connect = tower::service_fn(move |uri| {
        let connecting = connect(uri);
        Box::pin(async move { connecting.await.map(|stream| Wire(TokioIo::new(stream))) })
    });
    let client: Client<_, _> = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(connect);
    let request = move |request| {
        let client = client.clone();
        async move { Ok(client.request(request).await?) }
    };
    bollard::Docker::connect_with_custom_transport(
        request,
        Some(base),
        limit.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
}

async fn secure<S: ByteStream>(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: S,
) -> io::Result<tokio_rustls::client::TlsStream<S>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    tokio::time::timeout(CONNECT, shaken).await?
}

/// What a client says and believes, given its files. Fails with what is wrong about which file.
pub(crate) fn tls(files: &TlsFiles) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots
            .add(certificate)
            .map_err(|e| format!("{}: {e}", files.ca.display()))?;
    }
    let own = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unreadable(&files.key, "a key", &e))?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .map_err(|e| {
            format!(
                "{} and {} do not belong together: {e}",
                files.cert.display(),
                files.key.display()
            )
        })
}

/// The certificates of a file, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable(file, "a certificate", &e))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    Ok(found)
}

fn unreadable(file: &Path, what: &str, error: &rustls::pki_types::pem::Error) -> String {
    format!("{what} cannot be read from {}: {error}", file.display())
}

/// A connection as hyper takes it.
struct Wire(TokioIo<Box<dyn ByteStream>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
