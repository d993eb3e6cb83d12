//! Dependency graphs: order and cycles.

use std::collections::{BTreeMap, BTreeSet};

/// A cycle, as the chain of its members; the first stands again at the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dependencies form a cycle: {}", cycle.join(" → "))]
pub struct CycleError {
    /// The members in order.
    pub cycle: Vec<String>,
}

/// Finds a cycle among `edges` (item → what it depends on), if there is one.
pub fn find_cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<CycleError> {
    dependency_order(edges).err()
}

/// All items, each after everything that it depends on; ties in order of name, shorter ones first: `x.10` comes after
/// `x.9`. Equal input gives equal output.
///
/// # Errors
/// The cycle, when there is no such order.
pub fn dependency_order(edges: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>, CycleError> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let items: BTreeSet<(usize, &String)> = edges
        .keys()
        .chain(edges.values().flatten())
        .map(by_name)
        .collect();
    for (_, root) in items {
        // Depth first with an explicit stack: (item, its dependencies still to visit).
        let mut path: Vec<(&String, Vec<&String>)> = Vec::new();
        let pending = |item: &String| {
            let needs: BTreeSet<_> = edges.get(item).into_iter().flatten().map(by_name).collect();
            needs.into_iter().map(|(_, name)| name).rev().collect::<Vec<_>>()
        };
        if !done.contains(root) {
            path.push((root, pending(root)));
        }
        while let Some((item, rest)) = path.last_mut() {
            let item = *item;
            let Some(next) = rest.pop() else {
                path.pop();
                if done.insert(item) {
                    order.push(item.clone());
                }
                continue;
            };
            if let Some(start) = path.iter().position(|(on_path, _)| *on_path == next) {
                let mut cycle: Vec<String> = path[start..].iter().map(|(name, _)| (*name).clone()).collect();
                cycle.push(next.clone());
                return Err(CycleError { cycle });
            }
            if !done.contains(next) {
                path.push((next, pending(next)));
            }
        }
    }
    Ok(order)
}

fn by_name(name: &String) -> (usize, &String) {
    (name.len(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph(edges: &[(u8, u8)]) -> BTreeMap<String, BTreeSet<String>> {
        let mut map = BTreeMap::<String, BTreeSet<String>>::new();
        for (from, to) in edges {
            map.entry(from.to_string()).or_default().insert(to.to_string());
        }
        map
    }

    #[test]
    fn names_the_cycle() {
        let error = dependency_order(&graph(&[(1, 2), (2, 3), (3, 1), (0, 1)])).unwrap_err();
        assert_eq!(error.to_string(), "dependencies form a cycle: 1 → 2 → 3 → 1");
    }

    #[test]
    fn many_items_stay_in_the_order_of_their_numbers() {
        let mut map: BTreeMap<String, BTreeSet<String>> = (1..=120)
            .map(|n| (format!("iv-x.{n}"), BTreeSet::new()))
            .collect();
        map.insert("iv-x.1".into(), ["iv-x.12".into(), "iv-x.3".into()].into());
        let order = dependency_order(&map).unwrap();
        let mut expected = vec!["iv-x.3".to_owned(), "iv-x.12".into(), "iv-x.1".into()];
        expected.extend(
            (2..=120)
                .filter(|n| ![3, 12].contains(n))
                .map(|n| format!("iv-x.{n}")),
        );
        assert_eq!(order, expected);
    }

    #[test]
    fn an_item_may_not_depend_on_itself() {
        assert_eq!(find_cycle(&graph(&[(1, 1)])).unwrap().cycle, ["1", "1"]);
    }

    proptest! {
        #[test]
        fn order_or_true_cycle(edges in proptest::collection::vec((0u8..12, 0u8..12), 0..40)) {
            let map = graph(&edges);
            match dependency_order(&map) {
                Ok(order) => for (item, needs) in &map {
                    let at = |x: &String| order.iter().position(|o| o == x).unwrap();
                    for need in needs { prop_assert!(at(need) < at(item)); }
                },
                Err(CycleError { cycle }) => for pair in cycle.windows(2) {
                    prop_assert!(map[&pair[0]].contains(&pair[1]));
                },
            }
        }
    }
}
