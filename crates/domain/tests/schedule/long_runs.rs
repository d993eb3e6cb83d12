//! What shows only in the long run: nobody starves, tenants get their share, first in is first out.

use crate::sim::{Sim, Use};
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Small runs of higher priority keep coming, and keep every CPU busy. The large one, which takes a whole host, is
    /// started when waiting has lifted it over those that come, and those are done that were there before.
    #[test]
    fn a_large_run_is_started_while_small_ones_keep_coming(
        hosts in prop::collection::vec(4..9u64, 1..4),
        ahead in 1..20usize,
        higher in 0..3i32,
        lengths in prop::collection::vec(1..6i64, 50),
        other_tenant: bool,
        known in 1..4usize,
    ) {
        const TICK: i64 = 10;
        let large = *hosts.iter().max().unwrap();
        let mut sim = Sim::simple(&hosts, &[1, large as u32], &[1, 1]);
        sim.known = known;
        // Classes: tenant 0 small and large, tenant 1 small and large.
        let small = if other_tenant { 2 } else { 0 };
        let mut left: BTreeMap<i64, i64> = BTreeMap::new();
        let fill = |sim: &mut Sim| while sim.queue.iter().filter(|q| q.class == small).count() < ahead {
            sim.submit(small, higher, 0);
        };
        fill(&mut sim);
        sim.dispatch()?;
        fill(&mut sim);
        let wanted = sim.submit(1, 0, 0);
        let lift = (i64::from(higher) + 1) * sim.rules.ageing_seconds as i64 / TICK;
        let most = lift + ahead as i64 * 5 + 20;
        let mut ticks = 0;
        loop {
            fill(&mut sim);
            let (started, _) = sim.dispatch()?;
            for seq in &started {
                left.insert(*seq, lengths[*seq as usize % lengths.len()]);
            }
            if started.contains(&wanted) {
                break;
            }
            prop_assert!(ticks < most, "the large one waits for {ticks} rounds");
            ticks += 1;
            sim.now.0 += TICK * 1_000_000;
            while let Some(at) = sim.boxes.iter().position(|b| match b.used {
                Use::Run { seq, started_at, .. } =>
                    sim.now.0 - started_at.0 >= left.get(&seq).copied().unwrap_or(1) * TICK * 1_000_000,
                _ => false,
            }) {
                sim.end(at, false);
            }
        }
    }

    /// Tenants that always want more get CPUs by their weights, whoever had them all at first and whichever run ends.
    #[test]
    fn shares_become_what_the_weights_say(
        weights in prop::collection::vec(1..5u32, 2..4),
        slots in 6..20u32,
        ends in prop::collection::vec(any::<prop::sample::Index>(), 400),
        known in 1..4usize,
    ) {
        let mut sim = Sim::simple(&[1000], &[1], &weights);
        (sim.slots, sim.known) = (slots, known);
        for _ in 0..slots {
            sim.submit(0, 0, 0);
        }
        sim.dispatch()?;
        prop_assert_eq!(sim.running_of(0), slots as usize);
        let mut seen = vec![0; weights.len()];
        for (n, end) in ends.iter().enumerate() {
            for tenant in 0..weights.len() {
                while sim.queue.iter().filter(|q| q.class == tenant).count() < 2 {
                    sim.submit(tenant, 0, 0);
                }
            }
            let all: Vec<usize> = (0..sim.boxes.len()).filter(|n| matches!(sim.boxes[*n].used, Use::Run { .. })).collect();
            sim.end(*end.get(&all), false);
            sim.dispatch()?;
            prop_assert_eq!(sim.slots_free(), 0);
            if n >= 200 {
                for (tenant, seen) in seen.iter_mut().enumerate() {
                    *seen += sim.running_of(tenant);
                }
            }
        }
        let sum: u32 = weights.iter().sum();
        for (tenant, seen) in seen.iter().enumerate() {
            let mean = *seen as f64 / 200.0;
            // Whoever has nothing is given one, however small its share: each of the others may have one too many.
            let most = weights.len() as f64 - 1.0;
            let due = f64::from(slots * weights[tenant]) / f64::from(sum);
            prop_assert!((mean - due).abs() <= most, "tenant {tenant} has {mean} of {slots}, not {due}: {weights:?}");
        }
    }

    /// Runs of one tenant and priority start in the order of their numbers, whatever they need (as long as it is there)
    /// and whatever the clocks said when they were submitted.
    #[test]
    fn first_in_is_first_out_whatever_the_clock_says(
        runs in prop::collection::vec((0..3usize, -2000..2000i64), 1..40),
        slots in 1..6u32,
        known in 1..4usize,
    ) {
        let mut sim = Sim::simple(&[1000], &[1, 2, 3], &[1]);
        (sim.slots, sim.known) = (slots, known);
        for (class, skew) in &runs {
            sim.submit(*class, 0, *skew);
        }
        let mut all = Vec::new();
        while !sim.queue.is_empty() {
            all.extend(sim.dispatch()?.0);
            sim.boxes.clear();
            sim.now.0 += 7_000_000;
        }
        let wanted: Vec<i64> = (1..=runs.len() as i64).collect();
        prop_assert_eq!(all, wanted);
    }
}
