//! The network of all sandboxes of one instance on this host.

use crate::addresses::{Direct, direct};
use crate::command::{Programs, proc_net, set};
use crate::listen::{Sockets, plain};
use crate::names::{Names, is_ours};
use crate::netlink::set_alias;
use crate::options::NetworkOptions;
use crate::rules::{self, Ports};
use crate::slot::{Maker, Slot, blocking};
use crate::{NetworkError, conntrack, namespace};
use nix::fcntl::{Flock, FlockArg};
use ostler_domain::SandboxId;
use ostler_egress::AddressRule;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// How long the programs of a killed server get to end.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_STEP: Duration = Duration::from_millis(5);
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

/// What a sandbox has sent and received, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received by the sandbox.
    pub received: u64,
    /// Sent by the sandbox.
    pub sent: u64,
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
        let lock_file = lock_file(&options).await?;
        let shared = lock_file
            .try_clone()
            .map_err(NetworkError::io("sharing the lock"))?;
        let maker = Maker {
            programs: Programs::find(shared)?,
            names: Names::of(&options.instance),
            range: options.range,
        };
        free(&maker).await?;
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
        counters(&proc_net("dev").ok()?, &interface)
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

    /// Takes over what an earlier server left: slots with a holder stay, with what they may reach; the rest goes.
    async fn adopt(&self) -> Result<(), NetworkError> {
        let names = &self.maker.names;
        let shown = self.maker.programs.nft_table(&names.table()).await?;
        let mut allowed = shown.as_ref().map(rules::parse).unwrap_or_default();
        let namespaces: BTreeSet<u32> = namespace::all().iter().filter_map(|n| names.slot(n)).collect();
        let mut all = namespaces.clone();
        for (name, alias) in links(&self.maker.programs).await? {
            let Some(number) = names.slot(&name) else { continue };
            all.insert(number);
            if let (Ok(id), Some(slot), true) = (
                alias.parse::<SandboxId>(),
                self.maker.existing(number),
                namespaces.contains(&number),
            ) {
                let reach = allowed.get(&name).cloned().unwrap_or_default();
                let mut state = lock(&self.state);
                state.used.insert(number);
                state.held.insert(id, self.held(slot, reach));
            }
        }
        allowed.retain(|name, _| lock(&self.state).held.values().any(|h| h.slot.interface == *name));
        self.load(&allowed).await?;
        let left: Vec<u32> = all.difference(&lock(&self.state).used).copied().collect();
        for number in left {
            self.maker.remove(number).await?;
            self.forget(self.maker.range.address(number)).await;
        }
        Ok(())
    }

    async fn load(&self, allowed: &BTreeMap<String, Vec<Direct>>) -> Result<(), NetworkError> {
        let maker = &self.maker;
        let script = rules::table(&maker.names, maker.range, self.ports, allowed);
        maker
            .programs
            .nft("loading the packet filter", &script)
            .await
            .map_err(|e| {
                NetworkError::Cannot(format!(
                    "{e}: the kernel needs nf_tables with NAT, fib, log and reject for inet"
                ))
            })
    }

    /// Puts the packet filter back if another program removed it, as restarting the service `nftables` does.
    async fn watch_filter(&self) -> Result<(), NetworkError> {
        let _filter = self.filter.lock().await;
        let table = self.maker.names.table();
        if lock(&self.state).closed {
            return Ok(());
        }
        if self.maker.programs.nft_table(&table).await?.is_some() {
            return Ok(());
        }
        tracing::warn!("another program removed the packet filter of the sandboxes; it is put back");
        let allowed = lock(&self.state)
            .held
            .values()
            .map(|h| (h.slot.interface.clone(), h.allowed.clone()))
            .collect();
        self.load(&allowed).await
    }

    async fn acquire(&self, id: SandboxId, allowed: Vec<Direct>) -> Result<Slot, NetworkError> {
        if lock(&self.state).held.contains_key(&id) {
            return Err(NetworkError::Held(id));
        }
        let ready = lock(&self.state).spare.pop_front();
        self.wanted.notify_one();
        let slot = if let Some(slot) = ready {
            slot
        } else {
            let _making = self.making.lock().await;
            self.make().await?
        };
        match self.give(id, &slot, &allowed).await {
            Ok(()) => Ok(slot),
            Err(e) => {
                lock(&self.state).held.remove(&id);
                if let Err(error) = self.discard(&slot, &[]).await {
                    tracing::warn!(%error, "removing a network that could not be given away");
                }
                Err(e)
            }
        }
    }

    async fn give(&self, id: SandboxId, slot: &Slot, allowed: &[Direct]) -> Result<(), NetworkError> {
        // The holder first: a server killed in between finds by it whose the rest is.
        set_alias(slot.index, &id.to_string()).map_err(NetworkError::io("noting the holder of a network"))?;
        if !allowed.is_empty() {
            let _filter = self.filter.lock().await;
            let interface = slot.interface.clone();
            blocking("letting packets through", move || forward(&interface)).await?;
            let script = rules::elements(&self.maker.names, "add", &slot.interface, allowed);
            self.maker.programs.nft("allowing addresses", &script).await?;
        }
        let mut state = lock(&self.state);
        if state.held.contains_key(&id) {
            return Err(NetworkError::Held(id));
        }
        state.held.insert(id, self.held(slot.clone(), allowed.to_vec()));
        Ok(())
    }

    async fn release(&self, id: SandboxId) -> Result<(), NetworkError> {
        let Some(held) = lock(&self.state).held.get(&id).cloned() else {
            return Ok(());
        };
        held.released.cancel();
        self.discard(&held.slot, &held.allowed).await?;
        lock(&self.state).held.remove(&id);
        Ok(())
    }

    /// Removes a slot. Its number becomes free only with all of it gone: what were left would be its successor's.
    async fn discard(&self, slot: &Slot, allowed: &[Direct]) -> Result<(), NetworkError> {
        {
            let _filter = self.filter.lock().await;
            let programs = &self.maker.programs;
            let shown = match allowed {
                [] => None,
                _ => programs.nft_table(&self.maker.names.table()).await?,
            };
            // What is there, and not what was added: an earlier try may have removed it.
            if let Some(there) = shown
                .as_ref()
                .map(rules::parse)
                .and_then(|mut s| s.remove(&slot.interface))
            {
                let script = rules::elements(&self.maker.names, "delete", &slot.interface, &there);
                programs.nft("taking back allowed addresses", &script).await?;
            }
        }
        self.maker.remove(slot.number).await?;
        self.forget(slot.address).await;
        lock(&self.state).used.remove(&slot.number);
        Ok(())
    }

    /// Without this a late answer to an earlier holder would reach the next one; nothing more, see [`rules::table`].
    async fn forget(&self, address: Ipv4Addr) {
        let forgotten = blocking("forgetting connections", move || conntrack::forget(address));
        if let Err(error) = forgotten.await {
            tracing::warn!(%address, %error, "ended connections of a sandbox are still remembered");
        }
    }

    /// Makes one slot, with `making` held. Numbers go round, so that one is used again as late as possible.
    async fn make(&self) -> Result<Slot, NetworkError> {
        let routes = proc_net("route").map_err(NetworkError::io("looking at routes"))?;
        let number = self.number(&routes)?;
        match self.maker.make(number).await {
            Ok(slot) => Ok(slot),
            Err(e) => {
                match self.maker.remove(number).await {
                    Ok(()) => drop(lock(&self.state).used.remove(&number)),
                    Err(error) => tracing::warn!(%error, "removing a half-made network; the next start will"),
                }
                Err(e)
            }
        }
    }

    /// A free number, taken, whose addresses no other instance uses.
    fn number(&self, routes: &str) -> Result<u32, NetworkError> {
        let range = self.maker.range;
        let mut state = lock(&self.state);
        for _ in 0..range.slots() {
            let number = state.next;
            state.next = (number + 1) % range.slots();
            if !state.used.contains(&number) && !routed(routes, range.network(number)) {
                state.used.insert(number);
                return Ok(number);
            }
        }
        Err(NetworkError::Exhausted(range.slots()))
    }

    /// Makes slots until there are enough.
    async fn fill(&self) -> Result<(), NetworkError> {
        while lock(&self.state).spare.len() < self.options.spare {
            let _making = self.making.lock().await;
            if lock(&self.state).closed {
                break;
            }
            let slot = self.make().await?;
            lock(&self.state).spare.push_back(slot);
        }
        Ok(())
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

/// The lock of the instance, which also ends only with the last program that a killed server had started.
async fn lock_file(options: &NetworkOptions) -> Result<Flock<File>, NetworkError> {
    let failed = |e| NetworkError::io(format!("the directory {}", options.state_dir.display()))(e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.state_dir)
        .map_err(failed)?;
    let path = options.state_dir.join("network.lock");
    let mut file = File::create(&path).map_err(failed)?;
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < end => {
                file = back;
                tokio::time::sleep(LOCK_STEP).await;
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(NetworkError::Cannot(format!(
                    "another server has {}: only one can use an instance's network at a time",
                    path.display()
                )));
            }
            Err((_, e)) => return Err(failed(e.into())),
        }
    }
}

/// Refuses a range that this host has other uses for.
async fn free(maker: &Maker) -> Result<(), NetworkError> {
    let routes = maker
        .programs
        .ip_json(&["-4", "route", "show", "table", "all"])
        .await?;
    for route in routes.as_array().into_iter().flatten() {
        let text = |key: &str| route.get(key).and_then(|v| v.as_str());
        let (Some(destination), device) = (text("dst"), text("dev").unwrap_or_default()) else {
            continue;
        };
        let (address, prefix) = destination.split_once('/').unwrap_or((destination, "32"));
        let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) else {
            continue;
        };
        if prefix > 0 && !is_ours(device) && maker.range.overlaps(address, prefix) {
            return Err(NetworkError::Cannot(format!(
                "the addresses {} of sandboxes overlap with {destination} on {device}: choose another range",
                maker.range
            )));
        }
    }
    Ok(())
}

/// Interfaces with their alias.
async fn links(programs: &Programs) -> Result<Vec<(String, String)>, NetworkError> {
    let shown = programs.ip_json(&["link", "show"]).await?;
    let links = shown.as_array().into_iter().flatten();
    let text = |link: &serde_json::Value, key: &str| link.get(key)?.as_str().map(str::to_owned);
    Ok(links
        .filter_map(|l| Some((text(l, "ifname")?, text(l, "ifalias").unwrap_or_default())))
        .collect())
}

/// Lets packets through between a slot and the rest. For the host as a whole only if it does not already: the rules of
/// this instance keep all but its own from using that no better than before, so it is said in the log.
fn forward(interface: &str) -> std::io::Result<()> {
    let all = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    if all.trim() == "0" {
        tracing::info!("net.ipv4.ip_forward is set to 1, since a sandbox may reach an address directly");
        set("ipv4/ip_forward", "1")?;
    }
    set(&format!("ipv4/conf/{interface}/forwarding"), "1")
}

/// Whether the routes of /proc/net/route have one to exactly this network.
fn routed(routes: &str, network: Ipv4Addr) -> bool {
    let wanted = format!("{:08X}", u32::from_ne_bytes(network.octets()));
    routes
        .lines()
        .any(|l| l.split_ascii_whitespace().nth(1) == Some(&wanted))
}

/// The counters of an interface in the text of /proc/net/dev, seen from its other end.
fn counters(text: &str, interface: &str) -> Option<Counters> {
    let line = text
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
    let sent = numbers.next()?.ok()?;
    let received = numbers.nth(7)?.ok()?;
    Some(Counters { received, sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_seen_from_the_sandbox() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n\
                    o1a2b3c4d-0001: 100 2 0 0 0 0 0 0 7000 3 0 0 0 0 0 0\n";
        let found = counters(text, "o1a2b3c4d-0001").unwrap();
        assert_eq!((found.sent, found.received), (100, 7000));
        assert_eq!(counters(text, "o1a2b3c4d-0002"), None);
    }

    #[test]
    fn networks_of_other_instances_are_seen() {
        let text = "Iface Destination Gateway\no1a2b3c4d-0001\t0400D50A\t00000000\t0001\n";
        assert!(routed(text, Ipv4Addr::new(10, 213, 0, 4)));
        assert!(!routed(text, Ipv4Addr::new(10, 213, 0, 8)));
    }
}
