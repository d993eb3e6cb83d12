//! Connections that are let through by the name that they begin with.

use crate::client_hello::{HelloError, sni};
use crate::denial::{DenialKind, Refusal, Stop};
use crate::host::Host;
use crate::http;
use crate::session::{Session, first_byte};
use crate::wire::Wire;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

const HANDSHAKE_RECORD: u8 = 22;
/// A fatal alert `access_denied` (RFC 8446 §6), so that the client can tell a denial from a broken network.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Passes bytes on in both directions until both are closed.
pub(crate) async fn relay(mut wire: Wire, upstream: TcpStream) -> Result<(), Stop> {
    let mut upstream = Wire::new(upstream, wire.activity());
    relay_wires(&mut wire, &mut upstream).await
}

pub(crate) async fn relay_wires(a: &mut Wire, b: &mut Wire) -> Result<(), Stop> {
    match copy_bidirectional(a, b).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Stop::Failed(error.to_string())),
    }
}

/// Serves what was sent to an unlisted address, or to a name by SOCKS: TLS by its server name and HTTP by its Host header.
/// `expected` is the name that was asked for, if any. `target` is for reports.
pub(crate) async fn by_name(
    session: &Session,
    mut wire: Wire,
    expected: Option<String>,
    port: u16,
    target: &str,
) -> Result<(), Stop> {
    match first_byte(session, &mut wire).await? {
        None => Ok(()),
        Some(HANDSHAKE_RECORD) => {
            let name = hello(session, &mut wire, expected.as_deref(), target).await?;
            match session.open(&Host::Name(name), port).await {
                Ok(upstream) => relay(wire, upstream).await,
                Err(stop) => {
                    refuse(&mut wire, &ACCESS_DENIED).await;
                    Err(stop)
                }
            }
        }
        Some(byte) if byte.is_ascii_uppercase() => {
            http::serve(session, wire, http::Front::Direct { expected, port }).await
        }
        Some(_) => Err(not_by_name(target)),
    }
}

fn not_by_name(target: &str) -> Stop {
    let reason = format!(
        "only TLS and HTTP can be allowed by domain, and this is neither; for other protocols list the address in \
         `egress.addresses` of the sandbox's pool, such as `{target}`"
    );
    Refusal::new(DenialKind::Protocol, target, reason).into()
}

/// Reads the ClientHello without consuming it; its name must be the expected one. The client is told if not.
pub(crate) async fn hello(
    session: &Session,
    wire: &mut Wire,
    expected: Option<&str>,
    target: &str,
) -> Result<String, Stop> {
    let until = Instant::now() + session.options().handshake;
    let refused = |kind, reason: String| Stop::from(Refusal::new(kind, target, reason));
    let error = loop {
        match sni(wire.head()) {
            Ok(name) if expected.is_none_or(|e| e == name) => return Ok(name),
            Ok(name) => {
                refuse(wire, &ACCESS_DENIED).await;
                let asked = expected.unwrap_or_default();
                return Err(refused(
                    DenialKind::Sni,
                    format!("the connection was asked for {asked}, but its TLS server name is {name}"),
                ));
            }
            Err(HelloError::Incomplete) if wire.head().len() < session.options().hello_bytes => {}
            Err(HelloError::Incomplete) => {
                break refused(DenialKind::Sni, "the TLS ClientHello is too long".to_owned());
            }
            Err(HelloError::NotTls) => {
                refuse(wire, &plain_refusal()).await;
                return Err(refused(
                    DenialKind::Protocol,
                    "connections to a domain must be TLS; for other protocols list the address in `egress.addresses` \
                     of the sandbox's pool"
                        .to_owned(),
                ));
            }
            Err(error) => break refused(DenialKind::Sni, error.to_string()),
        }
        match timeout_at(until, wire.fill()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) if wire.head().is_empty() => {
                return Err(Stop::Failed("the client left without a word".to_owned()));
            }
            Ok(Ok(false)) => {
                break refused(
                    DenialKind::Sni,
                    "the client left within its TLS ClientHello".to_owned(),
                );
            }
            Ok(Err(error)) => return Err(Stop::Failed(error.to_string())),
            Err(_) => {
                break refused(
                    DenialKind::Sni,
                    "no TLS ClientHello in time; connections to a domain must be TLS".to_owned(),
                );
            }
        }
    };
    refuse(wire, &ACCESS_DENIED).await;
    Err(error)
}

fn plain_refusal() -> Vec<u8> {
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
      Denied by the egress filter: connections to a domain must be TLS.\n"
        .to_vec()
}

/// Last words to a client; whether it hears them does not matter.
async fn refuse(wire: &mut Wire, words: &[u8]) {
    let _ = wire.write_all(words).await;
    let _ = wire.shutdown().await;
}
