//! Order of tests by what they need.
//!
//! On indexes and without recursion, because a plan may have 100,000 tests in one chain;
//! `ostler_domain::dependency_order` is for small graphs of names.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An order in which everything comes after what it needs, otherwise as given; or the members of a cycle, the first
/// again at the end. `needs` holds for each item the indexes of what it needs, without duplicates.
pub(crate) fn order(needs: &[Vec<u32>]) -> Result<Vec<u32>, Vec<u32>> {
    let mut missing: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut needed_by = vec![Vec::new(); needs.len()];
    for (item, below) in needs.iter().enumerate() {
        for need in below {
            needed_by[*need as usize].push(item as u32);
        }
    }
    let ready = |missing: &[usize], item: usize| missing[item] == 0;
    let mut heap: BinaryHeap<Reverse<u32>> = (0..needs.len())
        .filter(|item| ready(&missing, *item))
        .map(|item| Reverse(item as u32))
        .collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(item)) = heap.pop() {
        order.push(item);
        for next in &needed_by[item as usize] {
            missing[*next as usize] -= 1;
            if ready(&missing, *next as usize) {
                heap.push(Reverse(*next));
            }
        }
    }
    if order.len() == needs.len() {
        return Ok(order);
    }
    Err(cycle(needs, &missing))
}

/// Whatever was not reached needs another of its kind, so following needs must come round.
fn cycle(needs: &[Vec<u32>], missing: &[usize]) -> Vec<u32> {
    let mut seen_at = vec![None; needs.len()];
    let mut path: Vec<u32> = Vec::new();
    let mut item = missing.iter().position(|m| *m > 0).unwrap_or_default() as u32;
    loop {
        if let Some(start) = seen_at[item as usize] {
            let mut cycle = path.split_off(start);
            cycle.push(item);
            return cycle;
        }
        seen_at[item as usize] = Some(path.len());
        path.push(item);
        match needs[item as usize]
            .iter()
            .find(|need| missing[**need as usize] > 0)
        {
            Some(next) => item = *next,
            None => return path,
        }
    }
}
