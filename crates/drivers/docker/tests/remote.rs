//! The driver conformance suite on containers of an engine that is reached by TLS and sees no directory of this host.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

ostler_sandbox::driver_conformance!(common::Containers::remote());
