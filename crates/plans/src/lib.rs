//! Test plans: what a person writes in TOML, YAML or JSON, and the list of tests that it stands for.
//!
//! Text becomes a tree that knows where each value stands (one small reader per format), the tree becomes typed fields,
//! and these expand into a [`Plan`]. All formats share everything after the tree, so they cannot mean different things,
//! and every mistake is told with its line. The crate is pure: it reads no files and knows no clock.

mod build;
mod combine;
mod error;
mod expand;
mod fields;
mod file;
mod format;
mod graph;
mod needs;
mod paths;
mod plan;
mod schema;
mod select;
mod substitute;
mod tree;
mod values;

pub use error::{PlanError, PlanErrors};
pub use format::Format;
pub use plan::{Plan, PlannedCommand, PlannedTest, test_key};
pub use schema::schema;

/// What bounds a plan, so that a small text cannot become an unbounded amount of work.
pub mod limits {
    /// Longest text of a plan, bytes.
    pub const TEXT: usize = 16 << 20;
    /// Most tests of one plan, after expansion.
    pub const TESTS: usize = 100_000;
    /// Most combinations of one matrix.
    pub const COMBINATIONS: usize = 10_000;
    /// Most dependencies between the tests of one plan, after expansion.
    pub const NEEDS: usize = 1_000_000;
    /// Longest text of one field after substitution, bytes.
    pub const FIELD: usize = 1 << 20;
    /// Longest sum of all texts after expansion, bytes.
    pub const EXPANDED: usize = 256 << 20;
    /// Longest list of the items of one test, bytes: a part of it is the value of an environment variable.
    pub const ITEMS: usize = 100 << 10;
    /// Longest name of a test, before and after expansion, bytes.
    pub const NAME: usize = 500;
    /// Most problems that are told at once.
    pub const PROBLEMS: usize = 50;
    /// How deep tables and lists may stand in each other.
    pub const DEPTH: usize = 32;
}
