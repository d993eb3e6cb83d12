//! Test suites that nobody here wrote.

use crate::{Part, cache_dir, engine::hash};
use std::path::PathBuf;

/// The directory that `scripts/real-suites` fills, as its head says.
pub fn suites_dir() -> PathBuf {
    Part::Suites.demand();
    dir()
}

/// Where it is, by the script as it was when this was compiled.
pub(crate) fn dir() -> PathBuf {
    let script = hash(include_bytes!("../../../scripts/real-suites"));
    cache_dir().join(format!("suites-{script}"))
}
