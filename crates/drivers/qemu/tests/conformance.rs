//! The driver conformance suite with real machines.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

ostler_sandbox::driver_conformance!({
    ostler_test_kit::require!(Qemu);
    common::Qemu::new()
});
