//! Which sandbox a run is given, what gives way for it, and what is kept for the first that does not fit.

use super::reason::{Reservation, RunRef};
use super::room::{Kept, Room};

/// How a run gets its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// A warm one.
    Warm,
    /// A new one, for which there is room.
    Cold,
    /// A new one, for which warm ones give way.
    GiveWay,
}

/// A sandbox that a run can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) pool: usize,
    pub(super) host: usize,
    pub(super) start: Start,
}

impl Room<'_> {
    /// The best sandbox of these pools, which are the smallest first: of the smallest pool for which nothing has to give
    /// way, a warm one before a new one, and where the least is left, so that large ones find room elsewhere.
    pub(super) fn best(&self, pools: &[usize]) -> Option<Spot> {
        let spots = pools
            .iter()
            .filter(|pool| self.units[**pool] > 0)
            .filter_map(|pool| {
                let hosts = self.hosts_of(*pool).filter(|host| {
                    self.world.hosts[*host].unavailable.is_none() && self.fits(&self.open, *host, *pool)
                });
                let spots = hosts.map(|host| Spot {
                    pool: *pool,
                    host,
                    start: self.start(host, *pool),
                });
                spots.min_by_key(|spot| (spot.start, self.left_over(spot.host, *pool)))
            });
        let mut second = None;
        for spot in spots {
            if spot.start != Start::GiveWay {
                return Some(spot);
            }
            second.get_or_insert(spot);
        }
        second
    }

    fn start(&self, host: usize, pool: usize) -> Start {
        if self.warm_at(host, pool) > Some(0) {
            Start::Warm
        } else if self.live[pool] < self.world.pools[pool].max && self.fits(&self.free, host, pool) {
            Start::Cold
        } else {
            Start::GiveWay
        }
    }

    fn left_over(&self, host: usize, pool: usize) -> i64 {
        let parts = self.compared(&self.open, host, pool).map(|(r, takes, open)| {
            (open - takes).saturating_mul(1024) / self.capacity[host * self.width() + r].max(1)
        });
        parts.fold(0, i64::saturating_add)
    }

    /// Gives a run the sandbox; returns the warm ones (host, pool) that give way.
    pub(super) fn take(&mut self, spot: Spot) -> Vec<(usize, usize)> {
        let Spot { pool, host, start } = spot;
        let gone = if start == Start::GiveWay {
            self.make_way(host, pool)
        } else {
            Vec::new()
        };
        let (width, pools) = (self.width(), self.world.pools.len());
        for r in 0..width {
            let takes = self.cost[pool * width + r];
            self.open[host * width + r] -= takes;
            if start != Start::Warm {
                self.free[host * width + r] -= takes;
            }
        }
        if start == Start::Warm {
            let warm = &mut self.warm[host * pools + pool];
            *warm = warm.map(|count| count.saturating_sub(1));
        } else {
            self.live[pool] += 1;
        }
        self.units[pool] = self.units[pool].saturating_sub(1);
        gone
    }

    /// Ends warm sandboxes until one of the pool can be started on the host.
    fn make_way(&mut self, host: usize, pool: usize) -> Vec<(usize, usize)> {
        let mut gone = Vec::new();
        // Its own kind first, where they cannot be used: that may make room on the host as well.
        while self.live[pool] >= self.world.pools[pool].max {
            let warm = |at: &usize| self.warm_at(*at, pool) > Some(0);
            let Some(at) = (0..self.world.hosts.len()).find(warm) else {
                break;
            };
            self.end_warm(at, pool);
            gone.push((at, pool));
        }
        while !self.fits(&self.free, host, pool) {
            let lacking: Vec<(usize, i64)> = self
                .compared(&self.free, host, pool)
                .filter(|(_, takes, free)| takes > free)
                .map(|(r, takes, free)| (r, takes - free))
                .collect();
            let gain = |other: usize| {
                let gains = lacking
                    .iter()
                    .map(|(r, lacks)| self.cost[other * self.width() + r].min(*lacks));
                gains.fold(0, i64::saturating_add)
            };
            // The one that helps the most, and of those that help alike the smallest.
            let size = |other: usize| -> i64 {
                self.cost[other * self.width()..(other + 1) * self.width()]
                    .iter()
                    .fold(0, |sum, part| sum.saturating_add(*part))
            };
            let warm = (0..self.world.pools.len()).filter(|other| self.warm_at(host, *other) > Some(0));
            let helps = warm.filter(|other| gain(*other) > 0);
            let Some(other) = helps.max_by_key(|other| (gain(*other), -size(*other))) else {
                break;
            };
            self.end_warm(host, other);
            gone.push((host, other));
        }
        gone
    }

    fn end_warm(&mut self, host: usize, pool: usize) {
        let (width, pools) = (self.width(), self.world.pools.len());
        let warm = &mut self.warm[host * pools + pool];
        *warm = warm.map(|count| count.saturating_sub(1));
        self.live[pool] = self.live[pool].saturating_sub(1);
        for r in 0..width {
            self.free[host * width + r] += self.cost[pool * width + r];
        }
    }

    /// Keeps what a sandbox of one of these pools takes, on the host that lacks the least of it, for the first that did
    /// not fit: as nothing is known of how long runs take, that is where it will be the soonest. Nothing is kept where
    /// only people can make room, since that may take for ever, nor where a pool is full, since the next sandbox of it
    /// that ends leaves both.
    pub(super) fn keep(&mut self, pools: &[usize], by: RunRef) -> bool {
        let places = pools
            .iter()
            .filter(|pool| self.units[**pool] > 0)
            .flat_map(|pool| {
                let hosts = self.hosts_of(*pool).filter(|host| {
                    self.world.hosts[*host].unavailable.is_none() && self.fits_without_runs(*host, *pool)
                });
                hosts.map(|host| (self.lack(host, *pool), *pool, host))
            });
        let Some((_, pool, host)) = places.min_by_key(|(lack, ..)| *lack) else {
            return false;
        };
        let width = self.width();
        for r in 0..width {
            self.open[host * width + r] -= self.cost[pool * width + r];
        }
        self.units[pool] -= 1;
        self.kept = Some(Kept { pool, host, by });
        true
    }

    pub(super) fn reservation(&self) -> Option<Reservation> {
        self.kept.map(|kept| Reservation {
            by: kept.by,
            pool: self.world.pools[kept.pool].offer.pool.clone(),
            host: self.world.hosts[kept.host].name.clone(),
        })
    }
}
