//! A matrix and its combinations, by the rules that GitHub Actions made known.

use crate::error::did_you_mean;
use crate::fields::Matrix;
use crate::limits;
use crate::substitute::Wrong;
use crate::tree::Step;
use std::collections::{BTreeMap, BTreeSet};

/// One set of values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Combination {
    pub(crate) values: BTreeMap<String, String>,
    /// What the name of the test shows, in order: the axes, or all values of a combination that was added.
    pub(crate) shown: Vec<(String, String)>,
}

/// A problem of a matrix, with the way to it from the matrix.
pub(crate) type Problem = (Vec<Step>, Wrong);

/// All combinations, in the order of the axes, the last one changing fastest, then those that `include` adds. An empty
/// matrix has the one empty combination.
pub(crate) fn combinations(matrix: &Matrix) -> Result<Vec<Combination>, Vec<Problem>> {
    let problems = check(matrix);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut product = vec![Combination::default()];
    for (axis, values) in &matrix.axes {
        product = product
            .iter()
            .flat_map(|so_far| {
                values.iter().map(|value| {
                    let mut next = so_far.clone();
                    next.values.insert(axis.clone(), value.clone());
                    next.shown.push((axis.clone(), value.clone()));
                    next
                })
            })
            .collect();
    }
    product.retain(|c| {
        let left_out = |pairs: &[(String, String)]| pairs.iter().all(|(k, v)| c.values.get(k) == Some(v));
        !matrix.exclude.iter().any(|pairs| left_out(&pairs.0))
    });
    if matrix.axes.is_empty() && !matrix.include.is_empty() {
        product.clear();
    }
    let axes: BTreeSet<&String> = matrix.axes.iter().map(|(axis, _)| axis).collect();
    let mut added = Vec::new();
    for pairs in &matrix.include {
        let mut fits = false;
        for combination in &mut product {
            let same = |(k, v): &(String, String)| !axes.contains(k) || combination.values.get(k) == Some(v);
            if pairs.0.iter().all(same) {
                fits = true;
                combination.values.extend(pairs.0.iter().cloned());
            }
        }
        if !fits {
            added.push(Combination {
                values: pairs.0.iter().cloned().collect(),
                shown: pairs.0.clone(),
            });
        }
    }
    product.append(&mut added);
    if product.is_empty() {
        return Err(vec![(
            vec!["exclude".into()],
            Wrong::new("nothing is left of the matrix; remove an entry of `exclude`"),
        )]);
    }
    Ok(product)
}

fn check(matrix: &Matrix) -> Vec<Problem> {
    let mut problems = Vec::new();
    let names: Vec<&str> = matrix.axes.iter().map(|(axis, _)| axis.as_str()).collect();
    let mut size = 1_usize;
    for (axis, values) in &matrix.axes {
        let mut tell = |path: Vec<Step>, message: String| problems.push((path, Wrong::new(message)));
        let at = || vec![Step::from(axis.as_str())];
        if let Some(message) = bad_axis(axis) {
            tell(at(), message);
        }
        if values.is_empty() {
            tell(at(), format!("the axis `{axis}` has no values"));
        }
        let mut seen = BTreeSet::new();
        for (i, value) in values.iter().enumerate() {
            let place = || vec![axis.as_str().into(), i.into()];
            if !seen.insert(value) {
                tell(place(), format!("the value `{value}` stands here a second time"));
            }
            if let Some(message) = bad_value(value) {
                tell(place(), message);
            }
        }
        size = size.saturating_mul(values.len());
    }
    let size = size.saturating_add(matrix.include.len());
    // Each `include` and `exclude` is held against each combination.
    let work = size.saturating_mul(1 + matrix.include.len() + matrix.exclude.len());
    if size > limits::COMBINATIONS || work > limits::COMBINATIONS * 100 {
        let most = limits::COMBINATIONS;
        problems.push((
            Vec::new(),
            Wrong::new(format!(
                "the matrix has {size} combinations or very many rules; at most {most} combinations are possible"
            )),
        ));
    }
    for (list, entries) in [("include", &matrix.include), ("exclude", &matrix.exclude)] {
        for (i, pairs) in entries.iter().enumerate() {
            if pairs.0.is_empty() {
                problems.push((vec![list.into(), i.into()], Wrong::new("this entry is empty")));
            }
            for (key, value) in &pairs.0 {
                let place = || vec![list.into(), i.into(), key.as_str().into()];
                if list == "exclude" && !names.contains(&key.as_str()) {
                    let wrong = Wrong {
                        message: format!("the matrix has no axis `{key}`"),
                        suggestion: did_you_mean(key, names.iter().copied()),
                    };
                    problems.push((place(), wrong));
                } else if let Some(message) = bad_axis(key).or_else(|| bad_value(value)) {
                    problems.push((place(), Wrong::new(message)));
                }
            }
        }
    }
    problems
}

fn bad_axis(axis: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if axis.is_empty() || axis.len() > 64 || !axis.chars().all(fine) {
        return Some("an axis is named by up to 64 letters, digits, `_` and `-`".to_owned());
    }
    (axis == "shard").then(|| "an axis cannot be named `shard`; that is what `shards` makes".to_owned())
}

fn bad_value(value: &str) -> Option<String> {
    (value.chars().any(char::is_control))
        .then(|| "a value of a matrix cannot contain control characters".to_owned())
}
