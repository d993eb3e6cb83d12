//! The driver conformance suite on plain processes.

mod common;

ostler_sandbox::driver_conformance!(common::Process::new(ostler_driver_process::Mode::Plain));
