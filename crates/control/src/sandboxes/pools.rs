//! Warm pools: their settings, and the rounds that keep them filled.

use super::claim::Stopwatch;
use super::place::Counts;
use super::start::Until;
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::{HostVerdict, PoolExplanation};
use ostler_domain::{Permission, Pool, Sandbox, SandboxStatus, SandboxTemplate};
use ostler_store::{Change, Filter, Op, SandboxCount, StoreExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;

/// Changes to a pool; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    /// What its sandboxes are started from.
    pub template: Option<SandboxTemplate>,
    /// Warm sandboxes to keep.
    pub target: Option<u32>,
    /// Most sandboxes at once.
    pub max: Option<u32>,
    /// Most starts of warm sandboxes at once.
    pub start_concurrency: Option<u32>,
    /// Starts of warm sandboxes per minute, over time.
    pub refill_per_minute: Option<u32>,
    /// Starts of warm sandboxes without a wait.
    pub refill_burst: Option<u32>,
}

/// The token buckets of this server's pools. They are full after a restart.
#[derive(Debug, Default)]
pub(crate) struct Buckets(Mutex<HashMap<String, (f64, Instant)>>);

impl Buckets {
    /// Takes up to `wanted` tokens.
    fn take(&self, pool: &Pool, wanted: u32) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = filled(all.get(&pool.name).copied(), pool);
        let taken = wanted.min(filled as u32);
        all.insert(pool.name.clone(), (filled - f64::from(taken), Instant::now()));
        taken
    }

    fn level(&self, pool: &Pool) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        filled(all.get(&pool.name).copied(), pool) as u32
    }
}

/// What is in a bucket now.
fn filled(last: Option<(f64, Instant)>, pool: &Pool) -> f64 {
    let burst = f64::from(pool.refill_burst);
    last.map_or(burst, |(level, since)| {
        let rate = f64::from(pool.refill_per_minute) / 60.0;
        (level + since.elapsed().as_secs_f64() * rate).min(burst)
    })
}

impl Control {
    /// The pools, by name.
    pub async fn pools(&self, caller: &Caller) -> Result<Vec<(Pool, Counts)>> {
        caller.require(Permission::FleetRead)?;
        let mut counts = self.counts().await?;
        let pools: Vec<Pool> = self.parts.store.list(Filter::all()).await?;
        Ok(pools
            .into_iter()
            .map(|pool| {
                let counts = counts.remove(&pool.name).unwrap_or_default();
                (pool, counts)
            })
            .collect())
    }

    /// One pool by name.
    pub(crate) async fn pool(&self, name: &str) -> Result<Pool> {
        let pool = self
            .parts
            .store
            .first(Filter::by("name", name.to_owned()))
            .await?;
        pool.ok_or_else(|| ControlError::NotFound {
            what: "pool",
            id: name.to_owned(),
        })
    }

    /// How a pool is doing and what stands in its way, on this server.
    pub async fn explain_pool(&self, caller: &Caller, name: &str) -> Result<PoolExplanation> {
        caller.require(Permission::FleetRead)?;
        let pool = self.pool(name).await?;
        let counts = self.counts_of(name).await?;
        let tokens = self.buckets.level(&pool);
        let mut reasons: Vec<String> = self.unavailable(pool.template.driver).into_iter().collect();
        let verdicts = self.host_verdicts(&pool.template).await?;
        if !verdicts.is_empty() && verdicts.iter().all(|v| !v.obstacles.is_empty()) {
            reasons.push("no host of its driver can start its sandboxes now".into());
        }
        if let (Some(at), Some(error)) = (pool.retry_at, &pool.last_error)
            && self.now() < at
        {
            reasons.push(format!(
                "the next start is tried at {}, after {} failures in a row; the last: {error}",
                ostler_contracts::Time(at),
                pool.failures
            ));
        }
        if counts.warm < pool.target {
            if counts.live() >= pool.max {
                reasons.push(format!(
                    "it has all of the {} sandboxes that it may have",
                    pool.max
                ));
            } else if tokens == 0 {
                reasons.push(format!(
                    "it was refilled faster than {} a minute; the next start waits for that",
                    pool.refill_per_minute
                ));
            }
        }
        let summary = match (counts.warm >= pool.target, reasons.is_empty()) {
            (true, _) => "it has the warm sandboxes that it should have".to_owned(),
            (false, true) => "it is being filled".to_owned(),
            (false, false) => format!("it cannot be filled: {}", reasons.join("; ")),
        };
        let hosts = verdicts
            .into_iter()
            .map(|verdict| HostVerdict {
                host: verdict.host.name.clone(),
                sandboxes: verdict.live,
                reasons: verdict.obstacles,
            })
            .chain(self.away_verdicts(pool.template.driver))
            .collect();
        Ok(PoolExplanation {
            pool: pool.name,
            summary,
            target: pool.target,
            max: pool.max,
            warm: counts.warm,
            starting: counts.starting,
            held: counts.held,
            tokens,
            reasons,
            hosts,
        })
    }

    /// Makes a pool or changes it. Warm sandboxes of an old template are replaced by the next round over the pools.
    pub async fn set_pool(&self, caller: &Caller, name: &str, change: PoolChange) -> Result<Pool> {
        caller.require(Permission::FleetWrite)?;
        if ostler_domain::slug(name, 60) != name {
            return Err(ControlError::Invalid(
                "a pool's name is lower-case letters, digits and single hyphens".into(),
            ));
        }
        retry_on_conflict!({
            let known: Option<Pool> = self
                .parts
                .store
                .first(Filter::by("name", name.to_owned()))
                .await?;
            let mut pool = match (&known, change.template.clone()) {
                (Some(pool), None) => pool.clone(),
                (Some(pool), Some(template)) => Pool {
                    template,
                    ..pool.clone()
                },
                (None, Some(template)) => Pool::new(name, template),
                (None, None) => {
                    return Err(ControlError::Invalid(format!(
                        "there is no pool {name}; a new one needs a template with a driver"
                    )));
                }
            };
            pool.target = change.target.unwrap_or(pool.target);
            pool.max = change.max.unwrap_or(pool.max);
            pool.start_concurrency = change.start_concurrency.unwrap_or(pool.start_concurrency);
            pool.refill_per_minute = change.refill_per_minute.unwrap_or(pool.refill_per_minute);
            pool.refill_burst = change.refill_burst.unwrap_or(pool.refill_burst);
            if pool.target > pool.max {
                return Err(ControlError::Invalid(format!(
                    "the target of {} warm sandboxes is over the maximum of {}",
                    pool.target, pool.max
                )));
            }
            if pool.start_concurrency == 0 || pool.refill_per_minute == 0 || pool.refill_burst == 0 {
                return Err(ControlError::Invalid(
                    "the starts at once, the refill per minute and the burst must be at least 1; a pool that keeps nothing \
                     warm has the target 0"
                        .into(),
                ));
            }
            // A server without the driver leaves the pool to those that have it.
            if self.parts.drivers.has(pool.template.driver) {
                self.parts
                    .drivers
                    .check(&pool)
                    .map_err(|error| ControlError::Unprocessable(error.to_string()))?;
            }
            (pool.failures, pool.last_error, pool.retry_at) = (0, None, None);
            let change = if known.is_some() {
                Change::update(&pool)
            } else {
                Change::insert(&pool)
            };
            let details =
                serde_json::json!({ "driver": pool.template.driver, "target": pool.target, "max": pool.max });
            let by = self.acting(caller, "pool.set", name, details);
            by.commit(vec![change]).await?;
            pool.version += i64::from(known.is_some());
            Ok(pool)
        })
    }

    /// [`Self::set_pool`], with how many sandboxes it has.
    pub async fn set_pool_counted(
        &self,
        caller: &Caller,
        name: &str,
        change: PoolChange,
    ) -> Result<(Pool, Counts)> {
        let pool = self.set_pool(caller, name, change).await?;
        let counts = self.counts_of(name).await?;
        Ok((pool, counts))
    }

    /// One round over the pools of this server: fills them to their targets, replaces what is of an old template, and
    /// ends what should have ended. Returns how many sandboxes were started or ended.
    pub async fn fill_pools(&self) -> Result<usize> {
        let mut changed = 0;
        let ending = self
            .own_sandboxes()
            .and("status", Op::Eq, SandboxStatus::Destroying);
        for sandbox in self.parts.store.list(ending).await? {
            changed += usize::from(self.destroyed(&sandbox, "").await);
        }
        // A pool whose sandboxes are slow to start does not hold up the others.
        let mut rounds = JoinSet::new();
        let counts = Arc::new(self.parts.store.sandbox_counts().await?);
        let pools = Arc::new(self.parts.store.list::<Pool>(Filter::all()).await?);
        for (n, pool) in pools.iter().enumerate() {
            if self.parts.drivers.has(pool.template.driver) {
                let (control, pools, counts) = (self.clone(), Arc::clone(&pools), Arc::clone(&counts));
                rounds.spawn(async move { control.fill(&pools[n], &pools, &counts).await });
            }
        }
        let mut failed = None;
        for round in rounds.join_all().await {
            match round {
                Ok(count) => changed += count,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(changed), Err)
    }

    async fn fill(&self, pool: &Pool, pools: &[Pool], counts: &[SandboxCount]) -> Result<usize> {
        let mut changed = 0;
        let of_pool = || {
            self.own_sandboxes().and("pool", Op::Eq, pool.name.clone()).and(
                "status",
                Op::Eq,
                SandboxStatus::Warm,
            )
        };
        // Texts that differ can mean the same.
        let old = of_pool().and("template", Op::Ne, text_of(&pool.template));
        for sandbox in self.parts.store.list(old).await? {
            if sandbox.template != pool.template {
                changed += usize::from(self.not_needed(&sandbox).await);
            }
        }
        let warm = counts.iter().filter(|part| {
            part.pool == pool.name
                && part.server_id == self.parts.server_id
                && part.status == SandboxStatus::Warm
        });
        let warm: u32 = warm.map(|part| part.count).sum();
        if warm > pool.target {
            let surplus = of_pool().order_by_desc("created_at").limit(warm - pool.target);
            for sandbox in self.parts.store.list(surplus).await? {
                changed += usize::from(self.not_needed(&sandbox).await);
            }
        }
        let missing = pool.target.saturating_sub(warm);
        if missing == 0 || pool.retry_at.is_some_and(|at| self.now() < at) {
            return Ok(changed);
        }
        let live: u32 = counts
            .iter()
            .filter(|part| part.pool == pool.name)
            .map(|part| part.count)
            .sum();
        let room = pool.max.saturating_sub(live);
        if room == 0 {
            return Ok(changed);
        }
        let rooms = self.rooms(pools, counts).await?;
        // Where nothing can be started for another reason, a start is tried, which says so.
        let hosts = rooms.iter().any(|room| room.warm.contains_key(&pool.name));
        let room = if hosts {
            room.min(self.fitting(&rooms, pools, pool))
        } else {
            room
        };
        // After a failure one start tries whether it goes again; a pool that cannot start anything must not churn.
        let most = if pool.failures > 0 { 1 } else { u32::MAX };
        let wanted = self.buckets.take(pool, missing.min(room).min(most));
        Ok(changed + self.start_warm(pool, wanted).await?)
    }

    /// Starts so many, as many at once as the pool allows; none any more after one that failed. Returns how many started.
    async fn start_warm(&self, pool: &Pool, wanted: u32) -> Result<usize> {
        let pool = Arc::new(pool.clone());
        let mut starts: JoinSet<Result<bool>> = JoinSet::new();
        let (mut begun, mut started, mut failed) = (0, 0, None);
        loop {
            while begun < wanted && failed.is_none() && starts.len() < pool.start_concurrency.max(1) as usize
            {
                let (control, pool) = (self.clone(), Arc::clone(&pool));
                begun += 1;
                starts.spawn(async move {
                    let new = control.new_sandbox(&pool);
                    let start = control
                        .start_placed(
                            new,
                            SandboxStatus::Warm,
                            Until::Ready,
                            None,
                            &mut Stopwatch::start(),
                        )
                        .await;
                    let error = start.as_ref().err().map(ToString::to_string);
                    // That it went well is news only after a failure.
                    if error.is_some() || pool.failures > 0 {
                        control.note_start(&pool.name, error).await?;
                    }
                    Ok(start.is_ok())
                });
            }
            match starts.join_next().await {
                None => return failed.map_or(Ok(started), Err),
                Some(Ok(Ok(true))) => started += 1,
                // Those that have not begun would fail, too.
                Some(Ok(Ok(false))) => begun = wanted,
                Some(Ok(Err(error))) => failed = Some(error),
                Some(Err(broken)) => {
                    failed = Some(ControlError::Unavailable(format!("a start broke off: {broken}")));
                }
            }
        }
    }

    async fn not_needed(&self, sandbox: &Sandbox) -> bool {
        self.destroyed(sandbox, "the pool does not need it any more")
            .await
    }

    async fn note_start(&self, pool: &str, error: Option<String>) -> Result<()> {
        retry_on_conflict!({
            let Some(mut pool) = self
                .parts
                .store
                .first::<Pool>(Filter::by("name", pool.to_owned()))
                .await?
            else {
                return Ok(());
            };
            match &error {
                None if pool.failures == 0 => return Ok(()),
                None => (pool.failures, pool.last_error, pool.retry_at) = (0, None, None),
                Some(error) => {
                    pool.failures += 1;
                    pool.last_error = Some(error.clone());
                    pool.retry_at = Some(self.now().plus(Pool::retry_delay(pool.failures)));
                }
            }
            self.commit(vec![Change::update(&pool)]).await
        })
    }
}

/// A template as its column holds it.
fn text_of(template: &SandboxTemplate) -> String {
    match ostler_store::json_to_value(template) {
        ostler_store::Value::Text(text) => text,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::DriverKind;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut pool = Pool::new("p", SandboxTemplate::new(DriverKind::Sim));
        (pool.refill_burst, pool.refill_per_minute) = (3, 60);
        let buckets = Buckets::default();
        assert_eq!((buckets.take(&pool, 2), buckets.level(&pool)), (2, 1));
        assert_eq!((buckets.take(&pool, 5), buckets.level(&pool)), (1, 0));
        // One a second, up to the burst.
        let second = std::time::Duration::from_secs(1);
        for (ago, level) in [(2, 2), (60, 3)] {
            let since = Instant::now().checked_sub(second * ago).unwrap();
            buckets.0.lock().unwrap().insert("p".into(), (0.0, since));
            assert_eq!(buckets.level(&pool), level);
        }
    }
}
