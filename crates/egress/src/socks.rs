//! SOCKS5 (RFC 1928), only CONNECT and without authentication: the sandbox is known by its connection.

use crate::denial::{DenialKind, Refusal, Stop, printable};
use crate::host::Host;
use crate::session::Session;
use crate::tls;
use crate::wire::Wire;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const NOT_ALLOWED: u8 = 2;
const UNREACHABLE: u8 = 4;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;

pub(crate) async fn serve(session: &Session, mut wire: Wire) -> Result<(), Stop> {
    let (host, port) = timeout(session.options().handshake, request(&mut wire))
        .await
        .map_err(|_| Stop::Failed("no SOCKS request in time".to_owned()))??;
    let target = format!("{host}:{port}");
    if let Err(refusal) = session.decide(&host, port) {
        reply(&mut wire, NOT_ALLOWED).await?;
        return Err(refusal.into());
    }
    match host {
        // The name is checked again where the connection says it itself; here only whether it leads anywhere.
        Host::Name(ref name) => {
            if let Err(stop) = session.resolve(&host, port).await {
                return fail(&mut wire, stop).await;
            }
            reply(&mut wire, 0).await?;
            tls::by_name(session, wire, Some(name.clone()), port, &target).await
        }
        Host::Address(_) => match session.open(&host, port).await {
            Err(stop) => fail(&mut wire, stop).await,
            Ok(upstream) => {
                reply(&mut wire, 0).await?;
                tls::relay(wire, upstream).await
            }
        },
    }
}

async fn fail(wire: &mut Wire, stop: Stop) -> Result<(), Stop> {
    let code = match stop {
        Stop::Refused(_) => NOT_ALLOWED,
        Stop::Failed(_) => UNREACHABLE,
    };
    reply(wire, code).await?;
    Err(stop)
}

async fn request(wire: &mut Wire) -> Result<(Host, u16), Stop> {
    let malformed = |reason: &str| Stop::from(Refusal::new(DenialKind::Protocol, "the proxy", reason));
    let [5, methods] = take::<2>(wire).await? else {
        return Err(malformed("not SOCKS5"));
    };
    let mut offered = vec![0; usize::from(methods)];
    read(wire, &mut offered).await?;
    if !offered.contains(&0) {
        write(wire, &[5, 0xff]).await?;
        return Err(malformed("SOCKS5 without the method `no authentication`"));
    }
    write(wire, &[5, 0]).await?;
    let [5, command, 0, kind] = take::<4>(wire).await? else {
        return Err(malformed("not a SOCKS5 request"));
    };
    let host = match kind {
        1 => Ok(Host::from(std::net::IpAddr::from(Ipv4Addr::from(
            take::<4>(wire).await?,
        )))),
        4 => Ok(Host::from(std::net::IpAddr::from(Ipv6Addr::from(
            take::<16>(wire).await?,
        )))),
        3 => {
            let [length] = take::<1>(wire).await?;
            let mut name = vec![0; usize::from(length)];
            read(wire, &mut name).await?;
            let text = String::from_utf8_lossy(&name);
            Host::parse(&text).map_err(|reason| Refusal::new(DenialKind::Domain, printable(&text), reason))
        }
        _ => {
            reply(wire, NO_SUCH_ADDRESS).await?;
            return Err(malformed("an unknown kind of address"));
        }
    };
    let port = u16::from_be_bytes(take::<2>(wire).await?);
    let host = match host {
        Ok(host) if port > 0 => host,
        Ok(host) => {
            reply(wire, NOT_ALLOWED).await?;
            return Err(
                Refusal::new(DenialKind::Protocol, host.to_string(), "the port is not possible").into(),
            );
        }
        Err(refusal) => {
            reply(wire, NOT_ALLOWED).await?;
            return Err(refusal.into());
        }
    };
    if command != 1 {
        reply(wire, NO_SUCH_COMMAND).await?;
        let target = format!("{host}:{port}");
        return Err(Refusal::new(
            DenialKind::Protocol,
            target,
            "only the SOCKS5 command CONNECT is possible",
        )
        .into());
    }
    Ok((host, port))
}

async fn take<const N: usize>(wire: &mut Wire) -> Result<[u8; N], Stop> {
    let mut bytes = [0; N];
    read(wire, &mut bytes).await?;
    Ok(bytes)
}

async fn read(wire: &mut Wire, into: &mut [u8]) -> Result<(), Stop> {
    match wire.read_exact(into).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Stop::Failed(error.to_string())),
    }
}

async fn write(wire: &mut Wire, bytes: &[u8]) -> Result<(), Stop> {
    let written = async {
        wire.write_all(bytes).await?;
        wire.flush().await
    };
    written.await.map_err(|error| Stop::Failed(error.to_string()))
}

async fn reply(wire: &mut Wire, code: u8) -> Result<(), Stop> {
    write(wire, &[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}
