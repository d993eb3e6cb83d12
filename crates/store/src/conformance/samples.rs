//! Values to store: one with every optional field set, one with none.

mod access;
mod fleet;
mod runs;
mod work;

pub(super) use access::*;
pub(super) use fleet::*;
pub(super) use runs::*;
pub(super) use work::*;

use ostler_domain::Timestamp;

/// A text with everything that quoting or encoding could spoil.
pub(super) const AWKWARD: &str = "it's \"quoted\"\\ \n\t$1 ? % _ ü 漢 🐎 NULL";

pub(super) fn at(micros: i64) -> Timestamp {
    Timestamp(micros)
}

fn either<T>(full: bool, set: T, unset: T) -> T {
    if full { set } else { unset }
}
