//! Where the drivers of this server start sandboxes: one or several hosts of each kind. A host that is away when the
//! server starts is added when it is there.

use ostler_domain::{DriverKind, Pool};
use ostler_sandbox::{Driver, DriverError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Name of the only host of a driver.
pub const LOCAL: &str = "local";

/// A driver on one host: an engine, or this machine.
#[derive(Clone)]
pub struct DriverHost {
    /// Which kind of driver.
    pub kind: DriverKind,
    /// Name, unique among those of its kind.
    pub name: String,
    /// The driver.
    pub driver: Arc<dyn Driver>,
}

/// The drivers of this server, by kind and host. Clones share one list, to which hosts may be added.
#[derive(Clone, Default)]
pub struct Drivers(watch::Sender<Hosts>);

/// What [`Drivers`] knows.
#[derive(Default)]
pub(crate) struct Hosts {
    /// Those that can be used.
    pub(crate) usable: Vec<DriverHost>,
    /// Those that are wanted and not there yet, and why.
    away: BTreeMap<(DriverKind, String), String>,
}

impl Drivers {
    /// Of these hosts.
    pub fn new(usable: Vec<DriverHost>) -> Self {
        Self(watch::Sender::new(Hosts {
            usable,
            away: BTreeMap::new(),
        }))
    }

    /// Notes that a host is wanted and cannot be used at present: what is wrong and what to do.
    pub fn set_away(&self, kind: DriverKind, name: &str, why: String) {
        self.0.send_if_modified(|hosts| {
            hosts.away.insert((kind, name.to_owned()), why);
            false
        });
    }

    /// Adds a host that can be used from now on. What is left there must have been looked at before: see
    /// [`Control::add_host`](crate::Control::add_host).
    pub(crate) fn add(&self, host: DriverHost) {
        self.0.send_modify(|hosts| {
            hosts.away.remove(&(host.kind, host.name.clone()));
            hosts.usable.push(host);
        });
    }

    /// Tells of hosts that are added.
    pub(crate) fn changes(&self) -> watch::Receiver<Hosts> {
        self.0.subscribe()
    }

    /// All hosts that can be used.
    pub fn all(&self) -> Vec<DriverHost> {
        self.0.borrow().usable.clone()
    }

    /// The hosts of a kind that can be used.
    pub fn hosts(&self, kind: DriverKind) -> Vec<DriverHost> {
        let hosts = self.0.borrow();
        let of_kind = hosts.usable.iter().filter(|host| host.kind == kind);
        of_kind.cloned().collect()
    }

    /// The hosts that are wanted and not there yet, and why.
    pub fn away(&self) -> BTreeMap<(DriverKind, String), String> {
        self.0.borrow().away.clone()
    }

    /// Whether there is a driver of a kind.
    pub fn has(&self, kind: DriverKind) -> bool {
        self.0.borrow().usable.iter().any(|host| host.kind == kind)
    }

    /// The driver of a kind on a host.
    pub fn get(&self, kind: DriverKind, name: &str) -> Option<Arc<dyn Driver>> {
        let hosts = self.0.borrow();
        let mut all = hosts.usable.iter();
        let found = all.find(|host| host.kind == kind && host.name == name)?;
        Some(Arc::clone(&found.driver))
    }

    /// The driver that speaks for the pool: that of a host which can do what it asks, or of any.
    pub fn of(&self, pool: &Pool) -> Option<Arc<dyn Driver>> {
        let hosts = self.hosts(pool.template.driver);
        let mut able = hosts
            .iter()
            .filter(|host| host.driver.check(&pool.template).is_ok());
        let chosen = able.next().or(hosts.first())?;
        Some(Arc::clone(&chosen.driver))
    }

    /// Fails when no host can do what the pool asks, with what each refuses.
    pub fn check(&self, pool: &Pool) -> Result<(), DriverError> {
        let kind = pool.template.driver;
        let mut refusals = Vec::new();
        for host in self.hosts(kind) {
            match host.driver.check(&pool.template) {
                Ok(()) => return Ok(()),
                Err(DriverError::Unsupported { reasons, .. }) if host.name == LOCAL => {
                    refusals.extend(reasons);
                }
                Err(DriverError::Unsupported { reasons, .. }) => {
                    refusals.extend(
                        reasons
                            .into_iter()
                            .map(|reason| format!("{} (on {})", reason, host.name)),
                    );
                }
                Err(other) => return Err(other),
            }
        }
        Err(DriverError::Unsupported {
            driver: kind,
            reasons: refusals,
        })
    }
}

impl From<BTreeMap<DriverKind, Arc<dyn Driver>>> for Drivers {
    /// One host of each kind.
    fn from(drivers: BTreeMap<DriverKind, Arc<dyn Driver>>) -> Self {
        let host = |(kind, driver)| DriverHost {
            kind,
            name: LOCAL.to_owned(),
            driver,
        };
        Self::new(drivers.into_iter().map(host).collect())
    }
}
