//! The program inside a sandbox: it executes programs, moves files, and carries connections out.
//!
//! It is one small static binary with several names. As `ostler-guest --run DIR --workspace DIR` it serves the guest
//! protocol on `DIR/guest.sock`. Each program that it executes has a supervisor of its own, a second process of the same
//! binary, to which everything that the program leaves behind falls: so the whole tree of a program is known at any time,
//! also what called `setsid` or forked twice. As `bd` or `orchestrator` it is a client that asks the server through the
//! first one.
//!
//! Programs are never held up by who reads them: output goes to memory and from there to disk, and when that is full the
//! oldest is dropped, which readers are told.
//!
//! Everything runs on one thread, so that whatever happens between two waits happens at once.

mod collect;
mod exec;
mod files;
mod filter;
mod glob;
mod init;
mod isolation;
mod output;
mod processes;
mod relay;
mod renew;
mod rights;
mod serial;
mod serve;
mod service;
mod supervisor;
mod terminal;
mod tool;
mod tunnels;
mod vsock;

pub use init::{init, power_off};
pub use relay::relay;
pub use rights::User;
pub use serve::{Options, serve};
pub use supervisor::supervise;
pub use tool::call_tool;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The names under which the binary is a client of the server's tools.
pub const TOOLS: [&str; 2] = ["bd", "orchestrator"];

/// Name of the socket, in the run directory, that the tools connect to.
const CONTROL_SOCKET: &str = "control.sock";
/// Tells the tools where that socket is.
const CONTROL_VARIABLE: &str = "OSTLER_CONTROL";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and the values are valid after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
