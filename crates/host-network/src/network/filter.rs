//! The packet filter: loaded before there is any interface, taken over from an earlier server, put back when it is gone.

use super::{Inner, lock};
use crate::addresses::Direct;
use crate::{NetworkError, host, namespace, rules};
use ostler_domain::SandboxId;
use std::collections::{BTreeMap, BTreeSet};

impl Inner {
    /// Takes over what an earlier server left: slots with a holder stay, with what they may reach; the rest goes.
    pub(super) async fn adopt(&self) -> Result<(), NetworkError> {
        let names = &self.maker.names;
        let shown = self.maker.programs.nft_table(&names.table()).await?;
        let mut allowed = shown.as_ref().map(rules::parse).unwrap_or_default();
        let namespaces: BTreeSet<u32> = namespace::all().iter().filter_map(|n| names.slot(n)).collect();
        let mut all = namespaces.clone();
        for (name, alias) in host::links(&self.maker.programs).await? {
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
    pub(super) async fn watch_filter(&self) -> Result<(), NetworkError> {
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
}
