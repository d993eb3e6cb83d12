//! In which order heads are looked at.

use super::world::{QueueClass, QueueHead, QueueWorld, TenantShare};
use crate::TenantId;
use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};

/// A head with all that its place depends on but its tenant's share, which changes as runs are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) head: &'a QueueHead,
    /// Index of its class.
    pub(super) class: usize,
    /// Index of its tenant.
    pub(super) tenant: usize,
    /// Effective priority.
    pub(super) level: i64,
    /// Whether no later run of its class and priority is a head.
    pub(super) last: bool,
}

/// How much of its share a tenant has: running runs by weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part(pub(super) TenantShare);

impl Part {
    fn cross(self, other: Self) -> u64 {
        u64::from(self.0.running) * u64::from(other.0.weight.max(1))
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cross(*other).cmp(&other.cross(*self))
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Part {}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The heads whose class is known: highest level first, in a level by tenant, of a tenant first submitted first; and the
/// part of each tenant, by index.
pub(super) fn in_order<'a>(world: &'a QueueWorld, ageing_seconds: u64) -> (Vec<Entry<'a>>, Vec<Part>) {
    let by_id: HashMap<i64, (usize, &QueueClass)> = world
        .classes
        .iter()
        .enumerate()
        .map(|(n, class)| (class.id, (n, class)))
        .collect();
    let mut tenants: HashMap<TenantId, usize> = HashMap::new();
    let mut parts = Vec::new();
    let mut entries: Vec<Entry<'a>> = Vec::with_capacity(world.heads.len());
    for head in &world.heads {
        let Some((class, QueueClass { tenant, .. })) = by_id.get(&head.class) else {
            continue;
        };
        let tenant = *tenants.entry(*tenant).or_insert_with(|| {
            parts.push(Part(world.tenants.get(tenant).copied().unwrap_or_default()));
            parts.len() - 1
        });
        entries.push(Entry {
            head,
            class: *class,
            tenant,
            level: 0,
            last: false,
        });
    }
    // Who was submitted earlier has not waited for a shorter time, whatever the clocks of two servers said: the order of
    // submission is that of `seq` alone.
    entries.sort_unstable_by_key(|entry| Reverse(entry.head.seq));
    let mut waited = 0;
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in &mut entries {
        waited = waited.max(world.now.since(entry.head.created_at).as_secs());
        let lift = waited.checked_div(ageing_seconds).unwrap_or(0);
        entry.level = i64::from(entry.head.priority).saturating_add(i64::try_from(lift).unwrap_or(i64::MAX));
        entry.last = seen.insert((entry.class, entry.head.priority));
    }
    entries.sort_unstable_by_key(|entry| (Reverse(entry.level), entry.tenant, entry.head.seq));
    (entries, parts)
}
