//! Serving what the packet filter sends to this server: connections for the proxy, DNS queries, news of what was refused.

use crate::NetworkError;
use crate::denied::{Denied, PacketLog};
use crate::network::{HostNetwork, Inner};
use async_trait::async_trait;
use nix::sys::socket::{getsockopt, sockopt::OriginalDst};
use ostler_domain::SandboxId;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The pause after a failure that lasts, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a DNS client may be silent on its TCP connection, and how long an answer may take.
const DNS_LIMIT: Duration = Duration::from_secs(10);
/// Largest DNS message over UDP that is read, bytes.
const DATAGRAM: usize = 4096;

/// Who serves the traffic of sandboxes.
#[async_trait]
pub trait Traffic: Send + Sync + 'static {
    /// Serves a TCP connection. Cancelled when the sandbox is released.
    async fn connection(&self, connection: Redirected);

    /// Answers a DNS query (the whole message); `None` leaves it unanswered. `tcp` says whether a long answer fits.
    async fn query(&self, sandbox: SandboxId, query: Vec<u8>, tcp: bool) -> Option<Vec<u8>>;

    /// Hears of a refused packet. Must not block.
    fn denied(&self, denied: Denied);
}

/// A TCP connection of a sandbox.
#[derive(Debug)]
pub struct Redirected {
    /// The connection.
    pub stream: TcpStream,
    /// Whose.
    pub sandbox: SandboxId,
    /// Where it was meant to go. [`Redirected::to_proxy`] says whether that is the proxy itself.
    pub destination: SocketAddr,
    /// Whether the program asked for the proxy, as `HTTP_PROXY` makes it, instead of being redirected.
    pub to_proxy: bool,
}

/// The sockets that the packet filter redirects to.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) proxy: TcpListener,
    pub(crate) names_tcp: TcpListener,
    pub(crate) names_udp: UdpSocket,
}

impl Sockets {
    /// Binds them to free ports; DNS has the same one for UDP and TCP. All addresses, because the one that a sandbox
    /// sees is of its own interface; the packet filter keeps others out.
    pub(crate) async fn bind() -> std::io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let proxy = TcpListener::bind(any).await?;
        let mut tries = 0;
        loop {
            let names_tcp = TcpListener::bind(any).await?;
            match UdpSocket::bind(names_tcp.local_addr()?).await {
                Ok(names_udp) => {
                    return Ok(Self {
                        proxy,
                        names_tcp,
                        names_udp,
                    });
                }
                Err(_) if tries < 20 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }
}

impl HostNetwork {
    /// Serves the traffic of all sandboxes until `stop`. What arrived before waits.
    pub async fn listen(
        &self,
        traffic: Arc<dyn Traffic>,
        stop: CancellationToken,
    ) -> Result<(), NetworkError> {
        let sockets = self.inner.take_sockets().ok_or(NetworkError::Served)?;
        let inner = &self.inner;
        let refused = async {
            match PacketLog::open(inner.maker.names.log_group) {
                Ok(log) => tell(inner, log, traffic.as_ref()).await,
                Err(error) => {
                    tracing::warn!(%error, "what the packet filter refuses cannot be told");
                    std::future::pending::<()>().await;
                }
            }
        };
        let all = async {
            tokio::join!(
                connections(inner, &sockets.proxy, &traffic, proxied),
                connections(inner, &sockets.names_tcp, &traffic, queries),
                datagrams(inner, &sockets.names_udp, &traffic),
                refused,
            );
        };
        stop.run_until_cancelled(all).await;
        // Given back, so that the redirected ports stay this server's.
        inner.put_sockets(sockets);
        Ok(())
    }
}

async fn tell(inner: &Inner, mut log: PacketLog, traffic: &dyn Traffic) {
    loop {
        match log.next().await {
            Ok(packets) => {
                for packet in packets {
                    if let Some(sandbox) = inner.holder_of_interface(packet.interface) {
                        traffic.denied(Denied {
                            sandbox,
                            protocol: packet.protocol,
                            source: packet.source,
                            destination: packet.destination,
                            port: packet.port,
                        });
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "reading what the packet filter refused");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Accepts connections of sandboxes, as many of each at once as it may have, and serves each in a task.
async fn connections<F>(
    inner: &Inner,
    listener: &TcpListener,
    traffic: &Arc<dyn Traffic>,
    serve: fn(Arc<dyn Traffic>, TcpStream, SandboxId) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection of a sandbox");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        // The packet filter has made sure that the address is the sender's.
        let Some(visitor) = inner.visitor(peer.ip()) else {
            continue;
        };
        let Ok(place) = visitor.places.clone().try_acquire_owned() else {
            tracing::debug!(sandbox = %visitor.sandbox, "too many connections at once");
            continue;
        };
        let served = serve(traffic.clone(), stream, visitor.sandbox);
        tasks.spawn(async move {
            visitor.released.run_until_cancelled(served).await;
            drop(place);
        });
    }
}

async fn proxied(traffic: Arc<dyn Traffic>, stream: TcpStream, sandbox: SandboxId) {
    let destination = match getsockopt(&stream, OriginalDst) {
        Ok(found) => SocketAddrV4::new(
            Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr)),
            u16::from_be(found.sin_port),
        ),
        Err(error) => {
            tracing::warn!(%sandbox, %error, "a connection whose destination is not known");
            return;
        }
    };
    let destination = SocketAddr::V4(destination);
    let to_proxy = stream.local_addr().is_ok_and(|local| local == destination);
    traffic
        .connection(Redirected {
            stream,
            sandbox,
            destination,
            to_proxy,
        })
        .await;
}

/// DNS over TCP: each message has its length before it.
async fn queries(traffic: Arc<dyn Traffic>, mut stream: TcpStream, sandbox: SandboxId) {
    loop {
        let round = async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            let Some(answer) = traffic.query(sandbox, query, true).await else {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            };
            let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(answer);
            stream.write_all(&framed).await
        };
        // Silence, an end or an answer that cannot be sent all end the connection.
        match tokio::time::timeout(DNS_LIMIT, round).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn datagrams(inner: &Inner, socket: &UdpSocket, traffic: &Arc<dyn Traffic>) {
    let mut tasks: JoinSet<Option<(Vec<u8>, SocketAddr)>> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, peer) = match received {
                    Ok(received) => received,
                    // An earlier answer that did not arrive is told here.
                    Err(error) => {
                        tracing::debug!(%error, "receiving a DNS query");
                        continue;
                    }
                };
                let Some(visitor) = inner.visitor(peer.ip()) else {
                    continue;
                };
                let Ok(place) = visitor.places.clone().try_acquire_owned() else {
                    continue;
                };
                let (query, traffic) = (buffer[..length].to_vec(), traffic.clone());
                tasks.spawn(async move {
                    let answer = traffic.query(visitor.sandbox, query, false);
                    let answer = tokio::time::timeout(DNS_LIMIT, answer).await.ok().flatten();
                    drop(place);
                    Some((answer?, peer))
                });
            }
            Some(answered) = tasks.join_next() => {
                if let Ok(Some((answer, peer))) = answered
                    && let Err(error) = socket.send_to(&answer, peer).await
                {
                    tracing::debug!(%error, "answering a DNS query");
                }
            }
        }
    }
}

/// The address of a peer on a socket that also takes IPv6.
pub(crate) fn plain(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
