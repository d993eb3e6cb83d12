//! What is done again and again by itself, and how it is doing.

use crate::{Caller, Control, Result};
use ostler_contracts::ReconcilerView;
use ostler_domain::Permission;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The last round of each reconciler of this server, by name. It is not kept over a restart: every reconciler makes a
/// round at start.
#[derive(Debug, Default)]
pub(crate) struct Reconcilers(Mutex<BTreeMap<String, ReconcilerView>>);

impl Control {
    /// Notes a round: when it started, and how many things it changed or why it failed.
    pub fn reconciled<E: Display>(
        &self,
        name: &str,
        started: Instant,
        result: &std::result::Result<usize, E>,
    ) {
        let mut all = self.reconcilers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry(name.to_owned()).or_insert_with(|| ReconcilerView {
            name: name.to_owned(),
            last_run: None,
            duration_ms: 0,
            summary: String::new(),
            error: None,
            rounds: 0,
        });
        entry.last_run = Some(self.now().into());
        entry.duration_ms = started.elapsed().as_millis() as u64;
        entry.rounds += 1;
        match result {
            Ok(0) => (entry.summary, entry.error) = ("nothing to do".to_owned(), None),
            Ok(count) => (entry.summary, entry.error) = (format!("{count} changed"), None),
            // The summary stays that of the last round that did not fail.
            Err(error) => entry.error = Some(error.to_string()),
        }
    }

    /// How each reconciler of this server is doing, by name; those that have made a round.
    pub fn reconcilers(&self, caller: &Caller) -> Result<Vec<ReconcilerView>> {
        caller.require(Permission::FleetRead)?;
        let all = self.reconcilers.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.values().cloned().collect())
    }
}
