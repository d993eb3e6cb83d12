//! Slots: made ahead, given to a sandbox, taken back and removed.

use super::{Inner, lock};
use crate::addresses::Direct;
use crate::command::proc_net;
use crate::netlink::set_alias;
use crate::slot::{Slot, blocking};
use crate::{NetworkError, conntrack, host, rules};
use ostler_domain::SandboxId;
use std::net::Ipv4Addr;

impl Inner {
    pub(super) async fn acquire(&self, id: SandboxId, allowed: Vec<Direct>) -> Result<Slot, NetworkError> {
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
            blocking("letting packets through", move || host::forward(&interface)).await?;
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

    pub(super) async fn release(&self, id: SandboxId) -> Result<(), NetworkError> {
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
    pub(super) async fn forget(&self, address: Ipv4Addr) {
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
            if !state.used.contains(&number) && !host::routed(routes, range.network(number)) {
                state.used.insert(number);
                return Ok(number);
            }
        }
        Err(NetworkError::Exhausted(range.slots()))
    }

    /// Makes slots until there are enough.
    pub(super) async fn fill(&self) -> Result<(), NetworkError> {
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
