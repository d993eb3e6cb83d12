//! Plans of tests: submitting, going on, cancelling, and what is told of them.
//!
//! A test is a run, so that queue, executor, log and recovery are those of all runs. What a plan adds is what follows from
//! the end of one: a retry, the release or the skipping of those that need it, the end of the plan. The first is decided by
//! the run alone and committed with its end ([`Control::follow_up`]), so that there is no instant at which a test neither
//! has ended nor is going to be tried again. The rest is settled from what is stored ([`Control::settle_plan`]), which
//! anybody may do at any time, any number of times.
//!
//! That an end was told (an event and a row of the history) is itself written with the end, or, for runs that end without
//! ever being executed, by the next settling. The row's key is the run, so that nothing is told twice.

mod cases;
mod choices;
mod decide;
mod end;
mod explain;
mod history;
pub(crate) mod project;
mod quarantine;
mod settle;
mod shards;
mod submit;
mod trend;
mod view;

pub use cases::CaseQuery;
pub use choices::PlanChoices;
pub use history::TestIdentity;
pub use ostler_plans::Format as PlanFormat;
pub use ostler_plans::limits::TEXT as MAX_PLAN;
pub use view::{PlanQuery, TestQuery};

pub(crate) use settle::Moves;

use ostler_domain::{PlanId, RunId};
use sha2::{Digest, Sha256};

/// Changes of one commit, where there may be very many: others want to write, too.
const CHUNK: usize = 500;
/// Runs that are read at once.
const PAGE: u32 = 1000;

/// The id of the run of a test: the same for the same ordinal, so that enqueuing it twice is seen. It begins like the
/// plan's, so that the runs of a plan stand together in an index.
fn run_id(plan: PlanId, key: &str, ordinal: u32) -> RunId {
    const OWN: u32 = 80;
    let hash = Sha256::new()
        .chain_update(plan.as_u128().to_be_bytes())
        .chain_update(ordinal.to_be_bytes())
        .chain_update(key)
        .finalize();
    let number = hash
        .iter()
        .take(16)
        .fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let own = (1_u128 << OWN) - 1;
    RunId::from_u128((plan.as_u128() & !own) | (number & own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_of_runs_differ_by_plan_test_and_ordinal_and_never_change() {
        let plan = PlanId::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        let other = PlanId::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ac);
        let ids: BTreeSet<RunId> = [
            run_id(plan, "a", 1),
            run_id(plan, "a", 2),
            run_id(plan, "b", 1),
            run_id(other, "a", 1),
        ]
        .into();
        assert_eq!(ids.len(), 4);
        assert_eq!(run_id(plan, "a", 1), run_id(plan, "a", 1));
        assert_eq!(run_id(plan, "a", 1).as_u128() >> 80, plan.as_u128() >> 80);
    }
}
