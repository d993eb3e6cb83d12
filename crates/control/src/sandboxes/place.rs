//! Placement: on which host of its driver a sandbox is started.

use super::capacity::room_of;
use crate::hosts::DriverHost;
use crate::{Control, ControlError, Result};
use ostler_contracts::HostVerdict;
use ostler_domain::{DriverKind, Host, Pool, SandboxStatus, SandboxTemplate, Timestamp};
use ostler_sandbox::DriverError;
use ostler_store::{Filter, SandboxCount, StoreExt, as_owner};
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
        Ok(self.by_host(&self.parts.store.sandbox_counts().await?))
    }

    fn by_host(&self, counts: &[SandboxCount]) -> HostCounts {
        let mut hosts = HostCounts::new();
        for part in counts
            .iter()
            .filter(|part| part.server_id == self.parts.server_id)
        {
            *hosts.entry((part.driver, part.host.clone())).or_default() += part.count;
        }
        hosts
    }

    /// Every host of the template's driver, with what stands in the way of starting there; those with the fewest sandboxes
    /// first.
    pub(crate) async fn host_verdicts(&self, template: &SandboxTemplate) -> Result<Vec<Verdict>> {
        let kind = template.driver;
        let hosts = self.parts.drivers.hosts(kind);
        let mine = Filter::<Host>::by("server_id", self.parts.server_id);
        let records = self.parts.store.list(mine).await?;
        // Where there is no choice and no end, nothing is counted.
        let endless = hosts.iter().all(|host| host.driver.machine().is_none());
        let (counts, pools) = if endless && hosts.len() < 2 {
            (Vec::new(), Vec::new())
        } else {
            let pools = self.parts.store.list::<Pool>(Filter::all());
            as_owner(async { tokio::try_join!(self.parts.store.sandbox_counts(), pools) }).await?
        };
        let rooms = self.rooms(&pools, &counts).await?;
        let there = self.by_host(&counts);
        let now = self.now();
        let mut verdicts: Vec<Verdict> = hosts
            .into_iter()
            .map(|host| {
                let mut obstacles = obstacles_of(&host, template, &records, now);
                let name = room_of(&host);
                let room = rooms.iter().find(|room| room.name == name);
                obstacles.extend(room.and_then(|room| self.lacking(room, &pools, template)));
                let record = record_of(&host, &records);
                Verdict {
                    live: there.get(&(kind, host.name.clone())).copied().unwrap_or_default(),
                    failed: record.is_some_and(|record| record.failures > 0),
                    host,
                    obstacles,
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

    /// The best host that a sandbox can be started on, those that were `tried` left out, and whether it failed last: one in
    /// the room `on` before others. `None` when all were tried.
    pub(super) async fn place(
        &self,
        template: &SandboxTemplate,
        on: Option<&str>,
        tried: &[String],
    ) -> Result<Option<(DriverHost, bool)>> {
        let mut verdicts = self.host_verdicts(template).await?;
        if verdicts.is_empty() {
            return Err(ControlError::Unavailable(
                self.unavailable(template.driver).unwrap_or_default(),
            ));
        }
        verdicts.sort_by_key(|verdict| on.is_some_and(|on| room_of(&verdict.host) != on));
        let (free, hindered): (Vec<_>, Vec<_>) = verdicts.into_iter().partition(|v| v.obstacles.is_empty());
        let untried = free
            .into_iter()
            .find(|verdict| !tried.contains(&verdict.host.name));
        if untried.is_some() || !tried.is_empty() {
            return Ok(untried.map(|verdict| (verdict.host, verdict.failed)));
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

fn record_of<'a>(host: &DriverHost, records: &'a [Host]) -> Option<&'a Host> {
    records
        .iter()
        .find(|record| record.driver == host.kind && record.name == host.name)
}

/// What stands in the way of starting a sandbox on a host, but for a lack of room; `records` tell how hosts are doing.
pub(super) fn obstacles_of(
    host: &DriverHost,
    template: &SandboxTemplate,
    records: &[Host],
    now: Timestamp,
) -> Vec<String> {
    let mut obstacles = Vec::new();
    match host.driver.check(template) {
        Ok(()) => {}
        Err(DriverError::Unsupported { reasons, .. }) => {
            let refused = reasons
                .into_iter()
                .map(|reason| format!("it cannot do this: {reason}"));
            obstacles.extend(refused);
        }
        Err(other) => obstacles.push(other.to_string()),
    }
    let Some(record) = record_of(host, records) else {
        return obstacles;
    };
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
    obstacles
}

/// What stands in the way on each host.
fn listed(kind: DriverKind, verdicts: &[Verdict]) -> String {
    let each: Vec<String> = verdicts
        .iter()
        .map(|v| format!("{kind} on {}: {}", v.host.name, v.obstacles.join("; ")))
        .collect();
    format!("the sandbox cannot be started: {}", each.join(". "))
}
