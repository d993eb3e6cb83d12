//! Git operations, worktrees, merge requests of the local forge, and the issue graph.
//!
//! - [`git`]: the real `git` program, run in isolation.
//! - [`Source`]: where a project comes from.
//! - [`Repositories`] and [`Repository`]: Ostler's clones, which are the forge's repositories: sync, worktrees,
//!   bundles for sandboxes, diffs, merges.
//! - [`project_file`]: the `ostler.toml` of a repository.
//! - [`issues`]: the built-in issue graph with the `bd` command line. Pure.

mod error;
pub mod git;
pub mod issues;
mod lock;
mod names;
pub mod project_file;
mod repository;
mod scratch;
mod source;

pub use error::{ForgeError, Result};
pub use names::check_branch;
pub use repository::*;
pub use source::{Remote, Source};
