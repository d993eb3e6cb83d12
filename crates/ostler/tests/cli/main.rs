//! The command line through the real binary: a server with the simulated driver (where programs have to be real, with the
//! process driver), and every verb as a person uses it.

#![allow(clippy::unwrap_used, reason = "test code")]

mod access;
mod agents;
mod local;
mod mistakes;
mod runs;
mod shell;
mod streams;
mod support;
mod tasks;
mod test_bisect;
mod test_checks;
mod test_choices;
mod test_files;
mod test_mistakes;
mod test_run;
mod tokens;
