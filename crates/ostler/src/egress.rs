//! The way out of sandboxes whose network is filtered: the filter, and for the process driver the interfaces behind it.
//!
//! Sandboxes of every driver reach the filter through their guest. Where the settings say so and the host can, those of
//! the process driver have an interface besides, from which the packet filter leads all to the same filter.

use crate::drivers::Place;
use crate::settings::{EgressSettings, Enabled};
use anyhow::bail;
use async_trait::async_trait;
use ostler_control::Control;
use ostler_domain::{Sandbox, SandboxId};
use ostler_egress::{Denial, Denials, Policy, Proxy, Session};
use ostler_host_network::{
    Denied, FilteredTraffic, HostNetwork, NetworkError, NetworkOptions, Redirected, Traffic,
};
use ostler_store::StoreExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Denials on their way into events; more are counted.
const WAITING: usize = 10_000;

/// The filter.
pub(crate) struct WayOut {
    pub(crate) proxy: Proxy,
    denied: mpsc::Receiver<Denial>,
    /// The interfaces of sandboxes of the process driver, where they have any.
    pub(crate) network: Option<Arc<HostNetwork>>,
}

/// Opens the filter; `None` where it cannot be, and then nothing is reached.
pub(crate) async fn open(settings: &EgressSettings, place: &Place) -> anyhow::Result<Option<WayOut>> {
    let (denials, denied) = Denials::channel(WAITING);
    let proxy = match Proxy::new(settings.options()?, denials) {
        Ok(proxy) => proxy,
        Err(error) => {
            tracing::warn!(%error, "sandboxes with a filtered network reach nothing");
            return Ok(None);
        }
    };
    let network = network(settings, place).await?;
    Ok(Some(WayOut {
        proxy,
        denied,
        network,
    }))
}

async fn network(settings: &EgressSettings, place: &Place) -> anyhow::Result<Option<Arc<HostNetwork>>> {
    let root = nix::unistd::geteuid().is_root();
    if settings.interfaces == Enabled::No || (settings.interfaces == Enabled::Auto && !root) {
        return Ok(None);
    }
    let mut options = NetworkOptions::new(&place.instance, place.sandboxes.join("network"));
    options.range = settings.range.parse()?;
    match HostNetwork::open(options).await {
        Ok(network) => Ok(Some(Arc::new(network))),
        Err(error) if settings.interfaces == Enabled::Yes => bail!(
            "sandboxes cannot have interfaces, and the settings say that they must (`egress.interfaces = true`): {error}"
        ),
        Err(error) => {
            tracing::warn!(%error, "sandboxes with a filtered network have no interface");
            Ok(None)
        }
    }
}

impl WayOut {
    /// Serves the interfaces and tells what is denied, until `stop`.
    pub(crate) async fn run(self, control: Control, stop: CancellationToken) -> Result<(), NetworkError> {
        let telling = control.clone();
        let told = telling.tell_denials(self.denied);
        let Some(network) = self.network else {
            stop.run_until_cancelled(told).await;
            return Ok(());
        };
        let traffic = Arc::new(Interfaces {
            control,
            proxy: self.proxy,
            network: Arc::clone(&network),
            sessions: Sessions::default(),
        });
        tokio::select! {
            served = network.listen(traffic, stop.clone()) => served,
            () = told => Ok(()),
        }
    }
}

/// The sandboxes that have been heard of.
#[derive(Default, Clone)]
struct Sessions(Arc<Mutex<HashMap<SandboxId, (Session, DropGuard)>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, (Session, DropGuard)>> {
        // The map is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: SandboxId) -> Option<Session> {
        self.lock().get(&id).map(|(session, _)| session.clone())
    }
}

/// Finds the session of whoever an interface belongs to. It is made when a sandbox is first heard of, from its record,
/// so that it makes no difference whether this server or one before it started the sandbox.
struct Interfaces {
    control: Control,
    proxy: Proxy,
    network: Arc<HostNetwork>,
    sessions: Sessions,
}

impl Interfaces {
    async fn filtered(
        &self,
        id: SandboxId,
    ) -> FilteredTraffic<impl Fn(SandboxId) -> Option<Session> + Send + Sync + 'static> {
        let session = self.session(id).await;
        FilteredTraffic::new(move |_| session.clone())
    }

    async fn session(&self, id: SandboxId) -> Option<Session> {
        if let Some(known) = self.sessions.get(id) {
            return Some(known);
        }
        let sandbox: Sandbox = self.control.store().get(id).await.ok()??;
        let policy = Policy::compile(&sandbox.template.egress).ok()?;
        let ended = CancellationToken::new();
        let session = self.proxy.session(id, policy, ended.clone());
        let mut sessions = self.sessions.lock();
        // Those whose interfaces are gone are over.
        let holders = self.network.holders();
        sessions.retain(|id, _| holders.contains(id));
        let (session, _) = sessions.entry(id).or_insert((session, ended.drop_guard()));
        Some(session.clone())
    }
}

#[async_trait]
impl Traffic for Interfaces {
    async fn connection(&self, connection: Redirected) {
        self.filtered(connection.sandbox)
            .await
            .connection(connection)
            .await;
    }

    async fn query(&self, sandbox: SandboxId, query: Vec<u8>, tcp: bool) -> Option<Vec<u8>> {
        self.filtered(sandbox).await.query(sandbox, query, tcp).await
    }

    fn denied(&self, denied: Denied) {
        let sessions = self.sessions.clone();
        if sessions.get(denied.sandbox).is_some() {
            FilteredTraffic::new(move |id| sessions.get(id)).denied(denied);
            return;
        }
        // The first that is heard of it.
        let this = Self {
            control: self.control.clone(),
            proxy: self.proxy.clone(),
            network: Arc::clone(&self.network),
            sessions,
        };
        tokio::spawn(async move { this.filtered(denied.sandbox).await.denied(denied) });
    }
}
