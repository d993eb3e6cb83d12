//! The driver conformance suite over the strict server, with the real guest. That limits come from a machine's size cannot
//! be seen without machines; here the cgroups that the jailer makes are what limits.

mod common;

ostler_sandbox::driver_conformance!(common::Machines::new());
