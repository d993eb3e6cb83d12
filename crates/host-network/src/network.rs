//! The network of all sandboxes of one instance on this host.

mod filter;
mod slots;

use crate::NetworkError;
use crate::addresses::{Direct, direct};
use crate::command::{Programs, proc_net};
use crate::host::{self, Counters};
use crate::listen::{Sockets, plain};
use crate::names::Names;
use crate::options::NetworkOptions;
use crate::rules::Ports;
use crate::slot::{Maker, Slot};
use nix::fcntl::Flock;
use ostler_domain::SandboxId;
use ostler_egress::AddressRule;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// How often the packet filter is looked at, and a failed slot is tried again.
const LOOK: Duration = Duration::from_secs(5);

/// The network of all sandboxes of one instance on this host. Its slots outlive it; see [`HostNetwork::close`].
#[derive(Debug)]
pub struct HostNetwork {
    pub(crate) inner: Arc<Inner>,
    keeper: AbortHandle,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) maker: Maker,
    options: NetworkOptions,
    ports: Ports,
    sockets: Mutex<Option<Sockets>>,
    state: Mutex<State>,
    /// Held while a slot is made: the kernel does one at a time anyway.
    making: tokio::sync::Mutex<()>,
    /// Held while the packet filter is changed, so that what is put back is what was there.
    filter: tokio::sync::Mutex<()>,
    wanted: Notify,
    /// Keeps other servers of the instance away.
    _lock: Flock<File>,
}

#[derive(Debug, Default)]
struct State {
    spare: VecDeque<Slot>,
    held: BTreeMap<SandboxId, Held>,
    /// Numbers of slots that exist, or of which something may exist.
    used: BTreeSet<u32>,
    next: u32,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Held {
    slot: Slot,
    allowed: Vec<Direct>,
    places: Arc<Semaphore>,
    released: CancellationToken,
}

/// A sandbox that knocks.
pub(crate) struct Visitor {
    pub(crate) sandbox: SandboxId,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) released: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostNetwork {
    /// Looks at the host, loads the packet filter, finds again the slots that sandboxes hold, removes what else an
    /// earlier server left, and begins to make slots ahead. Must be called within a tokio runtime.
    ///
    /// [`NetworkError::Cannot`] says what this host lacks; then there is no filtered network beyond the loopback.
    pub async fn open(options: NetworkOptions) -> Result<Self, NetworkError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(NetworkError::Cannot(
                "that takes the rights of root: run the server as root, or sandboxes have the proxy as their only way \
                 out"
                .into(),
            ));
        }
        let lock_file = host::lock_file(&options).await?;
        let shared = lock_file
            .try_clone()
            .map_err(NetworkError::io("sharing the lock"))?;
        let maker = Maker {
            programs: Programs::find(shared)?,
            names: Names::of(&options.instance),
            range: options.range,
        };
        host::free(&maker).await?;
        let sockets = Sockets::bind()
            .await
            .map_err(NetworkError::io("listening for connections of sandboxes"))?;
        let port = |local: std::io::Result<std::net::SocketAddr>| {
            local.map(|a| a.port()).map_err(NetworkError::io("listening"))
        };
        let ports = Ports {
            proxy: port(sockets.proxy.local_addr())?,
            names: port(sockets.names_udp.local_addr())?,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                next: maker.names.offset % maker.range.slots(),
                ..State::default()
            }),
            maker,
            options,
            ports,
            sockets: Mutex::new(Some(sockets)),
            making: tokio::sync::Mutex::default(),
            filter: tokio::sync::Mutex::default(),
            wanted: Notify::new(),
            _lock: lock_file,
        });
        inner.adopt().await?;
        let keeper = tokio::spawn(keep(Arc::downgrade(&inner))).abort_handle();
        Ok(Self { inner, keeper })
    }

    /// Gives a sandbox its slot, with which it may reach `allowed` directly; overlapping entries are fine, IPv6 ones are
    /// left to the proxy. Takes one that was made ahead; if there is none, one is made: a burst is not refused, it
    /// merely waits for the kernel. Fails for a sandbox that has one already. On failure nothing is left.
    pub async fn acquire(&self, id: SandboxId, allowed: &[AddressRule]) -> Result<Slot, NetworkError> {
        // A task of its own: a caller that gives up must not leave half a slot.
        let (inner, allowed) = (self.inner.clone(), direct(allowed));
        tokio::spawn(async move { inner.acquire(id, allowed).await })
            .await
            .map_err(|e| NetworkError::io("giving a sandbox its network")(e.into()))?
    }

    /// Removes the slot of a sandbox, whose processes must have ended. Its connections to the proxy are cut. Idempotent;
    /// after an error it can be tried again.
    pub async fn release(&self, id: SandboxId) -> Result<(), NetworkError> {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.release(id).await })
            .await
            .map_err(|e| NetworkError::io("removing the network of a sandbox")(e.into()))?
    }

    /// The slot of a sandbox.
    pub fn slot(&self, id: SandboxId) -> Option<Slot> {
        lock(&self.inner.state).held.get(&id).map(|h| h.slot.clone())
    }

    /// The sandboxes that hold a slot, also those of an earlier server.
    pub fn holders(&self) -> Vec<SandboxId> {
        lock(&self.inner.state).held.keys().copied().collect()
    }

    /// What a sandbox has sent and received so far; `None` if it has no slot.
    pub fn counters(&self, id: SandboxId) -> Option<Counters> {
        let interface = self.slot(id)?.interface;
        host::counters(&proc_net("dev").ok()?, &interface)
    }

    /// Slots that are ready for use.
    pub fn spare(&self) -> usize {
        lock(&self.inner.state).spare.len()
    }

    /// Port of the proxy, on each slot's gateway.
    pub fn proxy_port(&self) -> u16 {
        self.inner.ports.proxy
    }

    /// Removes the slots made ahead and, if no sandbox holds one, the packet filter: nothing is left then.
    pub async fn close(&self) -> Result<(), NetworkError> {
        self.keeper.abort();
        let inner = &self.inner;
        let _making = inner.making.lock().await;
        let _filter = inner.filter.lock().await;
        lock(&inner.state).closed = true;
        loop {
            let Some(slot) = lock(&inner.state).spare.pop_front() else {
                break;
            };
            inner.maker.remove(slot.number).await?;
            lock(&inner.state).used.remove(&slot.number);
        }
        if !lock(&inner.state).used.is_empty() {
            return Ok(());
        }
        let table = inner.maker.names.table();
        let script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
        inner
            .maker
            .programs
            .nft("removing the packet filter", &script)
            .await
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Inner {
    pub(crate) fn take_sockets(&self) -> Option<Sockets> {
        lock(&self.sockets).take()
    }

    pub(crate) fn put_sockets(&self, sockets: Sockets) {
        *lock(&self.sockets) = Some(sockets);
    }

    /// Who has an address.
    pub(crate) fn visitor(&self, peer: IpAddr) -> Option<Visitor> {
        let address = plain(peer)?;
        let state = lock(&self.state);
        let (id, held) = state.held.iter().find(|(_, h)| h.slot.address == address)?;
        Some(Visitor {
            sandbox: *id,
            places: held.places.clone(),
            released: held.released.clone(),
        })
    }

    /// Who has an interface.
    pub(crate) fn holder_of_interface(&self, index: u32) -> Option<SandboxId> {
        let state = lock(&self.state);
        state
            .held
            .iter()
            .find(|(_, h)| h.slot.index == index)
            .map(|(id, _)| *id)
    }

    fn held(&self, slot: Slot, allowed: Vec<Direct>) -> Held {
        Held {
            slot,
            allowed,
            places: Arc::new(Semaphore::new(self.options.connections)),
            released: CancellationToken::new(),
        }
    }
}

/// Keeps the number of spare slots and the packet filter as they should be. Holds no strong reference while it waits.
async fn keep(weak: std::sync::Weak<Inner>) {
    loop {
        let Some(inner) = weak.upgrade() else { return };
        // Not cancelled in the middle of making one, which would be lost track of.
        let work = tokio::spawn(async move {
            if let Err(error) = inner.watch_filter().await {
                tracing::warn!(%error, "looking at the packet filter of the sandboxes");
            }
            if let Err(error) = inner.fill().await {
                tracing::warn!(%error, "making networks ahead");
            }
        });
        let _tells_itself = work.await;
        let Some(inner) = weak.upgrade() else { return };
        // Also ends when this is the last reference, since then the task is aborted.
        let _woken_or_time = tokio::time::timeout(LOOK, inner.wanted.notified()).await;
    }
}
