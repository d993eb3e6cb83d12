//! What stands in the way of a class, pool by pool.

use super::reason::{Obstacle, PoolObstacle, WaitReason};
use super::room::Room;
use super::world::QueueWorld;
use crate::Requirements;
use std::cmp::Reverse;

/// Indices of the pools in order of what their sandboxes take: those without devices first, since devices are few.
pub(super) fn by_size(world: &QueueWorld) -> Vec<usize> {
    let mut order: Vec<usize> = (0..world.pools.len()).collect();
    order.sort_by_key(|n| {
        let offer = &world.pools[*n].offer;
        // A disk without a limit is the largest.
        let disk = Reverse(offer.disk_mb.map(Reverse));
        (
            offer.devices.len(),
            offer.cpus,
            offer.memory_mb,
            disk,
            &offer.pool,
        )
    });
    order
}

/// Why nothing can be given to runs with these requirements, which `pools` satisfy.
pub(super) fn verdict(room: &Room<'_>, requirements: &Requirements, pools: &[usize]) -> WaitReason {
    let obstacles: Vec<PoolObstacle> = pools
        .iter()
        .map(|pool| PoolObstacle {
            pool: room.world.pools[*pool].offer.pool.clone(),
            obstacle: obstacle(room, *pool),
        })
        .collect();
    if !obstacles.iter().all(|found| found.obstacle.is_final()) {
        return WaitReason::Busy {
            pools: obstacles,
            reserved: None,
        };
    }
    // Only now does it matter what the others lack.
    let others = room.world.pools.iter().filter_map(|pool| {
        let lacks = requirements.unmet(&pool.offer);
        (!lacks.is_empty()).then(|| PoolObstacle {
            pool: pool.offer.pool.clone(),
            obstacle: Obstacle::Unmet(lacks),
        })
    });
    WaitReason::Impossible {
        pools: obstacles.iter().cloned().chain(others).collect(),
    }
}

/// What stands in the way of one more sandbox of the pool.
fn obstacle(room: &Room<'_>, pool: usize) -> Obstacle {
    let name = |host: usize| room.world.hosts[host].name.clone();
    let max = room.world.pools[pool].max;
    if max == 0 {
        return Obstacle::Closed;
    }
    if room.hosts_of(pool).next().is_none() {
        return Obstacle::NoHost;
    }
    let large: Vec<usize> = room
        .hosts_of(pool)
        .filter(|host| room.fits_empty(*host, pool))
        .collect();
    if large.is_empty()
        && let Some((host, resource, needed, has)) = room.too_large(pool)
    {
        return Obstacle::TooLarge {
            host: name(host),
            resource,
            needed,
            has,
        };
    }
    let why = |host: &usize| room.world.hosts[*host].unavailable.clone();
    let usable: Vec<usize> = large.iter().copied().filter(|host| why(host).is_none()).collect();
    if usable.is_empty()
        && let Some((host, why)) = large.iter().find_map(|host| Some((*host, why(host)?)))
    {
        return Obstacle::Unavailable {
            host: name(host),
            why,
        };
    }
    if room.units(pool) == 0 {
        return match room.kept {
            Some(kept) if kept.pool == pool => Obstacle::Reserved {
                host: name(kept.host),
                by: kept.by,
            },
            _ => Obstacle::Full { max },
        };
    }
    let least = |hosts: &mut dyn Iterator<Item = usize>| hosts.min_by_key(|host| room.lack(*host, pool));
    let passable = least(
        &mut usable
            .iter()
            .copied()
            .filter(|host| room.fits_without_runs(*host, pool)),
    );
    let Some(host) = passable.or_else(|| usable.first().copied()) else {
        return Obstacle::NoHost;
    };
    if passable.is_none()
        && let Some((resource, needed, left)) = room.lacking_without_runs(host, pool)
    {
        return Obstacle::Held {
            host: name(host),
            resource,
            needed,
            left,
        };
    }
    match (room.lacking(host, pool), room.kept) {
        (Some((resource, needed, free)), _) => Obstacle::Capacity {
            host: name(host),
            resource,
            needed,
            free,
        },
        (None, Some(kept)) => Obstacle::Reserved {
            host: name(kept.host),
            by: kept.by,
        },
        (None, None) => Obstacle::Full { max },
    }
}
