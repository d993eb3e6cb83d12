//! The name server of sandboxes (RFC 1035), under the same policy.
//!
//! Nothing of a question goes out but the name and whether IPv4 or IPv6 is wanted, and only for names that are listed:
//!
//! | question | answer |
//! |---|---|
//! | A, AAAA of an allowed name | its addresses that a sandbox may use, for at most 60 s |
//! | HTTPS, SVCB of an allowed name | nothing, so that no keys for Encrypted ClientHello come in (RFC 9460) |
//! | A, AAAA, HTTPS, SVCB of another name | `NXDOMAIN`: programs give up at once, where `REFUSED` makes them ask again |
//! | every other type, class or operation | `REFUSED` |
//! | no answer of the real name servers | `SERVFAIL` |
//!
//! `NXDOMAIN` comes without the record that would let a client keep it (RFC 2308).

use crate::denial::{DenialKind, Refusal};
use crate::host;
use crate::resolver::LookupError;
use crate::session::Session;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest answer by UDP, so that it is not cut into fragments.
const UDP_ANSWER: u16 = 1232;
const LONGEST_TTL: Duration = Duration::from_secs(60);
/// Questions or connections that a loop works on at once.
const AT_ONCE: usize = 512;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Long answers are cut, and the client asks again by TCP.
    Udp,
    /// Without the two bytes of length in front.
    Tcp,
}

impl Session {
    /// Answers a question to the name server; `None` if it deserves none.
    pub async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(_permit) = self.questions().try_acquire() else {
            self.report(&Refusal::new(
                DenialKind::Limit,
                "the name server",
                "too many questions at once",
            ));
            return None;
        };
        let id = u16::from_be_bytes(*question.first_chunk::<2>()?);
        let Ok(message) = Message::from_vec(question) else {
            self.report(&Refusal::new(
                DenialKind::Dns,
                "the name server",
                "not a DNS question",
            ));
            return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
                .to_vec()
                .ok();
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::new(id, MessageType::Response, message.metadata.op_code);
        response.metadata = Metadata::response_from_request(&message.metadata);
        response.metadata.recursion_available = true;
        response.add_queries(message.queries.iter().take(1).cloned());
        if message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_ANSWER);
            response.set_edns(edns);
        }
        let code = match (&message.queries[..], message.metadata.op_code) {
            ([query], OpCode::Query) => tokio::select! {
                code = self.fill(query, &mut response) => code,
                () = self.ended().cancelled() => return None,
            },
            (_, OpCode::Query) => Err((
                ResponseCode::FormErr,
                "a message with exactly one question is needed",
            )),
            _ => Err((ResponseCode::Refused, "only questions are answered")),
        };
        response.metadata.response_code = match code {
            Ok(code) => code,
            Err((code, reason)) => {
                let target = message.queries.first().map_or_else(String::new, describe);
                self.report(&Refusal::new(DenialKind::Dns, target, reason));
                code
            }
        };
        let bytes = response.to_vec().ok()?;
        let most = message
            .edns
            .as_ref()
            .map_or(512, |e| e.max_payload().clamp(512, UDP_ANSWER));
        if transport == Transport::Udp && bytes.len() > usize::from(most) {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    async fn fill(
        &self,
        query: &Query,
        response: &mut Message,
    ) -> Result<ResponseCode, (ResponseCode, &'static str)> {
        if query.query_class() != DNSClass::IN {
            return Err((ResponseCode::Refused, "only the class IN is answered"));
        }
        let family = match query.query_type() {
            RecordType::A => Some(false),
            RecordType::AAAA => Some(true),
            RecordType::HTTPS | RecordType::SVCB => None,
            _ => return Err((ResponseCode::Refused, "only addresses are answered")),
        };
        let name = host::name(&query.name().to_ascii()).map_err(|reason| (ResponseCode::NXDomain, reason))?;
        if self.policy().name(&name, None).is_none() {
            return Err((
                ResponseCode::NXDomain,
                "the domain is not allowed; `egress.domains` of the sandbox's pool would have to list it",
            ));
        }
        let Some(v6) = family else {
            return Ok(ResponseCode::NoError);
        };
        match self.answer_for(&name, v6).await {
            Err(refusal) => {
                self.report(&refusal);
                Ok(ResponseCode::NXDomain)
            }
            Ok(Err(LookupError::NoSuchName)) => Ok(ResponseCode::NXDomain),
            Ok(Err(LookupError::Failed(reason))) => {
                tracing::debug!(sandbox = %self.sandbox(), name, reason, "egress: no answer of the name servers");
                Ok(ResponseCode::ServFail)
            }
            Ok(Ok(answer)) => {
                let ttl = answer.ttl.min(LONGEST_TTL).as_secs() as u32;
                response.add_answers(answer.addresses.into_iter().map(|address| {
                    let data = match address {
                        IpAddr::V4(v4) => RData::A(v4.into()),
                        IpAddr::V6(v6) => RData::AAAA(v6.into()),
                    };
                    Record::from_rdata(query.name().clone(), ttl, data)
                }));
                Ok(ResponseCode::NoError)
            }
        }
    }
}

fn describe(query: &Query) -> String {
    format!("{} {}", query.name().to_ascii(), query.query_type())
}

/// Answers questions that arrive on `socket` until `ended`. `who` says whose a peer is; strangers get no answer.
pub async fn serve_dns_udp<W>(socket: UdpSocket, who: W, ended: CancellationToken)
where
    W: Fn(SocketAddr) -> Option<Session> + Send + 'static,
{
    let socket = Arc::new(socket);
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        let received = tokio::select! {
            () = ended.cancelled() => return,
            Some(_) = tasks.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                // Errors of earlier answers arrive here too, such as a peer that is gone.
                rest(&error).await;
                continue;
            }
        };
        let Some(session) = who(peer).filter(|_| tasks.len() < AT_ONCE) else {
            continue;
        };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let socket = Arc::clone(&socket);
        tasks.spawn(async move {
            if let Some(answer) = session.answer(&question, Transport::Udp).await {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

/// Like [`serve_dns_udp`], for connections.
pub async fn serve_dns_tcp<W>(listener: TcpListener, who: W, ended: CancellationToken)
where
    W: Fn(SocketAddr) -> Option<Session> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = ended.cancelled() => return,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(session) = who(peer).filter(|_| tasks.len() < AT_ONCE) {
                    tasks.spawn(async move { session.answer_stream(stream).await });
                }
            }
            Err(error) => rest(&error).await,
        }
    }
}

async fn rest(error: &io::Error) {
    tracing::debug!(%error, "egress: the name server's socket");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

impl Session {
    async fn answer_stream(&self, mut stream: TcpStream) {
        let Ok(_permit) = self.connections().try_acquire() else {
            self.report(&Refusal::new(
                DenialKind::Limit,
                "the name server",
                "too many connections",
            ));
            return;
        };
        let conversation = async {
            loop {
                let wait = self.options().handshake;
                let question = timeout(wait, async {
                    let length = usize::from(stream.read_u16().await?);
                    let mut question = vec![0; length];
                    stream.read_exact(&mut question).await?;
                    io::Result::Ok(question)
                });
                let Ok(Ok(question)) = question.await else { return };
                let Some(answer) = self.answer(&question, Transport::Tcp).await else {
                    return;
                };
                let Ok(length) = u16::try_from(answer.len()) else {
                    return;
                };
                let bytes = [&length.to_be_bytes()[..], &answer].concat();
                if !matches!(timeout(wait, stream.write_all(&bytes)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.ended().cancelled() => {}
            () = conversation => {}
        }
    }
}
