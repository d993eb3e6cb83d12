//! One proxy for all sandboxes, and what it knows of each of them.

use crate::denial::{DenialKind, Denials, Refusal, Stop};
use crate::host::Host;
use crate::network::{Network, reserved};
use crate::policy::NameMatch;
use crate::resolver::{Answer, LookupError, Resolver};
use crate::wire::{Activity, Wire};
use crate::{Error, Policy, http, socks, tls};
use ostler_domain::SandboxId;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Limits and surroundings, the same for all sandboxes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name servers to ask; those of this machine (`/etc/resolv.conf`) when empty.
    pub name_servers: Vec<SocketAddr>,
    /// Networks whose addresses count as public although they are not: an intranet where listed domains live, or a test.
    pub public: Vec<Network>,
    /// Most connections of a sandbox at once.
    pub connections: usize,
    /// Most bytes of the head of an HTTP request or response; at least 8192.
    pub header_bytes: usize,
    /// Most bytes of a TLS ClientHello with its record headers.
    pub hello_bytes: usize,
    /// How long a client may take to say what it wants: a request head, a SOCKS request, a ClientHello.
    pub handshake: Duration,
    /// How long a connection to one address may take to come up.
    pub connect: Duration,
    /// How long a conversation may be silent in both directions.
    pub idle: Duration,
    /// Most different names below `*.` entries that a sandbox may ask for within `wildcard_window`. The name itself is a
    /// message to whoever answers for the domain; these limits leave `wildcard_names * wildcard_length` bytes per window.
    pub wildcard_names: usize,
    /// See `wildcard_names`.
    pub wildcard_window: Duration,
    /// Most bytes of such a name in front of what is listed.
    pub wildcard_length: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            public: Vec::new(),
            connections: 256,
            header_bytes: 64 << 10,
            hello_bytes: 16 << 10,
            handshake: Duration::from_secs(15),
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            wildcard_names: 200,
            wildcard_window: Duration::from_secs(600),
            wildcard_length: 80,
        }
    }
}

/// Reports of one sandbox within a second; more are only counted, so that one sandbox does not hide the others' denials.
const REPORTS_PER_SECOND: u32 = 100;
/// Addresses of a name that are tried.
const ADDRESSES_TRIED: usize = 6;

/// The egress filter of this server.
#[derive(Clone)]
pub struct Proxy(Arc<Shared>);

struct Shared {
    options: Options,
    resolver: Resolver,
    denials: Denials,
}

impl Proxy {
    /// A filter that reports to `denials`.
    pub fn new(mut options: Options, denials: Denials) -> Result<Self, Error> {
        options.header_bytes = options.header_bytes.max(8192);
        Ok(Self(Arc::new(Shared {
            resolver: Resolver::new(&options.name_servers)?,
            options,
            denials,
        })))
    }

    /// What a sandbox is served with. All of it ends with `ended`, at once.
    pub fn session(&self, sandbox: SandboxId, policy: Policy, ended: CancellationToken) -> Session {
        Session(Arc::new(Inner {
            shared: Arc::clone(&self.0),
            sandbox,
            policy,
            ended,
            connections: Semaphore::new(self.0.options.connections),
            questions: Semaphore::new(64),
            state: Mutex::new(State {
                chosen: HashMap::new(),
                second: Instant::now(),
                reports: 0,
            }),
        }))
    }
}

/// One sandbox at the filter. Clones are the same sandbox.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    sandbox: SandboxId,
    policy: Policy,
    ended: CancellationToken,
    connections: Semaphore,
    questions: Semaphore,
    state: Mutex<State>,
}

struct State {
    /// Names below wildcards, with when they were first asked for.
    chosen: HashMap<String, Instant>,
    second: Instant,
    reports: u32,
}

impl Session {
    /// Whose it is.
    pub fn sandbox(&self) -> SandboxId {
        self.0.sandbox
    }

    /// Serves a connection that a program of the sandbox made to its proxy: HTTP or SOCKS5. Returns when it is over; what
    /// happens on it is the client's to know, so there is no error.
    pub async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.run("the proxy", stream, |wire| self.proxy(wire)).await;
    }

    /// Serves a connection that a program of the sandbox made to `destination` and that the kernel led here.
    pub async fn serve_redirected<S>(&self, stream: S, destination: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let target = destination.to_string();
        self.run(&target, stream, |wire| self.redirected(wire, destination))
            .await;
    }

    /// Reports a packet that the host's packet filter refused, as `protocol` (such as `UDP`) to `destination`.
    pub fn packet_refused(&self, protocol: &str, destination: IpAddr, port: Option<u16>) {
        let target = match port {
            Some(port) => SocketAddr::new(destination, port).to_string(),
            None => destination.to_string(),
        };
        let reason = format!(
            "{protocol} to this address is not allowed; an entry with its port in `egress.addresses` of the sandbox's \
             pool would allow TCP and UDP over IPv4"
        );
        self.report(&Refusal::new(DenialKind::Address, target, reason));
    }

    async fn run<S, F>(&self, target: &str, stream: S, conversation: impl FnOnce(Wire) -> F)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = Result<(), Stop>>,
    {
        let Ok(_permit) = self.0.connections.try_acquire() else {
            self.report(&Refusal::new(
                DenialKind::Limit,
                target,
                format!(
                    "the sandbox already has {} connections",
                    self.options().connections
                ),
            ));
            return;
        };
        let activity = Activity::new();
        let wire = Wire::new(stream, activity.clone());
        let result = tokio::select! {
            biased;
            () = self.0.ended.cancelled() => return,
            () = activity.idle(self.options().idle) => return,
            result = conversation(wire) => result,
        };
        match result {
            Ok(()) => {}
            Err(Stop::Refused(refusal)) => self.report(&refusal),
            Err(Stop::Failed(reason)) => tracing::debug!(sandbox = %self.0.sandbox, reason, "egress failed"),
        }
    }

    async fn proxy(&self, mut wire: Wire) -> Result<(), Stop> {
        match first_byte(self, &mut wire).await? {
            None => Ok(()),
            Some(5) => socks::serve(self, wire).await,
            Some(_) => http::serve(self, wire, http::Front::Proxy).await,
        }
    }

    async fn redirected(&self, wire: Wire, destination: SocketAddr) -> Result<(), Stop> {
        let address = destination.ip().to_canonical();
        if self.listed(address, destination.port()).is_ok() {
            let upstream = self.connect(&[address], destination.port()).await?;
            return tls::relay(wire, upstream).await;
        }
        tls::by_name(self, wire, None, destination.port(), &destination.to_string()).await
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.shared.options
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.0.ended
    }

    pub(crate) fn questions(&self) -> &Semaphore {
        &self.0.questions
    }

    pub(crate) fn connections(&self) -> &Semaphore {
        &self.0.connections
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self, refusal: &Refusal) {
        let mut state = self.state();
        if state.second.elapsed() >= Duration::from_secs(1) {
            state.second = Instant::now();
            state.reports = 0;
        }
        state.reports = state.reports.saturating_add(1);
        if state.reports > REPORTS_PER_SECOND {
            self.0.shared.denials.drop_one();
            return;
        }
        drop(state);
        self.0.shared.denials.report(self.0.sandbox, refusal);
    }

    /// Whether the policy lets the sandbox talk to `host`.
    pub(crate) fn decide(&self, host: &Host, port: u16) -> Result<(), Refusal> {
        match host {
            Host::Name(name) if self.policy().name(name, Some(port)).is_some() => Ok(()),
            Host::Name(name) => {
                let setting = if matches!(port, 80 | 443) {
                    name.clone()
                } else {
                    format!("{name}:{port}")
                };
                Err(Refusal::new(
                    DenialKind::Domain,
                    format!("{host}:{port}"),
                    format!(
                        "the domain is not allowed with this port; `{setting}` in `egress.domains` of the sandbox's pool \
                         would allow it"
                    ),
                ))
            }
            Host::Address(address) => self.listed(*address, port),
        }
    }

    fn listed(&self, address: IpAddr, port: u16) -> Result<(), Refusal> {
        let target = SocketAddr::new(address, port);
        let refused = |reason: &str| {
            Refusal::new(
                DenialKind::Address,
                target.to_string(),
                format!("{reason}; `{target}` in `egress.addresses` of the sandbox's pool would allow it"),
            )
        };
        let Some(rule) = self.policy().address(address, port) else {
            return Err(refused("the address is not listed with this port"));
        };
        if !rule.network.is_single() && !address.is_loopback() && !self.is_public(address) && own(address) {
            return Err(refused(
                "the address is one of this server and is not listed itself",
            ));
        }
        Ok(())
    }

    fn is_public(&self, address: IpAddr) -> bool {
        self.options()
            .public
            .iter()
            .any(|network| network.contains(address))
    }

    /// Whether an address that a name has may be used. `port` is `None` for answers to the sandbox itself.
    fn check(&self, name: &str, address: IpAddr, port: Option<u16>) -> Result<(), Refusal> {
        if self.is_public(address) {
            return Ok(());
        }
        let listed = match port {
            Some(port) => self.listed(address, port).is_ok(),
            None => self.policy().address_any_port(address).is_some(),
        };
        if listed {
            return Ok(());
        }
        let what = match reserved(address) {
            Some((_, what)) => what,
            None if own(address) => "an address of this server",
            None => return Ok(()),
        };
        Err(Refusal::new(
            DenialKind::Rebinding,
            name,
            format!(
                "the name has the address {address}, which is {what}; it would have to be listed in `egress.addresses` \
                 of the sandbox's pool"
            ),
        ))
    }

    /// Counts a name against what a sandbox may choose below wildcards.
    fn choose(&self, name: &str, port: Option<u16>) -> Result<(), Refusal> {
        let refused = |reason: String| Err(Refusal::new(DenialKind::Limit, name, reason));
        let part = match self.policy().name(name, port) {
            Some(NameMatch::Exact) => return Ok(()),
            Some(NameMatch::Below(part)) => part,
            None => return refused("the domain is not allowed".to_owned()),
        };
        let options = self.options();
        if part.len() > options.wildcard_length {
            let most = options.wildcard_length;
            return refused(format!(
                "below a wildcard, at most {most} characters are possible; list this domain itself"
            ));
        }
        let mut state = self.state();
        if state.chosen.contains_key(name) {
            return Ok(());
        }
        if state.chosen.len() >= options.wildcard_names {
            state
                .chosen
                .retain(|_, since| since.elapsed() < options.wildcard_window);
        }
        if state.chosen.len() >= options.wildcard_names {
            return refused(format!(
                "the sandbox has asked for {} different names below wildcards within {} s; list the domains themselves",
                options.wildcard_names,
                options.wildcard_window.as_secs()
            ));
        }
        state.chosen.insert(name.to_owned(), Instant::now());
        Ok(())
    }

    /// The addresses of an allowed name that the sandbox may know.
    pub(crate) async fn answer_for(
        &self,
        name: &str,
        v6: bool,
    ) -> Result<Result<Answer, LookupError>, Refusal> {
        self.choose(name, None)?;
        self.lookup(name, v6, None).await
    }

    async fn lookup(
        &self,
        name: &str,
        v6: bool,
        port: Option<u16>,
    ) -> Result<Result<Answer, LookupError>, Refusal> {
        let mut answer = match self.0.shared.resolver.lookup(name, v6).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let mut refusal = None;
        answer
            .addresses
            .retain(|address| match self.check(name, *address, port) {
                Ok(()) => true,
                Err(refused) => {
                    refusal = Some(refused);
                    false
                }
            });
        match refusal {
            Some(refusal) if answer.addresses.is_empty() => Err(refusal),
            Some(refusal) => {
                self.report(&refusal);
                Ok(Ok(answer))
            }
            None => Ok(Ok(answer)),
        }
    }

    /// The addresses that `host` stands for, each of them checked. The policy must have been asked before.
    pub(crate) async fn resolve(&self, host: &Host, port: u16) -> Result<Vec<IpAddr>, Stop> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        self.choose(name, Some(port))?;
        let (v4, v6) = tokio::join!(
            self.lookup(name, false, Some(port)),
            self.lookup(name, true, Some(port))
        );
        let mut addresses = Vec::new();
        let mut reason = "the name has no address".to_owned();
        let mut refusal = None;
        for family in [v4, v6] {
            match family {
                Ok(Ok(answer)) => addresses.extend(answer.addresses),
                Ok(Err(LookupError::NoSuchName)) => "the name does not exist".clone_into(&mut reason),
                Ok(Err(LookupError::Failed(error))) => {
                    reason = format!("the name cannot be looked up: {error}");
                }
                Err(refused) => refusal = Some(refused),
            }
        }
        match refusal {
            Some(refusal) if addresses.is_empty() => Err(refusal.into()),
            Some(refusal) => {
                self.report(&refusal);
                Ok(addresses)
            }
            None if addresses.is_empty() => Err(Stop::Failed(reason)),
            None => Ok(addresses),
        }
    }

    /// Connects to the first of `addresses` that answers.
    pub(crate) async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Stop> {
        let mut reason = "the name has no address".to_owned();
        for address in addresses.iter().take(ADDRESSES_TRIED) {
            let target = SocketAddr::new(*address, port);
            match timeout(self.options().connect, TcpStream::connect(target)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => reason = format!("no connection to {target}: {error}"),
                Err(_) => reason = format!("no connection to {target} within {:?}", self.options().connect),
            }
        }
        Err(Stop::Failed(reason))
    }

    /// Decides, resolves and connects.
    pub(crate) async fn open(&self, host: &Host, port: u16) -> Result<TcpStream, Stop> {
        self.decide(host, port)?;
        let addresses = self.resolve(host, port).await?;
        self.connect(&addresses, port).await
    }
}

/// The first byte, without consuming it; `None` if the client left.
pub(crate) async fn first_byte(session: &Session, wire: &mut Wire) -> Result<Option<u8>, Stop> {
    if wire.head().is_empty() {
        match timeout(session.options().handshake, wire.fill()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Stop::Failed(error.to_string())),
            Err(_) => return Err(Stop::Failed("the client said nothing".to_owned())),
        }
    }
    Ok(wire.head().first().copied())
}

/// Whether this machine itself has the address, at this moment: only then can a socket be bound to it. Where the kernel
/// does not know (no IPv6, `ip_nonlocal_bind`), the answer is the careful one.
fn own(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn own_addresses_are_known_and_others_are_not() {
        assert!(own([127, 0, 0, 1].into()));
        assert!(!own([192, 0, 2, 1].into()));
        assert!(!own([1, 1, 1, 1].into()));
    }
}
