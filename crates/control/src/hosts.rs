//! Where the drivers of this server start sandboxes: one or several hosts of each kind.

use ostler_domain::{DriverKind, Pool};
use ostler_sandbox::{Driver, DriverError};
use std::collections::BTreeMap;
use std::sync::Arc;

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

/// The drivers of this server, by kind and host.
#[derive(Clone, Default)]
pub struct Drivers(Vec<DriverHost>);

impl Drivers {
    /// Of these hosts.
    pub fn new(hosts: Vec<DriverHost>) -> Self {
        Self(hosts)
    }

    /// All hosts.
    pub fn iter(&self) -> impl Iterator<Item = &DriverHost> {
        self.0.iter()
    }

    /// The hosts of a kind.
    pub fn hosts(&self, kind: DriverKind) -> impl Iterator<Item = &DriverHost> {
        self.0.iter().filter(move |host| host.kind == kind)
    }

    /// Whether there is a driver of a kind.
    pub fn has(&self, kind: DriverKind) -> bool {
        self.hosts(kind).next().is_some()
    }

    /// The driver of a kind on a host.
    pub fn get(&self, kind: DriverKind, name: &str) -> Option<&Arc<dyn Driver>> {
        self.hosts(kind)
            .find(|host| host.name == name)
            .map(|host| &host.driver)
    }

    /// The driver that speaks for the pool: that of a host which can do what it asks, or of any.
    pub fn of(&self, pool: &Pool) -> Option<&Arc<dyn Driver>> {
        let kind = pool.template.driver;
        let able = |host: &&DriverHost| host.driver.check(&pool.template).is_ok();
        let chosen = self.hosts(kind).find(able).or_else(|| self.hosts(kind).next())?;
        Some(&chosen.driver)
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
        Self(drivers.into_iter().map(host).collect())
    }
}
