//! The scheduler's rules, each as a property over generated sequences in a simulated world, and its reasons by example.

mod checks;
mod drive;
mod generated;
mod long_runs;
mod reasons;
mod sim;
