//! The driver conformance suite on sandboxes made of namespaces.

mod common;

ostler_sandbox::driver_conformance!(common::Process::new(ostler_driver_process::Mode::Namespaces));
