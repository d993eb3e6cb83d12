//! The vocabulary of Ostler: typed ids, values and states with their transition tables.
//!
//! This crate is pure. It does no input or output, reads no clock and knows neither SQL nor HTTP nor an async
//! runtime, so that each rule in it can be tested by calling a function.

mod access;
mod backoff;
mod graph;
mod id;
mod image;
mod issue;
mod permission;
mod project;
mod requirements;
mod run;
mod sandbox;
pub mod schedule;
mod slug;
mod state;
mod test;
mod time;
mod work;

pub use access::*;
pub use backoff::Backoff;
pub use graph::{CycleError, dependency_order, find_cycle};
pub use id::*;
pub use image::*;
pub use issue::*;
pub use permission::*;
pub use project::*;
pub use requirements::*;
pub use run::*;
pub use sandbox::*;
pub use slug::{branch_name, slug};
pub use state::{IllegalTransition, UnknownText};
pub use test::*;
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use work::*;
