//! Storage: what is kept, as traits with two hand-written backends and one conformance suite.
//!
//! Ordinary rows (projects, tasks, sandboxes ...) are [`Record`]s: read with [`Filter`]s, and changed by committing a
//! list of typed [`Change`]s in one transaction, each update guarded by the version that was read. A use case is
//! therefore: read, decide with pure functions, commit; a lost race is [`StoreError::Conflict`] and the use case runs
//! again. What needs more than that, because it is hot or must be one atomic statement, is a method of its own: the run
//! queue ([`RunQueue`]) and the claim of a sandbox ([`Store::claim_sandbox`]).

mod change;
mod column;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod filter;
mod record;
mod runs;
mod scope;
mod traits;

pub use change::*;
pub use column::*;
pub use error::StoreError;
pub use filter::*;
pub use record::*;
pub use runs::*;
pub use scope::*;
pub use traits::*;
