//! What must be true of every plan, found by trying everything in the simulated world.

use crate::drive::Started;
use crate::sim::{Kept, Sim, SimBox, Use, host_name};
use ostler_domain::schedule::{DispatchPlan, Obstacle, QueueHead, Resource, WaitReason};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A head with its effective priority, worked out anew.
struct Known {
    head: QueueHead,
    class: usize,
    tenant: usize,
    level: i64,
}

pub(crate) fn plan(
    before: &Sim,
    after: &Sim,
    plan: &DispatchPlan,
    started: &[Started],
) -> Result<(), TestCaseError> {
    let heads = known(before);
    let kept = kept(after, plan);
    reasons(before, after, plan, &heads, started)?;
    order(&heads, started, plan, kept)?;
    reservation(after, plan, &heads, started, kept)?;
    if !plan.again && after.slots_free() > 0 {
        // Nothing idles that somebody could use.
        for waiting in &plan.waiting {
            let own = plan.reserved.as_ref().is_some_and(|r| r.by.seq == waiting.seq);
            let kept = if own { None } else { kept };
            let could = after.placeable(waiting.class as usize, kept);
            prop_assert!(!could, "there is room for {waiting:?} in {:?}", after.boxes);
        }
    }
    if started.is_empty() {
        figures(after, plan)?;
    }
    Ok(())
}

fn known(sim: &Sim) -> Vec<Known> {
    let heads = sim.told().heads;
    let level = |head: &QueueHead| {
        // As long as the longest of it and all that came later.
        let later = heads.iter().filter(|other| other.seq >= head.seq);
        let waited = later
            .map(|other| sim.now.since(other.created_at).as_secs())
            .max()
            .unwrap();
        let ageing = sim.rules.ageing_seconds;
        i64::from(head.priority) + waited.checked_div(ageing).unwrap_or(0) as i64
    };
    let known = heads.iter().map(|head| Known {
        head: head.clone(),
        class: head.class as usize,
        tenant: sim.classes[head.class as usize].0,
        level: level(head),
    });
    known.collect()
}

fn kept(sim: &Sim, plan: &DispatchPlan) -> Kept {
    let reserved = plan.reserved.as_ref()?;
    let host = (0..sim.hosts.len())
        .find(|n| host_name(*n) == reserved.host)
        .unwrap();
    let pool = sim
        .pools
        .iter()
        .position(|(offer, _)| offer.pool == reserved.pool)
        .unwrap();
    Some((host, pool))
}

/// Every head is taken or has one reason, and the reason is true.
fn reasons(
    before: &Sim,
    after: &Sim,
    plan: &DispatchPlan,
    heads: &[Known],
    started: &[Started],
) -> Result<(), TestCaseError> {
    let mut waiting: BTreeMap<i64, &WaitReason> = BTreeMap::new();
    for entry in &plan.waiting {
        prop_assert!(
            waiting.insert(entry.seq, &entry.reason).is_none(),
            "two reasons for {}",
            entry.seq
        );
        let told = heads.iter().find(|known| known.head.seq == entry.seq);
        prop_assert_eq!(told.map(|known| known.level), Some(entry.effective));
        prop_assert!(!entry.reason.to_string().is_empty());
    }
    for Known { head, class, .. } in heads {
        let taken = started.iter().any(|s| s.seq == head.seq);
        let reason = waiting.get(&head.seq);
        prop_assert_eq!(taken, reason.is_none(), "{} is taken or has a reason", head.seq);
        let Some(reason) = reason else { continue };
        let possible = (0..before.pools.len()).any(|pool| {
            let mut hosts = (0..before.hosts.len())
                .filter(|n| before.hosts[*n].there && before.hosts[*n].pools.contains(&pool));
            // A pool without a host may get one.
            let none = hosts.clone().next().is_none();
            let open = before.pools[pool].1 > 0 && before.suits(*class, pool);
            open && (none || hosts.any(|host| before.ever(pool, host)))
        });
        let impossible = matches!(reason, WaitReason::Impossible { .. });
        prop_assert_eq!(impossible, !possible, "{}", reason);
        match reason {
            WaitReason::Slots => prop_assert_eq!(after.slots_free(), 0),
            WaitReason::Turn => prop_assert!(plan.again),
            WaitReason::Share { .. } => prop_assert!(started.iter().any(|s| s.seq > head.seq)),
            WaitReason::Busy { reserved, pools } => {
                let own = plan.reserved.as_ref().filter(|r| r.by.seq == head.seq);
                prop_assert_eq!(reserved.as_ref(), own);
                prop_assert!(!pools.is_empty());
            }
            WaitReason::Impossible { pools } => {
                prop_assert_eq!(pools.len(), before.pools.len());
                prop_assert!(pools.iter().all(|p| p.obstacle.is_final()), "{}", reason);
            }
        }
    }
    Ok(())
}

/// Whether `a` goes before a run that was taken in this world: by priority, share and number.
fn goes_before(a: &Known, started: &Started, heads: &[Known]) -> bool {
    let sim = &started.before;
    let priority = sim
        .queue
        .iter()
        .find(|q| q.seq == started.seq)
        .map(|q| q.priority);
    let tenant = sim.classes[started.class].0;
    let Some(b) = heads.iter().find(|known| known.head.seq == started.seq) else {
        // One that is not told by number is in the order of its level, and not before its head.
        return a.tenant == tenant && Some(a.head.priority) == priority && a.head.seq < started.seq;
    };
    if a.level != b.level {
        return a.level > b.level;
    }
    if a.tenant == b.tenant {
        return a.head.seq < b.head.seq;
    }
    let part = |tenant: usize, by: usize| sim.running_of(tenant) * sim.weights[by] as usize;
    match part(a.tenant, b.tenant).cmp(&part(b.tenant, a.tenant)) {
        std::cmp::Ordering::Equal => a.head.seq < b.head.seq,
        order => order.is_lt(),
    }
}

/// Nobody is passed who could have been taken.
fn order(heads: &[Known], started: &[Started], plan: &DispatchPlan, kept: Kept) -> Result<(), TestCaseError> {
    for (n, taken) in started.iter().enumerate() {
        for head in heads {
            let earlier = started[..=n].iter().any(|s| s.seq == head.head.seq);
            if earlier || !goes_before(head, taken, heads) {
                continue;
            }
            let own = plan.reserved.as_ref().is_some_and(|r| r.by.seq == head.head.seq);
            let could = taken.before.placeable(head.class, if own { None } else { kept });
            prop_assert!(
                !could,
                "{} was taken before {}, for which there was room",
                taken.seq,
                head.head.seq
            );
        }
    }
    Ok(())
}

/// What the pool's sandbox lacks on the host, all resources together.
fn lack(sim: &Sim, (host, pool): (usize, usize)) -> u64 {
    let used = sim.in_use(host, |used| *used != Use::Warm);
    let lacks = (0..4).map(|r| {
        let (cost, has) = (sim.cost(pool)[r], sim.capacity(host)[r]);
        if cost == 0 || has == u64::MAX {
            0
        } else {
            (cost + used[r]).saturating_sub(has)
        }
    });
    lacks.sum()
}

/// What is kept is kept for the right one, where it can be, and nobody who comes later touches it.
fn reservation(
    after: &Sim,
    plan: &DispatchPlan,
    heads: &[Known],
    started: &[Started],
    kept: Kept,
) -> Result<(), TestCaseError> {
    let (Some(reserved), Some(kept)) = (&plan.reserved, kept) else {
        if started.is_empty() {
            for waiting in plan
                .waiting
                .iter()
                .filter(|w| matches!(*w.reason, WaitReason::Busy { .. }))
            {
                let mut alone = after.clone();
                let full = |pool: usize| {
                    let others = after
                        .boxes
                        .iter()
                        .filter(|b| b.pool == pool && b.used != Use::Warm)
                        .count();
                    others >= after.pools[pool].1 as usize
                };
                alone.boxes.retain(|b| b.used == Use::Person);
                let could = (0..after.pools.len()).any(|pool| {
                    let at = |host| alone.room_for(pool, host, None);
                    after.suits(waiting.class as usize, pool) && !full(pool) && (0..after.hosts.len()).any(at)
                });
                prop_assert!(!could, "nothing is kept for {waiting:?}");
            }
        }
        return Ok(());
    };
    let holder = heads
        .iter()
        .find(|known| known.head.seq == reserved.by.seq)
        .unwrap();
    prop_assert!(plan.waiting.iter().any(|w| w.seq == reserved.by.seq));
    prop_assert!(
        after.suits(holder.class, kept.1) && after.ever(kept.1, kept.0) && after.hosts[kept.0].available
    );
    prop_assert!(!after.placeable(holder.class, None), "what is kept could be used");
    // The pool has one left for it, and it does not wait for people.
    let mut alone = after.clone();
    alone.boxes.retain(|b| b.used == Use::Person);
    prop_assert!(
        alone.room_for(kept.1, kept.0, None),
        "people are in the way of {reserved:?}"
    );
    let warm = |b: &&SimBox| b.pool == kept.1 && b.used == Use::Warm && after.hosts[b.host].there;
    let busy = after.live(kept.1) - after.boxes.iter().filter(warm).count();
    prop_assert!(
        busy < after.pools[kept.1].1 as usize,
        "the pool has none left for {reserved:?}"
    );
    for (n, taken) in started.iter().enumerate() {
        if goes_before(holder, taken, heads) {
            let then = started.get(n + 1).map_or(after, |next| &next.before);
            let (was, is) = (lack(&taken.before, kept), lack(then, kept));
            prop_assert!(
                is <= was,
                "{} took of what is kept for {}",
                taken.seq,
                reserved.by.seq
            );
        }
    }
    Ok(())
}

/// The figures that reasons tell, where nothing has changed since.
fn figures(sim: &Sim, plan: &DispatchPlan) -> Result<(), TestCaseError> {
    let index = |resource: &Resource| match resource {
        Resource::Cpus => 0,
        Resource::Memory => 1,
        Resource::Disk => 2,
        Resource::Device(_) => 3,
    };
    for waiting in &plan.waiting {
        let WaitReason::Busy { pools, .. } = &*waiting.reason else {
            continue;
        };
        for found in pools {
            let pool = sim
                .pools
                .iter()
                .position(|(offer, _)| offer.pool == found.pool)
                .unwrap();
            let host = |name: &str| (0..sim.hosts.len()).find(|n| host_name(*n) == name).unwrap();
            let left = |name: &str, r: usize, which: &dyn Fn(&Use) -> bool| {
                sim.capacity(host(name))[r].saturating_sub(sim.in_use(host(name), which)[r])
            };
            match &found.obstacle {
                Obstacle::Capacity {
                    host,
                    resource,
                    needed,
                    free,
                } => {
                    let r = index(resource);
                    prop_assert_eq!(*needed, sim.cost(pool)[r]);
                    prop_assert_eq!(*free, left(host, r, &|used| *used != Use::Warm));
                    prop_assert!(free < needed);
                }
                Obstacle::Held {
                    host,
                    resource,
                    needed,
                    left: rest,
                } => {
                    let r = index(resource);
                    prop_assert_eq!(*rest, left(host, r, &|used| *used == Use::Person));
                    prop_assert!(rest < needed);
                }
                Obstacle::Reserved { host, by } => {
                    let reserved = plan.reserved.as_ref().unwrap();
                    prop_assert_eq!((host, by), (&reserved.host, &reserved.by));
                    prop_assert!(by.seq != waiting.seq);
                }
                Obstacle::Full { max } => {
                    prop_assert_eq!(*max, sim.pools[pool].1);
                    let warm = |b: &&SimBox| b.pool == pool && b.used == Use::Warm && sim.hosts[b.host].there;
                    prop_assert!(sim.live(pool) - sim.boxes.iter().filter(warm).count() >= *max as usize);
                }
                Obstacle::Unavailable { host: name, .. } => prop_assert!(!sim.hosts[host(name)].available),
                Obstacle::NoHost => {
                    prop_assert!(
                        sim.hosts
                            .iter()
                            .all(|host| !host.there || !host.pools.contains(&pool))
                    );
                }
                Obstacle::TooLarge {
                    host,
                    resource,
                    needed,
                    has,
                } => {
                    let r = index(resource);
                    prop_assert_eq!((*needed, *has), (sim.cost(pool)[r], left(host, r, &|_| false)));
                    prop_assert!(has < needed);
                }
                Obstacle::Closed => prop_assert_eq!(sim.pools[pool].1, 0),
                Obstacle::Unmet(_) => prop_assert!(!sim.suits(waiting.class as usize, pool)),
            }
        }
    }
    Ok(())
}
