//! Which tests a test needs, and the order that follows.

use crate::error::did_you_mean;
use crate::expand::Sink;
use crate::plan::PlannedTest;
use crate::substitute::Wrong;
use crate::{graph, limits};
use std::collections::HashMap;

/// A test whose needs are still names.
pub(crate) struct Draft {
    pub(crate) test: PlannedTest,
    /// Its index in the text.
    pub(crate) index: usize,
    pub(crate) needs: Vec<String>,
}

/// How many names are looked at for a suggestion.
const CANDIDATES: usize = 5000;

/// The tests in order, with their needs as indexes.
pub(crate) fn ordered(drafts: Vec<Draft>, sink: &mut Sink<'_>) -> Vec<PlannedTest> {
    let Some(needs) = resolve(&drafts, sink) else {
        return Vec::new();
    };
    let order = match graph::order(&needs) {
        Ok(order) => order,
        Err(cycle) => {
            tell_cycle(&drafts, &cycle, sink);
            return Vec::new();
        }
    };
    let mut position = vec![0_u32; order.len()];
    for (new, old) in order.iter().enumerate() {
        position[*old as usize] = new as u32;
    }
    let mut tests: Vec<Option<PlannedTest>> = drafts
        .into_iter()
        .zip(needs)
        .map(|(draft, below)| {
            let mut needs: Vec<u32> = below.iter().map(|need| position[*need as usize]).collect();
            needs.sort_unstable();
            Some(PlannedTest { needs, ..draft.test })
        })
        .collect();
    order
        .iter()
        .filter_map(|old| tests[*old as usize].take())
        .collect()
}

fn resolve(drafts: &[Draft], sink: &mut Sink<'_>) -> Option<Vec<Vec<u32>>> {
    let mut index = Index {
        drafts,
        names: HashMap::new(),
        groups: HashMap::new(),
        known: HashMap::new(),
        work: 0,
    };
    for (i, draft) in drafts.iter().enumerate() {
        index.names.insert(&draft.test.name, i as u32);
        index.groups.entry(&draft.test.group).or_default().push(i as u32);
    }
    let mut all = Vec::with_capacity(drafts.len());
    let mut total = 0;
    for draft in drafts {
        let mut below = Vec::new();
        for (i, need) in draft.needs.iter().enumerate() {
            let found = index.find(need);
            if found.is_empty() {
                let path = sink.origin(draft.index, &["needs".into(), i.into()]);
                let wrong = index.unknown(need);
                sink.tell(&path, wrong);
            }
            total += found.len();
            if total.max(index.work / 20) > limits::NEEDS {
                let path = sink.origin(draft.index, &["needs".into(), i.into()]);
                sink.tell(
                    &path,
                    Wrong {
                        message: format!("the tests need each other more than {} times", limits::NEEDS),
                        suggestion: Some(
                            "name single ones (`test [axis=value]`), or put one test between".to_owned(),
                        ),
                    },
                );
                return None;
            }
            below.extend(found);
        }
        below.sort_unstable();
        below.dedup();
        all.push(below);
        if sink.full() {
            return None;
        }
    }
    sink.problems.is_empty().then_some(all)
}

struct Index<'d> {
    drafts: &'d [Draft],
    names: HashMap<&'d str, u32>,
    groups: HashMap<&'d str, Vec<u32>>,
    /// What names with a suffix stand for.
    known: HashMap<&'d str, Vec<u32>>,
    /// Tests that were looked at for suffixes.
    work: usize,
}

impl<'d> Index<'d> {
    /// One test by its full name, all of a group by the name in the text, or those of a group that have the values of a
    /// suffix; empty if there is none.
    fn find(&mut self, need: &'d str) -> Vec<u32> {
        if let Some(one) = self.names.get(need) {
            return vec![*one];
        }
        if let Some(group) = self.groups.get(need) {
            return group.clone();
        }
        if let Some(known) = self.known.get(need) {
            return known.clone();
        }
        let found = self.by_suffix(need).unwrap_or_default();
        self.known.insert(need, found.clone());
        found
    }

    fn by_suffix(&mut self, need: &str) -> Option<Vec<u32>> {
        let (group, suffix) = need.strip_suffix(']')?.rsplit_once(" [")?;
        let group = self.groups.get(group)?;
        let pairs: Vec<(&str, &str)> = suffix
            .split(", ")
            .map(|pair| pair.split_once('='))
            .collect::<Option<_>>()?;
        self.work += group.len() * pairs.len();
        let has = |test: &PlannedTest, key: &str, value: &str| match test.shard {
            Some(shard) if key == "shard" => value == format!("{}/{}", shard.index, shard.count),
            _ => test.matrix.get(key).is_some_and(|v| v == value),
        };
        let fits = |i: &&u32| {
            let test = &self.drafts[**i as usize].test;
            pairs.iter().all(|(key, value)| has(test, key, value))
        };
        Some(group.iter().filter(fits).copied().collect())
    }

    fn unknown(&self, need: &str) -> Wrong {
        let members = |group: &str| self.groups.get(group).map(Vec::as_slice).unwrap_or_default();
        let group = need.split_once(" [").map_or(need, |(group, _)| group);
        let expanded = members(group)
            .iter()
            .map(|i| self.drafts[*i as usize].test.name.as_str());
        // Groups in the order of the text: a hash map has none, and the same plan must give the same suggestion.
        let mut last = "";
        let groups = self.drafts.iter().map(|d| d.test.group.as_str()).filter(|group| {
            let new = *group != last;
            last = group;
            new
        });
        Wrong {
            message: format!(
                "no test is named `{}`",
                need.chars().take(120).collect::<String>()
            ),
            suggestion: did_you_mean(need, expanded.chain(groups).take(CANDIDATES)),
        }
    }
}

fn tell_cycle(drafts: &[Draft], cycle: &[u32], sink: &mut Sink<'_>) {
    const SHOWN: usize = 10;
    let Some(first) = cycle.first() else { return };
    let name = |i: &u32| drafts[*i as usize].test.name.as_str();
    let mut names: Vec<&str> = cycle.iter().take(SHOWN).map(name).collect();
    if cycle.len() > SHOWN {
        names.push("…");
        names.extend(cycle.last().map(name));
    }
    let path = sink.origin(drafts[*first as usize].index, &["needs".into()]);
    sink.tell(
        &path,
        Wrong {
            message: format!("the tests need each other in a circle: {}", names.join(" → ")),
            suggestion: Some("remove one of these needs".to_owned()),
        },
    );
}
