//! Cgroups: limits, freezing and killing of everything in a sandbox, on version 1, version 2 and hosts that mount both.
//!
//! A sandbox has one directory per usable hierarchy: `<hierarchy>/ostler-<instance>/<sandbox id>`. Hybrid hosts hold the
//! controllers in version 1 and an empty version 2 beside them; the latter is used too, for its atomic kill.

mod group;
mod host;
mod usage;

pub use group::Group;
pub use host::{Host, Limits};
