//! Lost races: read again and decide again.

use crate::ControlError;
use ostler_store::StoreError;

/// How often a use case that lost a race starts again. Races are between a person and a reconciler, so that more than
/// two in a row are a sign of something else.
pub(crate) const TRIES: u32 = 8;

/// Whether somebody else was faster: they changed a row, deleted what another one belongs to, or wrote the first record of a
/// host, whose id follows from what it is.
pub(crate) fn is_lost_race(error: &ControlError) -> bool {
    match error {
        ControlError::Store(StoreError::Conflict { .. } | StoreError::Reference { .. }) => true,
        ControlError::Store(StoreError::Duplicate { table, .. }) => table == "hosts",
        _ => false,
    }
}

/// Runs a block of an async function again as long as it ends with a lost race. A macro, because the futures of an async
/// closure cannot be shown to be `Send`.
macro_rules! retry_on_conflict {
    ($body:block) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match async { $body }.await {
                Err(error) if tries < $crate::conflict::TRIES && $crate::conflict::is_lost_race(&error) => {
                    let wait = std::time::Duration::from_millis(rand::random_range(0..=u64::from(tries) * 4));
                    tokio::time::sleep(wait).await;
                }
                other => break other,
            }
        }
    }};
}
pub(crate) use retry_on_conflict;
