//! What a run is told that waits, and what is chosen, by example.

use crate::sim::{Sim, SimHost, Use, host_name};
use ostler_domain::schedule::{
    Amounts, GiveWay, Obstacle, QueueClass, QueueHead, TenantShare, WaitReason, obstacles, plan_dispatch,
};
use ostler_domain::{Requirements, Timestamp};
use std::time::Instant;

fn text(sim: &Sim, seq: i64) -> String {
    let plan = plan_dispatch(&sim.told(), &sim.rules);
    plan.waiting
        .iter()
        .find(|w| w.seq == seq)
        .unwrap()
        .reason
        .to_string()
}

fn run_of(class: usize) -> Use {
    let (created_at, started_at) = (Timestamp(0), Timestamp(0));
    Use::Run {
        seq: 0,
        class,
        priority: 0,
        created_at,
        started_at,
    }
}

#[test]
fn slots_pools_hosts_and_people() {
    let mut sim = Sim::simple(&[4], &[1, 4], &[1]);
    sim.slots = 1;
    sim.start_other(0, 0, run_of(0));
    let seq = sim.submit(0, 0, 0);
    assert_eq!(text(&sim, seq), "all slots of the server are in use");

    sim.slots = 10;
    let large = sim.submit(1, 5, 0);
    assert_eq!(
        text(&sim, large),
        "it waits. p1: a sandbox takes 4 CPUs, and h0 has 3 free; what a sandbox of p1 takes is kept for it on h0 as it \
         comes free"
    );
    assert_eq!(
        text(&sim, seq),
        "it waits. p0: what is free on h0 is kept for the run submitted as number 2; p1: a sandbox takes 4 CPUs, and h0 \
         has 3 free"
    );

    sim.boxes[0].used = Use::Person;
    assert_eq!(
        text(&sim, large),
        "it waits. p1: a sandbox takes 4 CPUs, and people hold all but 3 on h0"
    );
    // People may keep it for ever: nothing is kept free beside them.
    assert_eq!(plan_dispatch(&sim.told(), &sim.rules).decisions.len(), 1);

    sim.pools[1].1 = 0;
    assert_eq!(
        text(&sim, large),
        "no pool satisfies the requirements. p1: its maximum is 0; p0: the number of CPUs is 1, less than 4"
    );
    sim.pools[1].1 = 9;
    sim.hosts[0].available = false;
    assert_eq!(
        text(&sim, large),
        "it waits. p1: nothing is started on h0: it is in quarantine"
    );
    sim.hosts[0].there = false;
    sim.boxes.clear();
    assert_eq!(text(&sim, large), "it waits. p1: no host of its driver is there");
}

#[test]
fn a_pool_that_is_full_and_one_that_is_too_large() {
    let mut sim = Sim::simple(&[4], &[1, 5], &[1]);
    sim.pools[0].1 = 1;
    sim.start_other(0, 0, Use::Person);
    let (small, large) = (sim.submit(0, 0, 0), sim.submit(1, 0, 0));
    assert_eq!(
        text(&sim, small),
        "it waits. p0: all 1 sandboxes that it may have are in use; p1: a sandbox takes 5 CPUs, and h0, which comes closest, has 4 in all"
    );
    assert_eq!(
        text(&sim, large),
        "no pool satisfies the requirements. p1: a sandbox takes 5 CPUs, and h0, which comes closest, has 4 in all; p0: the number of \
         CPUs is 1, less than 5"
    );
    sim.boxes.clear();
    sim.hosts.clear();
    sim.pools.clear();
    assert!(text(&sim, small).starts_with("no pool is set up"));
}

#[test]
fn what_a_submission_is_told() {
    let mut sim = Sim::simple(&[4], &[2], &[1]);
    let wants = |cpus| Requirements {
        cpus: Some(cpus),
        ..Requirements::default()
    };
    assert_eq!(obstacles(&sim.told(), &sim.rules, &wants(2)), None);
    let refused = obstacles(&sim.told(), &sim.rules, &wants(3));
    assert!(
        matches!(refused, Some(WaitReason::Impossible { .. })),
        "{refused:?}"
    );
    sim.start_other(0, 0, run_of(0));
    sim.start_other(0, 0, run_of(0));
    let Some(WaitReason::Busy { pools, .. }) = obstacles(&sim.told(), &sim.rules, &wants(1)) else {
        panic!()
    };
    assert!(matches!(
        pools[0].obstacle,
        Obstacle::Capacity {
            needed: 2,
            free: 0,
            ..
        }
    ));
}

#[test]
fn the_smallest_pool_a_warm_sandbox_and_the_fullest_host() {
    let mut sim = Sim::simple(&[8, 4], &[4, 1, 2], &[1]);
    let class = |sim: &Sim, cpus| {
        sim.classes
            .iter()
            .position(|(_, r)| r.cpus == Some(cpus))
            .unwrap()
    };
    let chosen = |sim: &Sim| {
        let plan = plan_dispatch(&sim.told(), &sim.rules);
        let decision = plan.decisions[0].clone();
        (decision.pool, decision.host, decision.warm, decision.give_way)
    };
    let two = class(&sim, 2);
    sim.submit(two, 0, 0);
    assert_eq!(chosen(&sim), ("p2".into(), "h1".into(), 0, vec![]));
    // A warm one of a larger pool is not taken for it, one of the same pool elsewhere is.
    sim.start_other(0, 0, Use::Warm);
    assert_eq!(chosen(&sim), ("p2".into(), "h1".into(), 0, vec![]));
    sim.start_other(2, 0, Use::Warm);
    assert_eq!(chosen(&sim), ("p2".into(), "h0".into(), 1, vec![]));
    // What is full of warm ones of others gives way, by as few as will do.
    sim.boxes.clear();
    for host in 0..2 {
        sim.start_other(1, host, Use::Warm);
        sim.start_other(0, host, Use::Warm);
        sim.start_other(1, host, Use::Warm);
        sim.start_other(1, host, Use::Warm);
    }
    sim.start_other(1, 0, Use::Warm);
    sim.pools[0].1 = 2;
    sim.boxes
        .iter_mut()
        .filter(|b| b.pool == 0)
        .for_each(|b| b.used = run_of(0));
    let gone = GiveWay {
        pool: "p1".into(),
        host: host_name(0),
        count: 2,
    };
    assert_eq!(chosen(&sim), ("p2".into(), "h0".into(), 0, vec![gone]));
}

#[test]
fn a_device_is_given_once_and_one_that_nobody_counts_is_shared() {
    let mut sim = Sim::simple(&[8], &[1], &[1]);
    sim.pools[0].0.devices = ["gpu".to_owned()].into();
    sim.classes[0].1.devices = ["gpu".to_owned()].into();
    for _ in 0..3 {
        sim.submit(0, 0, 0);
    }
    let count = |sim: &Sim| plan_dispatch(&sim.told(), &sim.rules).decisions[0].count;
    assert_eq!(count(&sim), 3);
    sim.hosts[0].capacity.devices.insert("gpu".into(), 2);
    assert_eq!(count(&sim), 2);
    sim.rules.overcommit.cpus = 12;
    assert_eq!(sim.capacity(0)[0], 0);
    assert!(plan_dispatch(&sim.told(), &sim.rules).decisions.is_empty());
}

#[test]
fn less_than_its_share_goes_first() {
    let mut sim = Sim::simple(&[100], &[1], &[1, 3]);
    sim.slots = 3;
    sim.start_other(0, 0, run_of(0));
    let (first, _) = (sim.submit(0, 0, 0), sim.submit(1, 0, 0));
    sim.submit(1, 0, 0);
    assert_eq!(
        text(&sim, first),
        "others have less of their share and go first; 1 runs of its tenant, whose weight is 1, are being executed"
    );
}

/// 50 classes in 16 priorities, 20 pools, 4 hosts, 64 free slots: what a busy server decides at each turn. The limit is
/// for builds without optimisation on a busy machine; it is there for what grows with the square.
#[test]
fn a_plan_is_made_at_once() {
    let sizes: Vec<u32> = (1..=20).collect();
    let weights = [1, 2, 3, 4, 5];
    let mut world = Sim::simple(&[64, 64, 64, 64], &sizes, &weights).told();
    world.slots = 64;
    world.classes.truncate(50);
    for class in 0..50i64 {
        for priority in 0..16 {
            let seq = class * 16 + i64::from(priority) + 1;
            let created_at = Timestamp(world.now.0 - seq * 1_000_000);
            world.heads.push(QueueHead {
                class,
                priority,
                seq,
                run: None,
                created_at,
                more: 100,
            });
        }
    }
    let rules = Sim::simple(&[1], &[1], &[1]).rules;
    let time = || {
        let start = Instant::now();
        let plan = plan_dispatch(&world, &rules);
        assert_eq!(
            plan.decisions.iter().map(|d| d.count).sum::<u32>() as usize + plan.waiting.len(),
            800
        );
        start.elapsed()
    };
    let best = (0..5).map(|_| time()).min().unwrap();
    println!("a plan took {best:?}");
    assert!(best.as_millis() < 100, "a plan took {best:?}");
}

#[test]
fn what_is_unknown_is_left_out() {
    let mut sim = Sim::simple(&[4], &[1], &[1]);
    sim.submit(0, 0, 0);
    let mut world = sim.told();
    world.heads[0].class = 77;
    let stray = TenantShare::default();
    world.classes.push(QueueClass {
        id: 5,
        tenant: ostler_domain::TenantId::DEFAULT,
        requirements: Requirements::default(),
    });
    world
        .tenants
        .insert(ostler_domain::TenantId::from_u128(99), stray);
    world.hosts[0].warm.insert("gone".into(), 3);
    let plan = plan_dispatch(&world, &sim.rules);
    assert!(plan.decisions.is_empty() && plan.waiting.is_empty());
    let nobody = SimHost {
        capacity: Amounts::default(),
        pools: [0].into(),
        available: true,
        there: true,
    };
    sim.hosts = vec![nobody];
    assert!(text(&sim, 1).contains("h0, which comes closest, has 0 in all"));
}
