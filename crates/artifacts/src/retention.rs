//! What goes, by age and size. Pure.

use ostler_domain::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Microseconds of a minute, the grain of retention: with it, the sizes of years fit in a few megabytes.
const MINUTE: i64 = 60_000_000;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// How long; `None` for ever.
    pub age: Option<Duration>,
    /// How many bytes; `None` without bound.
    pub bytes: Option<u64>,
}

/// Bytes by the minute in which they were stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Minutes(pub(crate) BTreeMap<i64, u64>);

impl Minutes {
    pub(crate) fn add(&mut self, at: Timestamp, bytes: u64) {
        let minute = self.0.entry(at.0.div_euclid(MINUTE)).or_default();
        *minute = minute.saturating_add(bytes);
    }
}

/// The moment before which everything goes: what is older than `keep` allows, and of the rest the oldest minutes, until
/// it is no more than `keep` allows. What was stored in the present minute never goes.
///
/// `sizes` holds bytes by the moment at which they were stored, in any order.
pub fn cutoff(sizes: impl IntoIterator<Item = (Timestamp, u64)>, now: Timestamp, keep: Keep) -> Timestamp {
    let mut minutes = Minutes::default();
    for (at, bytes) in sizes {
        minutes.add(at, bytes);
    }
    of_minutes(&minutes, now, keep)
}

pub(crate) fn of_minutes(minutes: &Minutes, now: Timestamp, keep: Keep) -> Timestamp {
    let oldest = keep.age.map_or(Timestamp(i64::MIN), |age| now.minus(age));
    let Some(most) = keep.bytes else { return oldest };
    let present = now.0.div_euclid(MINUTE);
    let mut left: u64 = 0;
    for (minute, bytes) in minutes.0.iter().rev() {
        left = left.saturating_add(*bytes);
        if left > most {
            let after = Timestamp(minute.saturating_add(1).min(present).saturating_mul(MINUTE));
            return oldest.max(after);
        }
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn the_oldest_go_first() {
        let keep = Keep {
            age: None,
            bytes: Some(10),
        };
        let sizes = [(at(0), 6), (at(60), 6), (at(120), 4)];
        assert_eq!(cutoff(sizes, at(1000), keep), at(60));
        let keep = Keep {
            age: Some(Duration::from_secs(100)),
            bytes: Some(1000),
        };
        assert_eq!(cutoff(sizes, at(1000), keep), at(900));
        assert_eq!(cutoff(sizes, at(1000), Keep::default()), Timestamp(i64::MIN));
    }

    proptest! {
        #[test]
        fn no_more_stays_than_allowed_and_no_more_goes_than_needed(
            sizes in proptest::collection::vec((0i64..6000, 0u64..100), 0..60),
            after in 0i64..600,
            age in proptest::option::of(0u64..9000),
            bytes in proptest::option::of(0u64..3000),
        ) {
            let now = at(6000 + after);
            let keep = Keep { age: age.map(Duration::from_secs), bytes };
            let sizes: Vec<_> = sizes.into_iter().map(|(s, bytes)| (at(s), bytes)).collect();
            let cut = cutoff(sizes.clone(), now, keep);
            let total = |from: Timestamp| sizes.iter().filter(|(at, _)| *at >= from).map(|(_, bytes)| bytes).sum::<u64>();
            let oldest = keep.age.map(|age| now.minus(age));
            let present = now.0.div_euclid(MINUTE) * MINUTE;

            // Too old goes.
            prop_assert!(oldest.is_none_or(|oldest| cut >= oldest));
            // Within the size, unless the present minute alone is too much.
            if let Some(bytes) = bytes {
                prop_assert!(total(cut) <= bytes || cut.0 >= present);
            }
            // Nothing of the present minute goes for its size.
            prop_assert!(cut.0 <= present || Some(cut) == oldest);
            // Had the minute before the cut been kept, it would be too much or too old.
            if cut != Timestamp(i64::MIN) && Some(cut) != oldest {
                prop_assert!(total(Timestamp(cut.0 - MINUTE)) > bytes.unwrap_or(u64::MAX) || cut.0 == present);
            }
        }
    }
}
