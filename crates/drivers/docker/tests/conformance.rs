//! The driver conformance suite on containers of an engine of this host.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

ostler_sandbox::driver_conformance!(common::Containers::local());
