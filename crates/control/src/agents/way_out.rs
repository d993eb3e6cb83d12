//! The way out of sandboxes whose network is filtered: programs connect to their guest, as they are told by the usual
//! variables, and the server takes those connections to its egress filter.
//!
//! Runs take them with their other services. For an agent that a person holds there is a task, from the first program on.

use crate::guest::{Guest, GuestError};
use crate::{Control, Result};
use ostler_domain::{NetworkPolicy, Sandbox, SandboxId, SandboxStatus};
use ostler_egress::{Policy, Session};
use ostler_store::StoreExt;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections of one sandbox at once; more wait at the guest.
const MOST: usize = 100;
/// Pause after the guest could not be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// What needs no way out.
const DIRECT: &str = "localhost,127.0.0.1,::1";

/// The sandboxes of persons whose connections are taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Served(Arc<Mutex<HashSet<SandboxId>>>);

impl Served {
    fn change<T>(&self, change: impl FnOnce(&mut HashSet<SandboxId>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The variables by which programs find a proxy.
fn variables(proxy: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in [
        ("HTTP_PROXY", proxy),
        ("HTTPS_PROXY", proxy),
        ("ALL_PROXY", proxy),
        ("NO_PROXY", DIRECT),
    ] {
        env.insert(name.to_owned(), value.to_owned());
        env.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    env
}

impl Control {
    /// What programs of a sandbox have to know to get out; nothing unless its network is filtered.
    pub(crate) async fn way_out_env(
        &self,
        sandbox: &Sandbox,
        guest: &Guest,
    ) -> std::result::Result<BTreeMap<String, String>, GuestError> {
        if sandbox.template.network != NetworkPolicy::Filtered {
            return Ok(BTreeMap::new());
        }
        if !sandbox.for_run {
            self.ensure_way_out(sandbox);
        }
        let proxy = guest.configure().await?.egress_url;
        // A guest of an old image has no such listener: its programs get nowhere, which is the safe side.
        Ok(if proxy.is_empty() {
            BTreeMap::new()
        } else {
            variables(&proxy)
        })
    }

    /// What a sandbox's connections to the outside are served with, until the guard is dropped; `None` when it must not
    /// have any.
    pub(crate) fn way_out(&self, sandbox: &Sandbox) -> Option<(Session, DropGuard)> {
        let filter = self.egress.as_ref()?;
        if sandbox.template.network != NetworkPolicy::Filtered {
            return None;
        }
        match Policy::compile(&sandbox.template.egress) {
            Ok(policy) => {
                let ended = CancellationToken::new();
                let session = filter.session(sandbox.id, policy, ended.clone());
                Some((session, ended.drop_guard()))
            }
            Err(error) => {
                tracing::warn!(%error, sandbox.id = %sandbox.id, "its list of what it may reach makes no sense: it reaches nothing");
                None
            }
        }
    }

    /// Takes the connections of an agent from now on, if that is not done already.
    pub(crate) fn ensure_way_out(&self, sandbox: &Sandbox) {
        let Some((session, guard)) = self.way_out(sandbox) else {
            return;
        };
        let Ok(guest) = self.guest(sandbox) else { return };
        if !self.served.change(|served| served.insert(sandbox.id)) {
            return;
        }
        let (control, id) = (self.clone(), sandbox.id);
        tokio::spawn(async move {
            while control.is_held(id).await.unwrap_or(true) {
                serve(&guest, &session).await;
                tokio::time::sleep(PAUSE).await;
            }
            drop(guard);
            control.served.change(|served| served.remove(&id));
        });
    }

    async fn is_held(&self, id: SandboxId) -> Result<bool> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        Ok(sandbox.is_some_and(|sandbox| {
            matches!(
                sandbox.status,
                SandboxStatus::Provisioning | SandboxStatus::Running | SandboxStatus::Unhealthy
            )
        }))
    }
}

/// Takes connections as long as the guest announces any.
async fn serve(guest: &Guest, session: &Session) {
    let Ok(mut incoming) = guest.accept().await else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = incoming.message(), if connections.len() < MOST => match next {
                Ok(Some(next)) => {
                    let (guest, session) = (guest.clone(), session.clone());
                    connections.spawn(async move {
                        let Ok(stream) = guest.tunnel(next.connection_id).await else { return };
                        // `bd` and the model API are for runs: theirs are closed.
                        if next.listener == "egress" {
                            session.serve(stream).await;
                        }
                    });
                }
                Ok(None) | Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_in_both_spellings() {
        let env = variables("http://127.0.0.1:7");
        assert_eq!(env.len(), 8);
        for name in ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            assert_eq!(env[name], "http://127.0.0.1:7", "{name}");
        }
        assert_eq!(env["NO_PROXY"], env["no_proxy"]);
        assert!(env["no_proxy"].contains("127.0.0.1"));
    }
}
