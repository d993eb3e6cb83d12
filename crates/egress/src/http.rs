//! HTTP/1.1 as a forward proxy (RFC 9110 §7.6, RFC 9112 §3.2) and for connections that the kernel led here.
//!
//! hyper reads and writes every message, so nothing is passed on in the form that the client wrote it: a message whose
//! framing is ambiguous (both `Content-Length` and `Transfer-Encoding`, RFC 9112 §6.3) has one framing when it leaves, the
//! chunked one, and what hyper does not understand (folded lines, bad chunks, two lengths) ends the connection. Each request
//! is decided by itself and gets a connection of its own to where it goes, so a connection that is kept alive gives no right
//! to anything. Redirects are the client's affair.

use crate::denial::{DenialKind, Refusal, Stop, printable};
use crate::host::Host;
use crate::session::Session;
use crate::tls;
use crate::wire::{Activity, Wire};
use bytes::Bytes;
use http_body_util::{Either, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Uri, Version, client, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

const MOST_HEADERS: usize = 100;

/// How a connection came, which says where its requests name their host.
#[derive(Debug, Clone)]
pub(crate) enum Front {
    /// To a proxy: CONNECT, or a whole URL.
    Proxy,
    /// To a server, or what the client takes for it: the Host header.
    Direct {
        /// The name that the connection was asked for, if any.
        expected: Option<String>,
        port: u16,
    },
}

/// What a connection becomes after its last request.
enum Tunnel {
    Connect {
        client: OnUpgrade,
        upstream: TcpStream,
        /// The name that TLS must have; `None` for an address.
        name: Option<String>,
        target: String,
    },
    WebSocket {
        client: OnUpgrade,
        server: OnUpgrade,
        _connection: AbortOnDropHandle<()>,
    },
}

type Answer = Response<Either<Either<Full<Bytes>, Empty<Bytes>>, Carried>>;

/// Serves requests until the client or a tunnel ends.
pub(crate) async fn serve(session: &Session, wire: Wire, front: Front) -> Result<(), Stop> {
    let activity = wire.activity();
    let slot: Arc<Mutex<Option<Tunnel>>> = Arc::default();
    let service = {
        let slot = Arc::clone(&slot);
        let session = session.clone();
        let activity = activity.clone();
        service_fn(move |request| {
            let exchange = Exchange {
                session: session.clone(),
                front: front.clone(),
                activity: activity.clone(),
                slot: Arc::clone(&slot),
            };
            async move { Ok::<_, Infallible>(exchange.answer(request).await) }
        })
    };
    let options = session.options();
    let result = server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake)
        .max_buf_size(options.header_bytes)
        .max_headers(MOST_HEADERS)
        .half_close(true)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades()
        .await;
    let tunnel = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, tunnel) {
        (Ok(()), Some(tunnel)) => tunnel.run(session, &activity).await,
        (Ok(()), None) => Ok(()),
        (Err(error), _) if error.is_parse() => Err(Refusal::new(
            DenialKind::Protocol,
            "the proxy",
            format!("not an HTTP/1.1 request that can be passed on: {error}"),
        )
        .into()),
        (Err(error), _) => Err(Stop::Failed(error.to_string())),
    }
}

impl Tunnel {
    async fn run(self, session: &Session, activity: &Activity) -> Result<(), Stop> {
        match self {
            Self::Connect {
                client,
                upstream,
                name,
                target,
            } => {
                let mut wire = upgraded(client).await?;
                if name.is_some() {
                    tls::hello(session, &mut wire, name.as_deref(), &target).await?;
                }
                let mut upstream = Wire::new(upstream, activity.clone());
                tls::relay_wires(&mut wire, &mut upstream).await
            }
            Self::WebSocket {
                client,
                server,
                _connection,
            } => {
                let (mut client, mut server) = tokio::try_join!(upgraded(client), upgraded(server))?;
                tls::relay_wires(&mut client, &mut server).await
            }
        }
    }
}

/// The stream itself, with what hyper had read of it too early.
async fn upgraded(on: OnUpgrade) -> Result<Wire, Stop> {
    let upgraded: Upgraded = on.await.map_err(|e| Stop::Failed(e.to_string()))?;
    let parts = upgraded
        .downcast::<TokioIo<Wire>>()
        .map_err(|_| Stop::Failed("an upgraded stream of another kind".to_owned()))?;
    let mut wire = parts.io.into_inner();
    wire.unread(&parts.read_buf);
    Ok(wire)
}

struct Exchange {
    session: Session,
    front: Front,
    activity: Activity,
    slot: Arc<Mutex<Option<Tunnel>>>,
}

impl Exchange {
    async fn answer(self, request: Request<Incoming>) -> Answer {
        let result = if request.method() == Method::CONNECT {
            self.connect(request).await
        } else {
            self.forward(request).await
        };
        match result {
            Ok(answer) => answer,
            Err(Stop::Refused(refusal)) => {
                self.session.report(&refusal);
                let status = match refusal.kind {
                    DenialKind::Protocol => StatusCode::BAD_REQUEST,
                    DenialKind::Limit => StatusCode::TOO_MANY_REQUESTS,
                    _ => StatusCode::FORBIDDEN,
                };
                text(
                    status,
                    &format!(
                        "Denied by the egress filter: {}: {}.\n",
                        printable(&refusal.target),
                        refusal.reason
                    ),
                )
            }
            Err(Stop::Failed(reason)) => text(StatusCode::BAD_GATEWAY, &format!("Bad gateway: {reason}.\n")),
        }
    }

    fn begin(&self, tunnel: Tunnel) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    async fn connect(&self, mut request: Request<Incoming>) -> Result<Answer, Stop> {
        let target = printable(&request.uri().to_string());
        let malformed = |reason: &str| Refusal::new(DenialKind::Protocol, &target, reason);
        if !matches!(self.front, Front::Proxy) {
            return Err(malformed("CONNECT is for a proxy, and this connection was made to a server").into());
        }
        let authority = request
            .uri()
            .authority()
            .ok_or_else(|| malformed("CONNECT needs a host and a port"))?;
        let (host, port) = split(authority).map_err(malformed)?;
        let port = port.ok_or_else(|| malformed("CONNECT needs a port"))?;
        if let Some(said) = host_header(request.headers()).map_err(malformed)? {
            let (said, said_port) = split(&said).map_err(malformed)?;
            if said != host || said_port.is_some_and(|p| p != port) {
                return Err(malformed("the Host header names another host than the request").into());
            }
        }
        let body = request.headers().contains_key(header::TRANSFER_ENCODING)
            || request
                .headers()
                .get(header::CONTENT_LENGTH)
                .is_some_and(|v| v != "0");
        if body {
            return Err(malformed("CONNECT has no body").into());
        }
        let upstream = self.session.open(&host, port).await?;
        self.begin(Tunnel::Connect {
            client: hyper::upgrade::on(&mut request),
            upstream,
            target: format!("{host}:{port}"),
            name: match host {
                Host::Name(name) => Some(name),
                Host::Address(_) => None,
            },
        });
        Ok(Response::new(Either::Left(Either::Right(Empty::new()))))
    }

    /// Where a request goes, which it may say twice but only once differently.
    fn target(&self, request: &Request<Incoming>) -> Result<(Host, u16), Refusal> {
        let target = printable(&request.uri().to_string());
        let malformed = |reason: &str| Refusal::new(DenialKind::Protocol, &target, reason);
        let uri = request.uri();
        let said = host_header(request.headers()).map_err(malformed)?;
        let said = said.as_ref().map(split).transpose().map_err(malformed)?;
        let url = uri.authority().map(split).transpose().map_err(malformed)?;
        if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
            return Err(malformed(
                "only http URLs can be asked for in this way; https goes through CONNECT",
            ));
        }
        let (host, port) = match (&url, &self.front) {
            (Some((host, port)), _) => (host.clone(), *port),
            (None, Front::Proxy) => {
                return Err(malformed("this is a proxy: it needs the whole URL, or CONNECT"));
            }
            (None, Front::Direct { .. }) => said
                .clone()
                .ok_or_else(|| malformed("the request has no Host header"))?,
        };
        let port = match &self.front {
            Front::Proxy => port.unwrap_or(80),
            Front::Direct { port: real, .. } => *real,
        };
        // A port that is left out is the one of http in a URL, and the one of the connection in a direct request.
        let left_out = match &self.front {
            Front::Proxy => 80,
            Front::Direct { port, .. } => *port,
        };
        let differs = |other: &(Host, Option<u16>)| other.0 != host || other.1.unwrap_or(left_out) != port;
        if said.as_ref().is_some_and(differs) || url.as_ref().is_some_and(differs) {
            return Err(Refusal::new(
                DenialKind::Domain,
                format!("{host}:{port}"),
                "the Host header, the URL and the connection name different hosts or ports",
            ));
        }
        if said.is_none() && request.version() != Version::HTTP_10 {
            return Err(malformed("the request has no Host header"));
        }
        if let Front::Direct {
            expected: Some(name), ..
        } = &self.front
            && host != Host::Name(name.clone())
        {
            return Err(Refusal::new(
                DenialKind::Domain,
                format!("{host}:{port}"),
                format!("the connection was asked for {name}, but the request names another host"),
            ));
        }
        Ok((host, port))
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Answer, Stop> {
        let (host, port) = self.target(&request)?;
        let upstream = self.session.open(&host, port).await?;
        let web_socket = asks_for_web_socket(&request);
        let client = web_socket.then(|| hyper::upgrade::on(&mut request));

        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        // `OPTIONS *` for a whole server arrives without a path (RFC 9112 §3.2.4).
        let path = if path.is_empty() { "/" } else { path };
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = path
            .parse::<Uri>()
            .map_err(|e| Refusal::new(DenialKind::Protocol, format!("{host}:{port}"), e.to_string()))?;
        let mut headers = parts.headers;
        strip(&mut headers);
        headers.remove(header::EXPECT);
        let value = if port == 80 {
            host.to_string()
        } else {
            format!("{host}:{port}")
        };
        headers.insert(
            header::HOST,
            HeaderValue::try_from(value).map_err(|e| Stop::Failed(e.to_string()))?,
        );
        if web_socket {
            mark_web_socket(&mut headers);
        }
        *outgoing.headers_mut() = headers;

        let failed =
            |error: hyper::Error| Stop::Failed(format!("{host}:{port} did not answer properly: {error}"));
        let wire = Wire::new(upstream, self.activity.clone());
        let (mut sender, connection) = client::conn::http1::Builder::new()
            .max_buf_size(self.session.options().header_bytes)
            .max_headers(MOST_HEADERS)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(failed)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "egress: a server's connection ended");
            }
        }));
        let mut response = sender.send_request(outgoing).await.map_err(failed)?;

        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switching && !web_socket {
            return Err(Stop::Failed(format!(
                "{host}:{port} changed the protocol unasked"
            )));
        }
        let headers = response.headers_mut();
        strip(headers);
        *response.version_mut() = Version::HTTP_11;
        if let (true, Some(client)) = (switching, client) {
            mark_web_socket(response.headers_mut());
            self.begin(Tunnel::WebSocket {
                client,
                server: hyper::upgrade::on(&mut response),
                _connection: connection,
            });
            return Ok(response.map(|_| Either::Left(Either::Right(Empty::new()))));
        }
        Ok(response.map(|body| {
            Either::Right(Carried {
                body,
                _connection: connection,
            })
        }))
    }
}

/// A body from a server; its connection ends with it.
struct Carried {
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Body for Carried {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn text(status: StatusCode, words: &str) -> Answer {
    let mut response = Response::new(Either::Left(Either::Left(Full::new(Bytes::from(
        words.to_owned(),
    )))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Host and port of an authority. User information has no business in front of a proxy.
fn split(authority: &Authority) -> Result<(Host, Option<u16>), &'static str> {
    if authority.as_str().contains('@') {
        return Err("user names are not possible in front of a host");
    }
    let host = Host::parse(authority.host())?;
    let rest = authority
        .as_str()
        .get(authority.host().len()..)
        .unwrap_or_default();
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        Some(port) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => Some(
            port.parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or("the port is not possible")?,
        ),
        _ => return Err("the port is not a number"),
    };
    Ok((host, port))
}

fn host_header(headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut all = headers.get_all(header::HOST).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err("the request has more than one Host header");
    }
    first
        .map(|value| Authority::try_from(value.as_bytes()).map_err(|_| "the Host header is not a host"))
        .transpose()
}

/// Removes what concerns only one connection (RFC 9110 §7.6.1), named there or by `Connection` itself.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ] {
        headers.remove(name);
    }
}

fn asks_for_web_socket(request: &Request<Incoming>) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    let only = upgrades.next().filter(|_| upgrades.next().is_none());
    let connection = request.headers().get_all(header::CONNECTION).iter();
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && only.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && connection
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

fn mark_web_socket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
