//! What the machines of this server have, and what of it is in use.
//!
//! All drivers of this machine share one room. What is in use is counted from the records of sandboxes, which come before the
//! things and go after them, each at the size that its pool has now.

use super::place::obstacles_of;
use crate::hosts::{DriverHost, LOCAL};
use crate::{Control, Result};
use ostler_domain::schedule::{Amounts, HostRoom, Overcommit};
use ostler_domain::{Host, Pool, SandboxStatus, SandboxTemplate};
use ostler_store::{Filter, SandboxCount, StoreExt};
use std::collections::BTreeMap;

/// Name of the room of a host.
pub(crate) fn room_of(host: &DriverHost) -> String {
    match host.driver.machine() {
        Some(machine) if machine.here => LOCAL.to_owned(),
        _ => format!("{}/{}", host.kind, host.name),
    }
}

/// What one sandbox takes.
pub(crate) fn amounts(template: &SandboxTemplate) -> Amounts {
    Amounts {
        cpus: u64::from(template.cpus),
        memory_mb: template.memory_mb,
        disk_mb: template.disk_mb.unwrap_or(0),
        devices: template.devices.iter().map(|name| (name.clone(), 1)).collect(),
    }
}

fn times(amounts: &Amounts, count: u32) -> Amounts {
    let count = u64::from(count);
    Amounts {
        cpus: amounts.cpus.saturating_mul(count),
        memory_mb: amounts.memory_mb.saturating_mul(count),
        disk_mb: amounts.disk_mb.saturating_mul(count),
        devices: amounts
            .devices
            .iter()
            .map(|(name, each)| (name.clone(), each.saturating_mul(count)))
            .collect(),
    }
}

impl Control {
    /// The machines of this server's drivers, with what is in use of each.
    pub(crate) async fn rooms(&self, pools: &[Pool], counts: &[SandboxCount]) -> Result<Vec<HostRoom>> {
        let mine = Filter::<Host>::by("server_id", self.parts.server_id);
        let records = self.parts.store.list(mine).await?;
        let now = self.now();
        let hosts = self.parts.drivers.all();
        let mut rooms: BTreeMap<String, HostRoom> = BTreeMap::new();
        for host in &hosts {
            let name = room_of(host);
            let room = rooms.entry(name.clone()).or_insert_with(|| HostRoom {
                capacity: self.capacity_of(host),
                name,
                unavailable: None,
                passing: Amounts::default(),
                lasting: Amounts::default(),
                warm: BTreeMap::new(),
            });
            for pool in pools.iter().filter(|pool| pool.template.driver == host.kind) {
                if obstacles_of(host, &pool.template, &records, now).is_empty() {
                    room.warm.entry(pool.name.clone()).or_default();
                }
            }
        }
        for part in counts
            .iter()
            .filter(|part| part.server_id == self.parts.server_id)
        {
            let host = hosts
                .iter()
                .find(|host| host.kind == part.driver && host.name == part.host);
            let Some(room) = host.and_then(|host| rooms.get_mut(&room_of(host))) else {
                continue;
            };
            let Some(pool) = pools.iter().find(|pool| pool.name == part.pool) else {
                continue;
            };
            let held = matches!(part.status, SandboxStatus::Running | SandboxStatus::Unhealthy);
            let taken = times(&amounts(&pool.template), part.count);
            match room.warm.get_mut(&part.pool) {
                Some(warm) if part.status == SandboxStatus::Warm => *warm += part.count,
                _ if held && !part.for_run => room.lasting.add(&taken),
                _ => room.passing.add(&taken),
            }
        }
        Ok(rooms.into_values().collect())
    }

    fn capacity_of(&self, host: &DriverHost) -> Amounts {
        let Some(machine) = host.driver.machine() else {
            return Amounts::unlimited();
        };
        let mut capacity = Amounts {
            cpus: machine.cpus,
            memory_mb: machine.memory_mb,
            ..Amounts::unlimited()
        };
        if machine.here {
            capacity.disk_mb = ostler_sandbox::disk_mb(self.parts.logs.dir());
            capacity.devices.clone_from(&self.scheduler.devices);
        }
        capacity
    }

    /// What a sandbox lacks on a machine as it is now.
    pub(super) fn lacking(
        &self,
        room: &HostRoom,
        pools: &[Pool],
        template: &SandboxTemplate,
    ) -> Option<String> {
        let takes = amounts(template);
        let free = free(room, pools, self.scheduler.overcommit);
        let short = |what: &str, takes: u64, free: u64| {
            (takes > free).then(|| format!("a sandbox takes {takes} {what}, and {free} are free there"))
        };
        short("CPUs", takes.cpus, free.cpus)
            .or_else(|| short("MiB of memory", takes.memory_mb, free.memory_mb))
            .or_else(|| short("MiB of disk", takes.disk_mb, free.disk_mb))
            .or_else(|| {
                takes.devices.iter().find_map(|(name, count)| {
                    let free = free.devices.get(name)?;
                    short(&format!("of the device {name}"), *count, *free)
                })
            })
    }

    /// How many sandboxes of a pool still fit on these machines.
    pub(super) fn fitting(&self, rooms: &[HostRoom], pools: &[Pool], pool: &Pool) -> u32 {
        let takes = amounts(&pool.template);
        let fits = |room: &HostRoom| {
            let free = free(room, pools, self.scheduler.overcommit);
            let of = |free: u64, takes: u64| free.checked_div(takes).unwrap_or(u64::MAX);
            let devices = takes
                .devices
                .iter()
                .filter_map(|(name, takes)| Some(of(*free.devices.get(name)?, *takes)));
            let most = of(free.cpus, takes.cpus)
                .min(of(free.memory_mb, takes.memory_mb))
                .min(of(free.disk_mb, takes.disk_mb));
            devices.fold(most, u64::min)
        };
        let rooms = rooms.iter().filter(|room| room.warm.contains_key(&pool.name));
        let all = rooms.map(fits).fold(0, u64::saturating_add);
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

/// What nothing at all has on a machine, as far as it may be given away.
fn free(room: &HostRoom, pools: &[Pool], overcommit: Overcommit) -> Amounts {
    let mut used = room.passing.clone();
    used.add(&room.lasting);
    for (name, count) in &room.warm {
        if let Some(pool) = pools.iter().find(|pool| pool.name == *name) {
            used.add(&times(&amounts(&pool.template), *count));
        }
    }
    let left = |has: u64, percent: u64, used: u64| match has {
        u64::MAX => u64::MAX,
        has => (has.saturating_mul(percent) / 100).saturating_sub(used),
    };
    let capacity = &room.capacity;
    Amounts {
        cpus: left(capacity.cpus, overcommit.cpus, used.cpus),
        memory_mb: left(capacity.memory_mb, overcommit.memory, used.memory_mb),
        disk_mb: left(capacity.disk_mb, overcommit.disk, used.disk_mb),
        devices: capacity
            .devices
            .iter()
            .map(|(name, has)| {
                let used = used.devices.get(name).copied().unwrap_or(0);
                (name.clone(), has.saturating_sub(used))
            })
            .collect(),
    }
}
