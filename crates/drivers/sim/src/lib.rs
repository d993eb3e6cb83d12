//! The sim driver: sandboxes in memory, for tests of everything above drivers.
//!
//! The guest protocol is served for real, over streams in memory; only the programs are simulated ([`Program`]). All
//! sandboxes live in a world that a test holds as [`SimControl`]: a second driver over the same world is what a restarted
//! server sees. Failures are ordered there too.

mod control;
mod driver;
mod exec;
mod files;
mod guest;
mod programs;
mod tunnel;

pub use control::{Often, SimControl};
pub use driver::SimDriver;
pub use files::Files;
pub use programs::{Invocation, Program};
