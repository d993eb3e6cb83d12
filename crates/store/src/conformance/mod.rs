//! The suite that every backend must pass.
//!
//! Each case is a function over a fresh, migrated store. [`conformance_tests!`](crate::conformance_tests) makes one
//! test of each, so that both backends show every case by name and neither can leave one out.

#![expect(
    clippy::unwrap_used,
    reason = "the suite is test code: an error is the failure it is there to show"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "the cases are written in the words of their samples"
)]

mod access;
mod clocks;
mod guards;
mod model;
mod plans;
mod queue;
mod records;
mod references;
mod requeue;
mod samples;
mod sandboxes;
mod select;
mod tenants;

pub use access::*;
pub use clocks::*;
pub use guards::*;
pub use model::*;
pub use plans::*;
pub use queue::*;
pub use records::*;
pub use references::*;
pub use requeue::*;
pub use sandboxes::*;
pub use select::*;
pub use tenants::*;

/// Makes one `#[tokio::test]` of each case.
///
/// `$factory` names an `async fn() -> (Arc<dyn Store>, G)` that makes a new, empty store with all migrations applied.
/// `G` is kept until the case is over: what must live as long as the store, such as a temporary directory. The store is
/// closed after each case.
#[macro_export]
macro_rules! conformance_tests {
    ($factory:path) => {
        $crate::conformance_tests! { @cases $factory:
            records_round_trip,
            zero_bytes_are_replaced,
            stale_updates_conflict,
            duplicates_name_table_and_columns,
            references_must_exist,
            rows_go_with_their_owner,
            access_goes_with_its_owner,
            the_audit_log_is_append_only,
            a_commit_is_all_or_nothing,
            filters_select_rows,
            filters_order_and_limit,
            events_are_in_order_and_by_tenant,
            sandboxes_are_claimed_oldest_first,
            concurrent_claims_of_sandboxes_never_double,
            sandboxes_are_stamped_counted_and_pruned,
            runs_round_trip,
            runs_are_listed_newest_first,
            submitting_twice_is_seen,
            claims_follow_priority_then_submission,
            claims_keep_to_their_classes,
            concurrent_claims_never_double,
            old_attempts_change_nothing,
            each_end_of_a_list_is_judged_alone,
            only_terminal_states_end_a_run,
            requeued_runs_keep_their_place,
            runs_are_lost_at_their_limit,
            uncounted_attempts_cost_nothing,
            a_requested_end_wins_over_a_requeue,
            cancelling_answers_by_state,
            delayed_runs_wait_and_hold_up_nobody,
            positions_count_who_goes_before,
            counters_follow_any_sequence,
            held_runs_wait_until_they_are_released,
            skipped_runs_were_never_started,
            what_follows_is_committed_with_the_end,
            the_tests_of_a_plan_are_counted_once,
            heads_are_told_of_each_priority,
            picks_take_what_they_name,
            concurrent_picks_never_double,
            classes_belong_to_one_tenant,
            silent_servers_are_found,
            hints_arrive,
            migrations_go_down_and_up_again,
            a_closed_store_refuses,
        }
    };
    (@cases $factory:path: $($case:ident,)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _guard) = $factory().await;
            $crate::conformance::$case(::std::sync::Arc::clone(&store)).await;
            store.close().await;
        }
    )+};
}
