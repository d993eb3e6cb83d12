//! What becomes of the held tests of a plan: a pure function of what has ended and how much room there is.

use ostler_domain::RunId;
use std::collections::{HashMap, HashSet};

/// A test that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: RunId,
    /// Place in the plan; what it needs has a smaller one.
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) needs: Vec<String>,
    pub(super) priority: i32,
}

/// What is to be done with held tests. The others stay held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// These wait for their turn from now on.
    pub(super) release: Vec<RunId>,
    /// These are not executed, and why.
    pub(super) skip: Vec<(RunId, String)>,
}

/// `ended` says of each test that ended whether what needs it may go on; `room` how many more may leave being held, `None`
/// for any number. Of those that may, the ones of the highest priority do, and among equals those that stand first.
pub(super) fn decide(mut held: Vec<Held>, ended: &HashMap<String, bool>, room: Option<usize>) -> Decision {
    held.sort_by_key(|test| test.index);
    let mut decision = Decision::default();
    let mut skipped: HashSet<&str> = HashSet::new();
    let mut ready: Vec<&Held> = Vec::new();
    for test in &held {
        let passed = |need: &String| {
            if skipped.contains(need.as_str()) {
                Some(false)
            } else {
                ended.get(need).copied()
            }
        };
        if let Some(need) = test.needs.iter().find(|need| passed(need) == Some(false)) {
            let how = if skipped.contains(need.as_str()) {
                "was skipped"
            } else {
                "did not pass"
            };
            let reason = format!("it needs `{need}`, which {how}");
            decision.skip.push((test.id, reason));
            skipped.insert(&test.name);
        } else if test.needs.iter().all(|need| passed(need) == Some(true)) {
            ready.push(test);
        }
    }
    ready.sort_by_key(|test| (std::cmp::Reverse(test.priority), test.index));
    let room = room.unwrap_or(usize::MAX);
    decision.release = ready.into_iter().take(room).map(|test| test.id).collect();
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(index: u32, needs: &[u32], priority: i32) -> Held {
        Held {
            id: RunId::from_u128(u128::from(index)),
            index,
            name: format!("t{index}"),
            needs: needs.iter().map(|need| format!("t{need}")).collect(),
            priority,
        }
    }

    fn numbers(ids: &[RunId]) -> Vec<u32> {
        ids.iter().map(|id| id.as_u128() as u32).collect()
    }

    #[test]
    fn skipping_goes_on_to_what_needs_the_skipped() {
        let tests = vec![
            held(3, &[2], 0),
            held(2, &[1], 0),
            held(4, &[0], 0),
            held(5, &[0, 9], 0),
        ];
        let ended = [("t0".to_owned(), true), ("t1".to_owned(), false)].into();
        let decision = decide(tests, &ended, None);
        let skipped: Vec<&str> = decision.skip.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(
            skipped,
            [
                "it needs `t1`, which did not pass",
                "it needs `t2`, which was skipped"
            ]
        );
        assert_eq!(numbers(&decision.release), [4], "t5 waits for t9");
    }

    #[test]
    fn room_goes_to_the_highest_priority_and_then_to_the_first() {
        let tests = vec![held(1, &[], 0), held(2, &[], 5), held(3, &[], 0), held(4, &[], 5)];
        let decision = decide(tests, &HashMap::new(), Some(3));
        assert_eq!(numbers(&decision.release), [2, 4, 1]);
    }

    proptest! {
        /// As long as tests end, every one of them is executed exactly once or skipped, never before what it needs, and
        /// never more than `room` at a time.
        #[test]
        fn every_test_comes_to_an_end(
            needs in proptest::collection::vec(proptest::collection::vec(any::<u32>(), 0..3), 1..30),
            fails in proptest::collection::vec(any::<bool>(), 30),
            room in proptest::option::of(1_usize..4),
            order in any::<u64>(),
        ) {
            let all: Vec<Held> = (0_u32..)
                .zip(&needs)
                .map(|(index, needs)| {
                    let before = needs.iter().filter(|_| index > 0).map(|need| need % index.max(1));
                    let before: std::collections::BTreeSet<u32> = before.collect();
                    held(index, &before.into_iter().collect::<Vec<_>>(), (index % 3) as i32)
                })
                .collect();
            let mut waiting = all.clone();
            let mut ended: HashMap<String, bool> = HashMap::new();
            let mut running: Vec<Held> = Vec::new();
            let (mut executed, mut skipped, mut turn) = (0, 0, order);
            loop {
                let free = room.map(|room| room - running.len());
                let decision = decide(waiting.clone(), &ended, free);
                for (id, _) in &decision.skip {
                    let at = waiting.iter().position(|test| test.id == *id).unwrap();
                    let test = waiting.remove(at);
                    prop_assert!(test.needs.iter().any(|need| ended.get(need) == Some(&false)));
                    ended.insert(test.name, false);
                    skipped += 1;
                }
                for id in &decision.release {
                    let at = waiting.iter().position(|test| test.id == *id).unwrap();
                    let test = waiting.remove(at);
                    prop_assert!(test.needs.iter().all(|need| ended.get(need) == Some(&true)));
                    running.push(test);
                }
                prop_assert!(room.is_none_or(|room| running.len() <= room));
                if running.is_empty() {
                    break;
                }
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let test = running.remove((turn >> 33) as usize % running.len());
                ended.insert(test.name.clone(), !fails[test.index as usize]);
                executed += 1;
            }
            prop_assert!(waiting.is_empty(), "these are never decided: {waiting:?}");
            prop_assert_eq!(executed + skipped, all.len());
        }
    }
}
