//! What sandboxes may reach: the policy, and the proxy and name server that apply it.
//!
//! Everything is denied that is not listed ([`Policy`]). Connections come in as byte streams, through a tunnel from the
//! sandbox or from a kernel that redirects them; the filter does not know which. A listed *address* may be talked to in any
//! protocol. A listed *domain* may be talked to in TLS and HTTP only, because only these say on every connection which host
//! they mean: the name that was asked for, the one that the connection carries and the one that is connected to must be the
//! same, and the filter looks the address up itself, once, checks it, and connects to exactly that one. What cannot be
//! understood is refused.
//!
//! What it cannot see: which host is asked for inside of TLS. A listed server that serves other domains too (a content
//! delivery network) can be used to reach those; TLS is not opened here.
//!
//! ```no_run
//! # use ostler_egress::{Denials, Options, Policy, Proxy};
//! # async fn example(sandbox: ostler_domain::SandboxId, egress: ostler_domain::Egress, stream: tokio::net::TcpStream)
//! # -> Result<(), ostler_egress::Error> {
//! let (denials, mut denied) = Denials::channel(1000);
//! let proxy = Proxy::new(Options::default(), denials)?;
//! let ended = tokio_util::sync::CancellationToken::new();
//! let session = proxy.session(sandbox, Policy::compile(&egress)?, ended);
//! session.serve(stream).await;
//! while let Ok(denial) = denied.try_recv() {
//!     println!("{} was denied: {}", denial.target, denial.reason);
//! }
//! # Ok(())
//! # }
//! ```

mod client_hello;
mod denial;
mod error;
mod host;
mod http;
mod name_server;
mod network;
mod policy;
mod resolver;
mod session;
mod socks;
mod tls;
mod wire;

pub use client_hello::{HelloError, sni};
pub use denial::{Denial, DenialKind, Denials};
pub use error::Error;
pub use name_server::{Transport, serve_dns_tcp, serve_dns_udp};
pub use network::Network;
pub use policy::{AddressRule, Policy};
pub use session::{Options, Proxy, Session};
