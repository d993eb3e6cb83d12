//! The invariants of executing tests, over generated sequences of operations against the real scheduler, executor and
//! stores, with servers that are killed at any of their steps. Only programs and sandboxes are simulated; what needs real
//! ones is in `real`.
//!
//! | invariant | where it is checked |
//! |---|---|
//! | start and stop are consistent | `invariants::nothing_runs_after_a_stop`, and every start |
//! | a submitted plan is processed without a further call | `World::all_ended`, `invariants::a_submitted_plan_is_processed` |
//! | allocation satisfies every requirement | `invariants::allocation_satisfies_every_requirement` |
//! | counters equal reality at every step | `invariants::counters_equal_reality` |
//! | what the status says equals the database | `invariants::status_equals_the_database` |
//! | isolation | `programs::Ledger::begin`; with real programs `real::no_test_sees_another` |
//! | capture is complete | `invariants::capture_is_complete`; with real programs `real::output_is_kept_byte_for_byte` |
//! | time-outs are enforced | `invariants::time_outs_are_enforced` |
//! | priority order, and first in first out | `store::Watched::check_order`, `the_queue_is_in_order` |
//! | the runner fits the environment | `invariants::the_runner_fits_the_environment` |
//! | resources return after any outcome | `invariants::resources_return`, `invariants::no_more_is_taken_than_there_is` |
//! | after a restart nothing is lost or run twice | `invariants::nothing_is_lost_or_run_twice` |
//! | artifacts are complete | `real::files_are_kept_byte_for_byte` |
//!
//! `PROPTEST_CASES` raises the number of sequences.

#![allow(clippy::unwrap_used, reason = "test code")]
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "scripts and sums are short"
)]

#[path = "../world/mod.rs"]
mod common;
mod driver;
mod fuse;
mod invariants;
mod model;
mod programs;
mod real;
mod store;
mod world;

use model::{Need, Op, PlanShape, TestShape, operations};
use ostler_test_kit::Postgres;
use programs::What;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use world::{SLOTS, World};

/// Sequences of operations for each store, unless the environment says otherwise.
const SEQUENCES: u32 = 12;

fn config(cases: u32) -> Config {
    let cases = match std::env::var("PROPTEST_CASES") {
        Ok(_) => Config::default().cases,
        Err(_) => cases,
    };
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 100,
        max_shrink_time: 120_000,
        ..Config::default()
    }
}

/// One for each case, and one for each server: nothing of a server that was killed is left after it.
fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

/// All operations one after the other, with a look at everything after each; then until all plans have ended.
async fn sequence(world: &World, ops: &[Op]) {
    let mut server = world.start(None).await;
    // How soon after its start the server after the next kill is killed, too.
    let mut again = None;
    for op in ops {
        let alive = match world.apply(&mut server, op, &mut again).await {
            Some(()) => invariants::hold(world, &server).await,
            None => None,
        };
        if alive.is_none() {
            server = world.next(server, again.take()).await;
        }
    }
    end(world, server).await;
}

/// Everything comes to its end, and holds.
async fn end(world: &World, mut server: world::Server) {
    while world.all_ended(&server).await.is_none()
        || invariants::hold(world, &server).await.is_none()
        || invariants::hold_at_the_end(world, &server).await.is_none()
    {
        server = world.next(server, None).await;
    }
    // From here on it is not killed.
    server = world.next(server, None).await;
    invariants::resources_return(world, &server).await;
    invariants::hold_at_the_end(world, &server).await.unwrap();
    world.kill(server).await;
}

fn sequences(postgres: Option<&Postgres>) {
    let tested = TestRunner::new(config(SEQUENCES)).run(&operations(), |ops| {
        let runtime = runtime();
        let world = World::new(postgres.map(Postgres::database), SLOTS);
        runtime.block_on(sequence(&world, &ops));
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
}

fn shape(what: What, priority: i32) -> TestShape {
    TestShape {
        what,
        need: Need::Nothing,
        priority,
        retries: 0,
        ms: 1,
        bytes: 500,
        after: None,
        allow_failure: false,
    }
}

/// A plan is executed again and again, and each time the server is killed one step later, until it is not any more.
fn every_step(postgres: Option<&Postgres>) {
    let runtime = runtime();
    let world = World::new(postgres.map(Postgres::database), SLOTS);
    let mut flaky = shape(What::Flaky, 0);
    flaky.retries = 1;
    flaky.after = Some(0);
    let plan = PlanShape {
        tests: vec![shape(What::Pass, 0), flaky, shape(What::Fail, 1)],
        max_parallel: None,
        fail_fast: false,
    };
    runtime.block_on(async {
        let mut server = world.start(None).await;
        let mut last = 0;
        for at in 1.. {
            server.fuse.arm(at);
            let submitted = world.submit(&server, &plan).await;
            if submitted.is_some() {
                world.all_ended(&server).await;
            }
            if !server.fuse.is_burnt() {
                break;
            }
            last = at;
            server = world.next(server, None).await;
            world.all_ended(&server).await.unwrap();
            if at % 16 == 0 {
                invariants::hold(&world, &server).await.unwrap();
            }
        }
        assert!(last >= 40, "only {last} steps");
        server = world.next(server, None).await;
        end(&world, server).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// With one slot, and sandboxes of one pool, tests begin in the order of priority and then of submission, whatever plans
/// and classes they are of.
fn the_queue_is_in_order(postgres: Option<&Postgres>) {
    let waiting = prop::collection::vec((-3..4_i32, any::<bool>()), 2..12);
    let tested = TestRunner::new(config(4)).run(&(waiting, 1..4_usize), |(tests, plans)| {
        let runtime = runtime();
        let world = World::new(postgres.map(Postgres::database), 1);
        runtime.block_on(async {
            let server = world.start(None).await;
            world.ledger.open(false);
            // Nothing else is in the way of the first, whose end the others wait for.
            let mut all = vec![vec![shape(What::Pass, 1000)]];
            let of_plan = tests.chunks(tests.len().div_ceil(plans));
            all.extend(of_plan.map(|tests| {
                let test = |(priority, one): &(i32, bool)| TestShape {
                    need: if *one { Need::Pool("large") } else { Need::Cpus(3) },
                    ms: 0,
                    ..shape(What::Pass, *priority)
                };
                tests.iter().map(test).collect::<Vec<_>>()
            }));
            for (number, tests) in all.into_iter().enumerate() {
                let plan = PlanShape {
                    tests,
                    max_parallel: None,
                    fail_fast: false,
                };
                world.submit(&server, &plan).await.unwrap();
                while number == 0 && world.ledger.running().is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            world.ledger.open(true);
            world.all_ended(&server).await.unwrap();
            let mut runs = invariants::runs(&*server.store).await;
            runs.sort_by_key(|run| (-run.submitted.priority, run.seq));
            let wanted: Vec<&str> = runs
                .iter()
                .map(|run| run.submitted.spec.commands[0].argv[1].as_str())
                .collect();
            let begun = world.ledger.all();
            let begun: Vec<&str> = begun.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(begun, wanted);
            world.kill(server).await;
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
}

mod on_sqlite {
    #[test]
    fn every_invariant_holds_whatever_is_done() {
        super::sequences(None);
    }

    #[test]
    fn every_invariant_holds_at_whatever_step_a_server_is_killed() {
        super::every_step(None);
    }

    #[test]
    fn tests_begin_in_the_order_of_the_queue() {
        super::the_queue_is_in_order(None);
    }
}

mod on_postgresql {
    use ostler_test_kit::{Postgres, require};

    #[test]
    fn every_invariant_holds_whatever_is_done() {
        require!(Postgres);
        super::sequences(Some(&Postgres::shared()));
    }

    #[test]
    fn every_invariant_holds_at_whatever_step_a_server_is_killed() {
        require!(Postgres);
        super::every_step(Some(&Postgres::shared()));
    }

    #[test]
    fn tests_begin_in_the_order_of_the_queue() {
        require!(Postgres);
        super::the_queue_is_in_order(Some(&Postgres::shared()));
    }
}
