//! Placement: on which host of its driver a sandbox is started.

use crate::hosts::DriverHost;
use crate::{Control, ControlError, Result};
use ostler_contracts::HostVerdict;
use ostler_domain::{DriverKind, Host, SandboxStatus, SandboxTemplate};
use ostler_sandbox::DriverError;
use ostler_store::{Filter, StoreExt, as_owner};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The sandboxes of a pool that are not gone, counted over all servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Warm.
    pub warm: u32,
    /// Being started.
    pub starting: u32,
    /// Held by somebody.
    pub held: u32,
    /// Being taken down.
    pub ending: u32,
}

impl Counts {
    /// All of them.
    pub fn live(self) -> u32 {
        self.warm + self.starting + self.held + self.ending
    }

    fn add(&mut self, status: SandboxStatus, count: u32) {
        match status {
            SandboxStatus::Warm => self.warm += count,
            SandboxStatus::Provisioning => self.starting += count,
            SandboxStatus::Running | SandboxStatus::Unhealthy => self.held += count,
            SandboxStatus::Destroying => self.ending += count,
            SandboxStatus::Destroyed => {}
        }
    }
}

/// How many sandboxes there are on a host of a driver.
pub(super) type HostCounts = BTreeMap<(DriverKind, String), u32>;

/// A host and what stands in the way of starting there.
pub(crate) struct Verdict {
    pub(crate) host: DriverHost,
    /// Sandboxes of this server there.
    pub(crate) live: u32,
    pub(crate) obstacles: Vec<String>,
    /// Whether the last thing that is known of it is a failure.
    pub(crate) failed: bool,
}

impl Control {
    pub(crate) async fn counts(&self) -> Result<BTreeMap<String, Counts>> {
        let mut all: BTreeMap<String, Counts> = BTreeMap::new();
        // Whether a pool is full depends on all who use it.
        for part in as_owner(self.parts.store.sandbox_counts()).await? {
            all.entry(part.pool).or_default().add(part.status, part.count);
        }
        Ok(all)
    }

    pub(crate) async fn counts_of(&self, pool: &str) -> Result<Counts> {
        Ok(self.counts().await?.remove(pool).unwrap_or_default())
    }

    /// The sandboxes of this server that are not gone.
    pub(super) async fn counts_by_host(&self) -> Result<HostCounts> {
        let mut hosts = HostCounts::new();
        for part in self.parts.store.sandbox_counts().await? {
            if part.server_id == self.parts.server_id {
                *hosts.entry((part.driver, part.host)).or_default() += part.count;
            }
        }
        Ok(hosts)
    }

    /// Every host of the template's driver, with what stands in the way of starting there; those with the fewest sandboxes
    /// first.
    pub(crate) async fn host_verdicts(&self, template: &SandboxTemplate) -> Result<Vec<Verdict>> {
        self.verdicts_of(template, true).await
    }

    /// The same, without a look at how many sandboxes they have unless `counted`.
    async fn verdicts_of(&self, template: &SandboxTemplate, counted: bool) -> Result<Vec<Verdict>> {
        let kind = template.driver;
        let mine =
            Filter::<Host>::by("server_id", self.parts.server_id).and("driver", ostler_store::Op::Eq, kind);
        let records = self.parts.store.list(mine).await?;
        let counts = if counted {
            self.counts_by_host().await?
        } else {
            HostCounts::new()
        };
        let now = self.now();
        let mut verdicts: Vec<Verdict> = self
            .parts
            .drivers
            .hosts(kind)
            .into_iter()
            .map(|host| {
                let mut obstacles = Vec::new();
                if let Err(error) = host.driver.check(template) {
                    match error {
                        DriverError::Unsupported { reasons, .. } => {
                            obstacles.extend(
                                reasons
                                    .into_iter()
                                    .map(|reason| format!("it cannot do this: {reason}")),
                            );
                        }
                        other => obstacles.push(other.to_string()),
                    }
                }
                let record = records.iter().find(|record| record.name == host.name);
                if let Some(record) = record {
                    if record.draining {
                        obstacles.push("it is being drained; `ostler sandbox drain --undo` ends that".into());
                    }
                    if let Some(until) = record.quarantined_until.filter(|until| now < *until) {
                        obstacles.push(format!(
                            "it is in quarantine until {} after {} failures in a row, the last: {}",
                            ostler_contracts::Time(until),
                            record.failures,
                            record.last_error.as_deref().unwrap_or("unknown"),
                        ));
                    }
                }
                let there = counts.get(&(kind, host.name.clone()));
                Verdict {
                    live: there.copied().unwrap_or_default(),
                    host,
                    obstacles,
                    failed: record.is_some_and(|record| record.failures > 0),
                }
            })
            .collect();
        verdicts.sort_by(|a, b| (a.live, &a.host.name).cmp(&(b.live, &b.host.name)));
        Ok(verdicts)
    }

    /// What is said of the hosts of a driver that were away when this server started, and are not back.
    pub(super) fn away_verdicts(&self, kind: DriverKind) -> Vec<HostVerdict> {
        let away = self.parts.drivers.away().into_iter();
        away.filter(|((driver, _), _)| *driver == kind)
            .map(|((_, host), why)| HostVerdict {
                host,
                sandboxes: 0,
                reasons: vec![format!("it is away, and is used as soon as it is there: {why}")],
            })
            .collect()
    }

    /// The hosts on which a sandbox can be started, the best first, and of each whether it failed last. At least one.
    pub(super) async fn place(&self, template: &SandboxTemplate) -> Result<Vec<(DriverHost, bool)>> {
        // Where there is no choice, nothing is counted.
        let choice = self.parts.drivers.hosts(template.driver).len() > 1;
        let verdicts = self.verdicts_of(template, choice).await?;
        if verdicts.is_empty() {
            return Err(ControlError::Unavailable(
                self.unavailable(template.driver).unwrap_or_default(),
            ));
        }
        let (free, hindered): (Vec<_>, Vec<_>) = verdicts.into_iter().partition(|v| v.obstacles.is_empty());
        if !free.is_empty() {
            return Ok(free
                .into_iter()
                .map(|verdict| (verdict.host, verdict.failed))
                .collect());
        }
        let unable = hindered.iter().all(|v| v.host.driver.check(template).is_err());
        let away = self.away_verdicts(template.driver);
        let unable = unable && away.is_empty();
        let mut reasons = listed(template.driver, &hindered);
        for host in away {
            let _ = write!(
                reasons,
                ". {} on {}: {}",
                template.driver,
                host.host,
                host.reasons.join("; ")
            );
        }
        Err(if unable {
            ControlError::Unprocessable(reasons)
        } else {
            ControlError::Unavailable(reasons)
        })
    }
}

/// What stands in the way on each host.
fn listed(kind: DriverKind, verdicts: &[Verdict]) -> String {
    let each: Vec<String> = verdicts
        .iter()
        .map(|v| format!("{kind} on {}: {}", v.host.name, v.obstacles.join("; ")))
        .collect();
    format!("the sandbox cannot be started: {}", each.join(". "))
}
