//! Lost races: read again and decide again.

use crate::{ControlError, Result};
use ostler_store::StoreError;

/// How often a use case that lost a race starts again. Races are between a person and a reconciler, so that more than
/// two in a row are a sign of something else.
const TRIES: u32 = 8;

/// Runs `attempt` again as long as it loses races.
pub(crate) async fn retry_on_conflict<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match attempt().await {
            Err(ControlError::Store(StoreError::Conflict { .. })) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    attempt().await
}
