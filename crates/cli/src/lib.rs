//! The command line of the HTTP interface: `ostler <noun> <verb>`.
//!
//! Data goes to standard output and everything else to standard error; with `--json`, standard output holds JSON only.
//! The codes that commands end with are in [`EXIT_CODES`].

mod commands;
mod context;
mod error;
mod exit;
mod input;
mod log;
mod output;
mod progress;
mod resolve;
mod table;
mod when;

pub use commands::{Command, run};
pub use context::Context;
pub use exit::EXIT_CODES;
