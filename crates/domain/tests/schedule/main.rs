//! The scheduler's rules, each as a property over generated sequences in a simulated world, and its reasons by example.

#![allow(clippy::unwrap_used, reason = "test code")]

mod checks;
mod drive;
mod generated;
mod long_runs;
mod reasons;
mod sim;
