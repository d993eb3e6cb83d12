//! Sandboxes served by the egress filter.

use crate::{Denied, Protocol, Redirected, Traffic};
use async_trait::async_trait;
use ostler_domain::SandboxId;
use ostler_egress::{Session, Transport};

/// Serves sandboxes by their session at the egress filter. What the packet filter refuses becomes a denial like those of
/// the proxy. A sandbox without a session gets no answer.
pub struct FilteredTraffic<F> {
    session: F,
}

impl<F> FilteredTraffic<F>
where
    F: Fn(SandboxId) -> Option<Session> + Send + Sync + 'static,
{
    /// `session` finds the session of a sandbox; it must not block.
    pub const fn new(session: F) -> Self {
        Self { session }
    }
}

#[async_trait]
impl<F> Traffic for FilteredTraffic<F>
where
    F: Fn(SandboxId) -> Option<Session> + Send + Sync + 'static,
{
    async fn connection(&self, connection: Redirected) {
        let Some(session) = (self.session)(connection.sandbox) else {
            return;
        };
        if connection.to_proxy {
            session.serve(connection.stream).await;
        } else {
            session
                .serve_redirected(connection.stream, connection.destination)
                .await;
        }
    }

    async fn query(&self, sandbox: SandboxId, query: Vec<u8>, tcp: bool) -> Option<Vec<u8>> {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        (self.session)(sandbox)?.answer(&query, transport).await
    }

    fn denied(&self, denied: Denied) {
        let Some(session) = (self.session)(denied.sandbox) else {
            return;
        };
        let protocol = match denied.protocol {
            Protocol::Tcp => "TCP".to_owned(),
            Protocol::Udp => "UDP".to_owned(),
            Protocol::Icmp => "ICMP".to_owned(),
            Protocol::Other(number) => format!("IP protocol {number}"),
        };
        session.packet_refused(&protocol, denied.destination, denied.port);
    }
}
