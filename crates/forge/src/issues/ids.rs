//! Where new ids come from.

use super::Graph;
use std::hash::{BuildHasher, Hasher};

/// Numbers for new ids. Two projects' graphs must not give equal sequences, or their exports clash when merged.
pub trait IdSource {
    /// The next number.
    fn next(&mut self) -> u64;
}

/// Numbers from the random keys that the standard library gives each hash map.
#[derive(Debug, Default)]
pub struct SystemIds;

impl IdSource for SystemIds {
    fn next(&mut self) -> u64 {
        std::hash::RandomState::new().build_hasher().finish()
    }
}

impl IdSource for std::ops::RangeFrom<u64> {
    fn next(&mut self) -> u64 {
        Iterator::next(self).unwrap_or_default()
    }
}

/// A new top-level id such as `iv-3f2`: as short as the size of the graph allows.
pub(super) fn new_id(graph: &Graph, ids: &mut dyn IdSource) -> String {
    let mut length = match graph.len() {
        0..500 => 3,
        500..10_000 => 4,
        _ => 6,
    };
    loop {
        for _ in 0..20 {
            let mut number = ids.next();
            let mut short = String::new();
            for _ in 0..length {
                let digit = (number % 36) as u32;
                short.extend(char::from_digit(digit, 36));
                number /= 36;
            }
            let id = format!("{}-{short}", graph.prefix());
            if !graph.contains(&id) {
                return id;
            }
        }
        length += 1;
    }
}

/// The next child id such as `iv-3f2.1`.
pub(super) fn child_id(graph: &Graph, parent: &str) -> String {
    let last = graph
        .issues()
        .filter_map(|issue| {
            issue
                .id
                .strip_prefix(parent)?
                .strip_prefix('.')?
                .parse::<u64>()
                .ok()
        })
        .max()
        .unwrap_or(0);
    format!("{parent}.{}", last.saturating_add(1))
}
