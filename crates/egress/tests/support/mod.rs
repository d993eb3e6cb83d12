//! A small world on loopback: a name server, web servers with and without TLS, and a proxy between them and the test.
//!
//! Servers are at 127.0.0.2, which counts as public here; 127.0.0.1 does not.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part")]

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ostler_domain::{Egress, SandboxId};
use ostler_egress::{Denial, DenialKind, Denials, Options, Policy, Proxy, Session};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const SERVER: &str = "127.0.0.2:0";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Names = Arc<Mutex<HashMap<String, Vec<IpAddr>>>>;

pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) denied: mpsc::Receiver<Denial>,
    pub(crate) denials: Denials,
    pub(crate) ended: CancellationToken,
    names: Names,
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let names = Names::default();
        let asked = Arc::default();
        let dns = name_server(Arc::clone(&names), Arc::clone(&asked)).await;
        let mut options = Options {
            name_servers: vec![dns],
            public: vec!["127.0.0.2".parse().unwrap()],
            handshake: Duration::from_secs(2),
            connect: Duration::from_secs(2),
            ..Options::default()
        };
        change(&mut options);
        let (denials, denied) = Denials::channel(1000);
        Self {
            proxy: Proxy::new(options, denials.clone()).unwrap(),
            denied,
            denials,
            ended: CancellationToken::new(),
            names,
            asked,
        }
    }

    pub(crate) fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    /// What the outside was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn session(&self, domains: &[&str], addresses: &[&str]) -> Session {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let egress = Egress {
            domains: own(domains),
            addresses: own(addresses),
        };
        let policy = Policy::compile(&egress).unwrap();
        self.proxy
            .session(SandboxId::from_u128(7), policy, self.ended.clone())
    }

    /// The next denial, which must be of this kind.
    pub(crate) async fn denial(&mut self, kind: DenialKind) -> Denial {
        let denial = timeout(PATIENCE, self.denied.recv())
            .await
            .expect("nothing was reported as denied")
            .unwrap();
        assert_eq!(denial.kind, kind, "{denial:?}");
        assert_eq!(denial.sandbox, SandboxId::from_u128(7));
        denial
    }

    pub(crate) fn no_denial(&mut self) {
        assert_eq!(self.denied.try_recv().ok(), None);
    }
}

/// A connection to the proxy.
pub(crate) fn dial(session: &Session) -> DuplexStream {
    let (client, proxy) = tokio::io::duplex(64 << 10);
    let session = session.clone();
    tokio::spawn(async move { session.serve(proxy).await });
    client
}

/// A connection that the kernel led to the proxy.
pub(crate) fn dial_redirected(session: &Session, destination: SocketAddr) -> DuplexStream {
    let (client, proxy) = tokio::io::duplex(64 << 10);
    let session = session.clone();
    tokio::spawn(async move { session.serve_redirected(proxy, destination).await });
    client
}

/// A port of this machine that leads to the session.
pub(crate) async fn port_of(session: &Session) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let session = session.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let session = session.clone();
            tokio::spawn(async move { session.serve(stream).await });
        }
    });
    address
}

/// Everything that comes until the other side closes.
pub(crate) async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection stayed open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends `bytes`, as far as they are taken, and ends the sending side; the whole answer.
pub(crate) async fn say(mut stream: DuplexStream, bytes: &[u8]) -> String {
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    rest(&mut stream).await
}

/// The head of a response.
pub(crate) async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("no response");
        head.push(byte.unwrap_or_else(|_| panic!("no whole head: {}", String::from_utf8_lossy(&head))));
    }
    String::from_utf8(head).unwrap()
}

/// A connection through the proxy by CONNECT, which must be granted.
pub(crate) async fn tunnel(session: &Session, target: &str) -> DuplexStream {
    let mut stream = dial(session);
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

pub(crate) fn root() -> &'static rcgen::CertifiedKey<rcgen::KeyPair> {
    static ROOT: std::sync::OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        rcgen::generate_simple_self_signed(vec![
            "web.example".to_owned(),
            "other.example".to_owned(),
            "*.wild.example".to_owned(),
        ])
        .unwrap()
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A TLS client that says `name`.
pub(crate) async fn tls_client<S>(
    stream: S,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<S>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root().cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// The first message of a TLS client that says `name`.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A server that takes bytes until the client has no more, and then says them backwards.
pub(crate) async fn backwards() -> SocketAddr {
    let listener = TcpListener::bind(SERVER).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(say_backwards(stream));
        }
    });
    address
}

async fn say_backwards(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).await.is_ok() {
        bytes.reverse();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let key = rustls::pki_types::PrivateKeyDer::try_from(root().signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![root().cert.der().clone()], key)
        .unwrap();
    Arc::new(config).into()
}

/// [`backwards`] with TLS.
pub(crate) async fn backwards_tls() -> SocketAddr {
    let listener = TcpListener::bind(SERVER).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(stream) = acceptor().accept(stream).await {
                    say_backwards(stream).await;
                }
            });
        }
    });
    address
}

/// A web server, and the heads of the requests that it got.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) async fn new(tls: bool) -> Self {
        let listener = TcpListener::bind(SERVER).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&all);
                tokio::spawn(async move {
                    if tls {
                        if let Ok(stream) = acceptor().accept(stream).await {
                            Self::serve(stream, seen).await;
                        }
                    } else {
                        Self::serve(stream, seen).await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn serve(
        stream: impl AsyncReadExt + AsyncWriteExt + Send + Unpin + 'static,
        seen: Arc<Mutex<Vec<String>>>,
    ) {
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = Arc::clone(&seen);
            async move { Ok::<_, Infallible>(Self::answer(request, &seen).await) }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    async fn answer(
        mut request: Request<Incoming>,
        seen: &Mutex<Vec<String>>,
    ) -> Response<Either<Full<Bytes>, Incoming>> {
        let head = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        seen.lock().unwrap().push(head);
        let text = |text: &'static str| Response::new(Either::Left(Full::from(text)));
        match request.uri().path() {
            "/echo" => Response::new(Either::Right(request.into_body())),
            "/redirect" => Response::builder()
                .status(302)
                .header("location", "http://other.example/")
                .header("connection", "x-secret")
                .header("x-secret", "1")
                .body(Either::Left(Full::default()))
                .unwrap(),
            "/socket" => {
                let on = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    say_backwards(TokioIo::new(on.await.unwrap())).await;
                });
                Response::builder()
                    .status(101)
                    .header("connection", "upgrade")
                    .header("upgrade", "websocket")
                    .body(Either::Left(Full::default()))
                    .unwrap()
            }
            "/count" => {
                let body = request.into_body().collect().await.map(|b| b.to_bytes().len());
                Response::new(Either::Left(Full::from(format!("{body:?}"))))
            }
            _ => text("hello"),
        }
    }
}

/// UDP and TCP at the same port of 127.0.0.1.
pub(crate) async fn dns_sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Somebody else may have this port for TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free");
}

async fn name_server(names: Names, asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let (socket, tcp) = dns_sockets().await;
    let address = socket.local_addr().unwrap();
    let (tcp_names, tcp_asked) = (Arc::clone(&names), Arc::clone(&asked));
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let response = answer(&buffer[..length], &names, &asked);
            let mut bytes = response.to_vec().unwrap();
            if bytes.len() > 512 {
                bytes = response.truncate().to_vec().unwrap();
            }
            socket.send_to(&bytes, peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(answer_tcp(stream, Arc::clone(&tcp_names), Arc::clone(&tcp_asked)));
        }
    });
    address
}

async fn answer_tcp(mut stream: TcpStream, names: Names, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await.unwrap();
        let bytes = answer(&question, &names, &asked).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}

fn answer(question: &[u8], names: &Names, asked: &Mutex<Vec<String>>) -> Message {
    let query = Message::from_vec(question).unwrap();
    let question = &query.queries[0];
    let name = question.name().to_ascii().trim_end_matches('.').to_owned();
    asked
        .lock()
        .unwrap()
        .push(format!("{name} {}", question.query_type()));
    let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    response.add_query(question.clone());
    response.metadata.recursion_available = true;
    match names.lock().unwrap().get(&name.to_ascii_lowercase()) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) => {
            let wanted = |a: &&IpAddr| a.is_ipv6() == (question.query_type() == RecordType::AAAA);
            for address in addresses.iter().filter(wanted) {
                let data = match *address {
                    IpAddr::V4(v4) => RData::A(v4.into()),
                    IpAddr::V6(v6) => RData::AAAA(v6.into()),
                };
                response.add_answer(Record::from_rdata(question.name().clone(), 3600, data));
            }
        }
    }
    response
}
