//! Sharding: tests into parts that take about equally long.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Divides tests into `count` parts by how long each took before: the longest first, each to the part that has least. No
/// part takes more than 4/3 of what the best division would need (Graham's bound for "longest processing time first").
///
/// A test that was never seen counts like the median of the others. The same input gives the same parts, so machines that
/// divide for themselves agree. A part holds places in `durations`, rising; parts may be empty.
pub fn shards(durations: &[Option<Duration>], count: NonZeroUsize) -> Vec<Vec<usize>> {
    let mut known: Vec<Duration> = durations.iter().flatten().copied().collect();
    known.sort_unstable();
    let usual = known
        .get(known.len() / 2)
        .copied()
        .unwrap_or(Duration::from_secs(1));
    let mut order: Vec<(Duration, usize)> = durations
        .iter()
        .enumerate()
        .map(|(place, duration)| (duration.unwrap_or(usual), place))
        .collect();
    order.sort_unstable_by_key(|(duration, place)| (Reverse(*duration), *place));
    let mut parts = vec![Vec::new(); count.get()];
    // The number of tests decides between parts of the same length: tests that take no measurable time spread, too.
    let mut least: BinaryHeap<_> = (0..count.get())
        .map(|part| Reverse((Duration::ZERO, 0_usize, part)))
        .collect();
    for (duration, place) in order {
        if let Some(Reverse((length, tests, part))) = least.pop() {
            parts[part].push(place);
            least.push(Reverse((length.saturating_add(duration), tests + 1, part)));
        }
    }
    for part in &mut parts {
        part.sort_unstable();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_are_divided_first() {
        let durations = [5, 4, 3, 3, 3].map(|seconds| Some(Duration::from_secs(seconds)));
        let two = NonZeroUsize::new(2).unwrap();
        assert_eq!(shards(&durations, two), [vec![0, 3], vec![1, 2, 4]]);
        assert_eq!(shards(&[None, None, None], two), [vec![0, 2], vec![1]]);
        assert_eq!(shards(&[Some(Duration::ZERO); 4], two), [vec![0, 2], vec![1, 3]]);
    }

    proptest! {
        #[test]
        fn every_test_is_in_one_part_and_no_part_is_far_too_long(
            seconds in proptest::collection::vec(proptest::option::of(0..1000_u64), 0..60), count in 1..8_usize,
        ) {
            let durations: Vec<_> = seconds.iter().map(|seconds| seconds.map(Duration::from_secs)).collect();
            let parts = shards(&durations, NonZeroUsize::new(count).unwrap());
            let mut all: Vec<_> = parts.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..durations.len()).collect::<Vec<_>>());
            if durations.iter().all(Option::is_some) {
                let length = |part: &Vec<usize>| part.iter().filter_map(|place| durations[*place]).sum::<Duration>();
                let total: Duration = durations.iter().flatten().sum();
                let longest = durations.iter().flatten().max().copied().unwrap_or_default();
                let most = parts.iter().map(length).max().unwrap_or_default();
                // List scheduling never takes longer than this.
                prop_assert!(most <= total / count as u32 + longest);
            }
        }
    }
}
