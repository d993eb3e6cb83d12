//! Programs within one machine kept apart from each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Qemu;
use ostler_sandbox::conformance::{Subject, programs_can_be_isolated};
use ostler_test_kit::require;

#[tokio::test]
async fn programs_of_a_machine_can_be_isolated() {
    require!(Qemu);
    let subject = Qemu::new();
    programs_can_be_isolated(&subject, subject.template()).await;
}
